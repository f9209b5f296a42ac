# Sluice. `make help` lists the targets. One Makefile; objects live in build/$(config).

config ?= release
CC ?= gcc
CLANG ?= clang
PYTHON ?= python3
prefix ?= /usr/local
libdir ?= $(prefix)/lib
DESTDIR ?=
VERSION := 0.1.0
SOVERSION := 0

BUILD := build/$(config)
PKGS := jansson libpcre2-8 libutf8proc libedit
PKG_CONFIG ?= pkg-config

WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wvla -Werror
BASE_CFLAGS := -std=c17 -D_GNU_SOURCE -march=x86-64-v2 -fno-math-errno -fno-trapping-math \
  -ffp-contract=off -fPIC -fvisibility=hidden -fstack-protector-strong -pthread -MMD -MP -Isrc -Iinclude
CFLAGS_release := -O2 -g1 -D_FORTIFY_SOURCE=2
CFLAGS_debug := -O0 -g3 -DSLUICE_DEBUG
CFLAGS_asan := -O1 -g -DSLUICE_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all \
  -fno-omit-frame-pointer
CFLAGS_tsan := -O1 -g -DSLUICE_DEBUG -fsanitize=thread
CFLAGS_fuzz := -O1 -g -DSLUICE_DEBUG -fsanitize=address,undefined,fuzzer-no-link \
  -fno-sanitize-recover=all
ifeq ($(filter $(config),release debug asan tsan fuzz),)
$(error config=$(config): wanted release, debug, asan, tsan or fuzz)
endif
ifeq ($(config),fuzz)
override CC := $(CLANG)
endif

ALL_CFLAGS = $(BASE_CFLAGS) $(WARN) $(CFLAGS_$(config)) $(PKG_CFLAGS) $(CFLAGS)
PKG_CFLAGS = $(shell $(PKG_CONFIG) --cflags $(PKGS))
LDLIBS = $(shell $(PKG_CONFIG) --libs $(PKGS)) -lm -ldl
ALL_LDFLAGS = $(filter -fsanitize=% -fno-sanitize%,$(subst fuzzer-no-link,fuzzer-no-link,$(CFLAGS_$(config)))) \
  -pthread -rdynamic $(LDFLAGS)

# The suffix of a file sets the instructions it may use.
LEVEL_CFLAGS = $(if $(findstring _avx512.c,$<),-march=x86-64-v4 -mavx512vnni -mavx512bf16 -mprefer-vector-width=512) \
  $(if $(findstring _avx2.c,$<),-march=x86-64-v3) \
  $(if $(findstring _amx.c,$<),-march=sapphirerapids)

LIB_SRC := $(sort $(filter-out src/app/%,$(wildcard src/*/*.c src/*/*/*.c)))
APP_SRC := $(sort $(wildcard src/app/*.c))
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
APP_OBJ := $(APP_SRC:%.c=$(BUILD)/%.o)
TESTS := $(TEST_SRC:%.c=$(BUILD)/%)
FUZZERS := $(FUZZ_SRC:%.c=$(BUILD)/%)
EXAMPLES := $(EXAMPLE_SRC:%.c=$(BUILD)/%)

.PHONY: all
all: $(BUILD)/sluice $(BUILD)/libsluice.a $(BUILD)/libsluice.so.$(SOVERSION) ## build everything
ifeq ($(config),release)
	@ln -sf release/sluice build/sluice
endif

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LEVEL_CFLAGS) -c $< -o $@

$(BUILD)/tests/%.o: BASE_CFLAGS += -Itests

$(BUILD)/libsluice.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libsluice.so.$(SOVERSION): $(LIB_OBJ)
	$(CC) $(ALL_LDFLAGS) -shared -Wl,-soname,libsluice.so.$(SOVERSION) -o $@ $^ $(LDLIBS)
	@ln -sf libsluice.so.$(SOVERSION) $(BUILD)/libsluice.so

$(BUILD)/sluice: $(APP_OBJ) $(BUILD)/libsluice.a
	$(CC) $(ALL_LDFLAGS) -o $@ $(APP_OBJ) $(BUILD)/libsluice.a $(LDLIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libsluice.a
	$(CC) $(ALL_LDFLAGS) -o $@ $< $(BUILD)/libsluice.a $(LDLIBS) -lcmocka

.PHONY: tests
tests: $(TESTS) ## build the test programs

.PHONY: unit
unit: all tests ## run the unit tests of this config (only=PATTERN picks)
	@tests/run_unit $(BUILD) $(only)

.PHONY: clean
clean: ## remove build/
	rm -rf build

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

-include $(shell find build/$(config) -name '*.d' 2>/dev/null)
