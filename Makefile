# Sluice. `make help` lists the targets, CONTRIBUTING.md says when to use which.
#
# Objects live in build/$(config); the suffix of a file sets the instructions that it may use.

config ?= release
ifneq ($(filter default undefined,$(origin CC)),)
CC := gcc
endif
CLANG ?= clang
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-14 clang-format))
PYTHON ?= python3
PKG_CONFIG ?= pkg-config
OBJCOPY ?= objcopy
INSTALL ?= install
# The plugin for NVIDIA GPUs is built where nvcc 13 is found; CUDA= (empty) leaves it out.
# CUDA_ARCHS: what its kernels are compiled for (sm_89: machine code; compute_80: code that the driver
# compiles for what is newer), but those for Hopper alone.
CUDA_ARCHS ?= sm_80 sm_89 sm_90a compute_80
CUDA ?= $(patsubst %/bin/nvcc,%,$(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc)))

prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
datadir ?= $(prefix)/share
unitdir ?= $(prefix)/lib/systemd/system
DESTDIR ?=

VERSION := 0.1.0
SOVERSION := 0

CONFIGS := release debug asan tsan fuzz cov
ifeq ($(filter $(config),$(CONFIGS)),)
$(error config=$(config): wanted one of $(CONFIGS))
endif
ifeq ($(config),fuzz)
override CC := $(CLANG)
endif
# Another compiler has a folder of its own; the fuzzers have only one.
BUILD := build/$(config)$(if $(findstring clang,$(CC)),$(if $(filter fuzz,$(config)),,-clang))

LIB_PKGS := jansson libpcre2-8 libutf8proc
APP_PKGS := libedit libmicrohttpd gnutls libzmq
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(LIB_PKGS) $(APP_PKGS) 2>/dev/null)
LIB_LIBS := $(shell $(PKG_CONFIG) --libs $(LIB_PKGS) 2>/dev/null) -lm -ldl
APP_LIBS := $(shell $(PKG_CONFIG) --libs $(APP_PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wvla -Werror
BASE_CFLAGS := -std=c17 -D_GNU_SOURCE -march=x86-64-v2 -fno-math-errno -fno-trapping-math \
  -ffp-contract=off -fPIC -fvisibility=hidden -fstack-protector-strong -pthread -MMD -MP -Isrc -Iinclude
CFLAGS_release := -O2 -g1 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-clash-protection -fcf-protection
CFLAGS_debug := -O0 -g3 -DSLUICE_DEBUG
CFLAGS_asan := -O2 -g -DSLUICE_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all \
  -fno-omit-frame-pointer
CFLAGS_tsan := -O2 -g -DSLUICE_DEBUG -fsanitize=thread
CFLAGS_fuzz := -O1 -g -DSLUICE_DEBUG -fsanitize=address,undefined,fuzzer-no-link \
  -fno-sanitize-recover=all
CFLAGS_cov := -O1 -g -DSLUICE_DEBUG --coverage
# What the linker must know of the compiler's flags: the sanitizers and coverage.
LINK_CFLAGS := $(filter -fsanitize=% -fno-sanitize% --coverage,$(CFLAGS_$(config)))
HARDEN_LDFLAGS := -Wl,-z,relro,-z,now -Wl,-z,noexecstack -Wl,--build-id=sha1

ALL_CFLAGS = $(BASE_CFLAGS) $(WARN) $(CFLAGS_$(config)) $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(LINK_CFLAGS) $(HARDEN_LDFLAGS) -pthread $(LDFLAGS)

LEVEL_CFLAGS = $(if $(findstring _avx512.c,$<),-march=x86-64-v4 -mavx512vnni -mavx512bf16 -mprefer-vector-width=512) \
  $(if $(findstring _avx2.c,$<),-march=x86-64-v3) \
  $(if $(findstring _amx.c,$<),-march=sapphirerapids -mno-avx512fp16)

# Sanitizers and other compilers see the host's code only.
ifneq ($(BUILD),build/release)
override CUDA :=
endif
CUDA_SRC := $(if $(CUDA),$(sort $(wildcard src/ops/cuda/*.cu)))
LIB_SRC := $(sort $(filter-out src/app/%,$(wildcard src/*/*.c src/*/*/*.c)))
APP_SRC := $(sort $(wildcard src/app/*.c))
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
# A *_tmpl.h is a source that each level compiles, not a header that stands alone.
HEADERS := $(sort $(filter-out %_tmpl.h,$(wildcard include/*.h src/*/*.h src/*/*/*.h tests/*.h tests/*/*.h)))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
# What libsluice is made of: the engine and what stands below it.
PUBLIC_OBJ := $(filter-out $(BUILD)/src/server/% $(BUILD)/src/compress/%,$(LIB_OBJ))
APP_OBJ := $(APP_SRC:%.c=$(BUILD)/%.o)
# Programs that call the kernels of the plugin directly.
CUDA_TESTS := $(if $(CUDA),$(patsubst %.cu,$(BUILD)/%,$(wildcard tests/cuda/test_*.cu)))
CUDA_BENCHES := $(if $(CUDA),$(patsubst %.cu,$(BUILD)/%,$(wildcard bench/bench_*.cu)))
TESTS := $(TEST_SRC:%.c=$(BUILD)/%) $(BUILD)/tests/sim/sim $(CUDA_TESTS)
FUZZERS := $(FUZZ_SRC:%.c=$(BUILD)/%)
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/bench_*.c)) $(CUDA_BENCHES)
LIB_A := $(BUILD)/libsluice-internal.a
CUDA_SO := $(if $(CUDA),$(BUILD)/libsluice_cuda.so)
CUDA_OBJ := $(CUDA_SRC:%.cu=$(BUILD)/%.o)

# V=1 shows the commands.
ifeq ($(V),)
say = @echo "  $(1)" $(patsubst $(BUILD)/%,%,$@) &&
endif

.DELETE_ON_ERROR:
.SECONDARY:

.PHONY: all
all: $(BUILD)/sluice $(BUILD)/libsluice.a $(BUILD)/libsluice.so.$(SOVERSION) $(CUDA_SO) ## build everything; the release binary is build/sluice
ifeq ($(BUILD),build/release)
	@ln -sf release/sluice build/sluice
endif

# The page is part of the program.
$(BUILD)/src/server/web.o: $(wildcard web/*)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) $(LEVEL_CFLAGS) -c $< -o $@

$(BUILD)/tests/%.o: BASE_CFLAGS += -Itests

# Files of instructions that only Hopper has; the others are compiled for all of CUDA_ARCHS.
CUDA_HOPPER := cuda_linear% cuda_attn% cuda_probe_sm90% test_cuda% bench_cuda%
cuda_archs = $(if $(filter $(CUDA_HOPPER),$(notdir $<)),sm_90a,$(CUDA_ARCHS))
gencode = -gencode=arch=$(patsubst sm_%,compute_%,$(1)),code=$(1)

# Only these files see CUDA's headers. They are C++ to the compiler, but need no C++ library.
NVCC_FLAGS := -std=c++17 -O3 -lineinfo --expt-relaxed-constexpr --compress-mode=size \
  -cudart static -Isrc -D_GNU_SOURCE -Xcompiler -fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-fPIC,-fvisibility=hidden,-O2

$(BUILD)/%.o: %.cu Makefile
	@mkdir -p $(@D)
	$(call say,NVCC)$(CUDA)/bin/nvcc $(NVCC_FLAGS) $(foreach a,$(cuda_archs),$(call gencode,$(a))) -MMD -MP -MT $@ -MF $(@:.o=.d) -c $< -o $@

CUDA_LIBS = $(firstword $(wildcard $(CUDA)/lib64/libcudart_static.a $(CUDA)/lib/libcudart_static.a)) -lm -ldl -lrt

# Loaded at run time by ops/plugin.c; what it needs of the library is its own copy.
$(BUILD)/libsluice_cuda.so: $(CUDA_OBJ) $(LIB_A)
	$(call say,LD)$(CC) $(HARDEN_LDFLAGS) -pthread -shared -Wl,--exclude-libs,ALL -o $@ $^ $(CUDA_LIBS)

$(BUILD)/tests/cuda/%.o $(BUILD)/bench/%.o: NVCC_FLAGS += -Itests

$(CUDA_TESTS) $(CUDA_BENCHES): %: %.o $(CUDA_OBJ) $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(CUDA_LIBS) -lcmocka

# For the program and the tests: every function of the library.
$(LIB_A): $(LIB_OBJ)
	@rm -f $@
	$(call say,AR)$(AR) rcs $@ $^

# For others: one object in which only the public functions have names.
$(BUILD)/libsluice.a: $(PUBLIC_OBJ)
	@rm -f $@
	$(call say,AR)$(CC) -r -nostdlib -o $(BUILD)/libsluice.o $^ && \
	  $(OBJCOPY) --localize-hidden $(BUILD)/libsluice.o && \
	  $(AR) rcs $@ $(BUILD)/libsluice.o

$(BUILD)/libsluice.so.$(SOVERSION): $(PUBLIC_OBJ) src/sluice.map
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -shared -Wl,-soname,libsluice.so.$(SOVERSION) \
	  -Wl,--version-script,src/sluice.map -o $@ $(PUBLIC_OBJ) $(LIB_LIBS)
	@ln -sf libsluice.so.$(SOVERSION) $(BUILD)/libsluice.so

$(BUILD)/sluice: $(APP_OBJ) $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -pie -o $@ $^ $(LIB_LIBS) $(APP_LIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -pie -o $@ $^ $(LIB_LIBS) $(APP_LIBS) -lcmocka

# The level amx on tiles of software: its kernels compiled with calls for the instructions.
TILE_TESTS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/tiles/test_*.c))
TILE_OBJ := $(addprefix $(BUILD)/tests/tiles/,cpu_linear_half_amx.o cpu_linear_block_amx.o cpu_detect.o tile_model.o)

$(BUILD)/tests/tiles/cpu_%.o: src/ops/cpu/cpu_%.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) -include tests/tiles/tile_model.h -Dcpu_detect=cpu_detect_host $(ALL_CFLAGS) $(LEVEL_CFLAGS) -c $< -o $@

$(TILE_TESTS): %: %.o $(TILE_OBJ) $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -pie -o $@ $^ $(LIB_LIBS) -lcmocka

# Programs that measure one part; they use what the tests share.
$(BUILD)/bench/%.o: BASE_CFLAGS += -Itests

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -pie -o $@ $^ $(LIB_LIBS) -lcmocka

.PHONY: benches
benches: $(BENCHES) ## build the programs of bench/

# With config=fuzz a fuzzer; in every other config a program that runs it over a corpus.
ifeq ($(config),fuzz)
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIB_LIBS) $(APP_LIBS)
else
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o $(LIB_A)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -pie -o $@ $^ $(LIB_LIBS) $(APP_LIBS)
endif

.PHONY: run
run: ## install what is missing, build, chat with the default model
	@tools/setup.sh build
	@$(MAKE) --no-print-directory -j$$(nproc) config=release all
	build/sluice run

.PHONY: test
test: ## install what is missing, build, run every test (config=... picks the build)
	@tools/setup.sh test
	@$(MAKE) --no-print-directory -j$$(nproc) all tests
	@tests/run_all $(BUILD) "$(CC)"

.PHONY: check
check: ## what CI runs on a change: format, tidy, headers, tests
	@tools/setup.sh check
	@$(MAKE) --no-print-directory static
	@$(MAKE) --no-print-directory test

.PHONY: static
static: ## the part of check that runs nothing: format, tidy, headers
	@$(MAKE) --no-print-directory format-check
	@$(MAKE) --no-print-directory tidy
	@$(MAKE) --no-print-directory -j$$(nproc) headers
	@echo "headers: $(words $(HEADERS)), ok"

.PHONY: tests
tests: $(TESTS) $(FUZZERS) ## build the test programs

.PHONY: unit
unit: all tests ## run the unit tests of this config (only=PATTERN picks)
	@tests/run_unit $(BUILD) $(only)

.PHONY: fuzz
fuzz: ## fuzz each target for seconds=N (10), starting from its corpus (only=NAME picks)
	@tools/setup.sh fuzz
	@$(MAKE) --no-print-directory -j$$(nproc) config=fuzz tests
	@tests/fuzz/run_fuzz build/fuzz $(or $(seconds),10) $(only)

.PHONY: same-bits
same-bits: $(BUILD)/tests/engine/test_same_bits ## requests=N (200) in every setting of the engine against each alone (minutes)
	SLUICE_SAME_BITS=$(or $(requests),200) $(BUILD)/tests/engine/test_same_bits

.PHONY: sim
sim: $(BUILD)/tests/sim/sim ## simulate seeds=N new worlds (20000) and add them to tests/sim/totals.csv
	@tests/sim/run_sim $(BUILD) $(or $(seeds),20000)

.PHONY: mutants
mutants: $(BUILD)/tests/sim/sim ## plant the bugs of tests/sim/mutants and see which the simulator finds
	@tests/sim/run_mutants $(BUILD) "$(CC)"

.PHONY: load
load: all tests ## the server under load for minutes: streams, overload, clients that leave, kill -9
	SLUICE_LOAD=long $(BUILD)/tests/server/test_load
	SLUICE_LOAD=long SLUICE=$(BUILD)/sluice $(PYTHON) tests/server/test_abuse.py -v

.PHONY: bench
bench: all ## measure prefill and decode of the default model
	$(BUILD)/sluice bench

.PHONY: eval
eval: tests ## reproduce the published losses of the shared models over all 64 windows (minutes)
	@SLUICE_EVAL_WINDOWS=64 $(BUILD)/tests/model/test_shared_models

.PHONY: cov
cov: ## test coverage of each source file
	@$(MAKE) --no-print-directory -j$$(nproc) config=cov all tests
	@find build/cov -name '*.gcda' -delete
	@tests/run_unit build/cov | tail -n 1
	@tools/cov.py build/cov

.PHONY: headers
headers: $(HEADERS:%=$(BUILD)/headers/%.ok) ## each header compiles alone

$(BUILD)/headers/%.ok: %
	@mkdir -p $(@D)
	@echo '#include "$<"' | $(CC) -I. -Itests $(BASE_CFLAGS) $(WARN) $(PKG_CFLAGS) \
	  $(if $(findstring avx512,$<),-march=x86-64-v4) $(if $(findstring avx2,$<),-march=x86-64-v3) \
	  -MF $(@:.ok=.d) -MT $@ -fsyntax-only -x c -
	@touch $@

.PHONY: tidy
tidy: ## the rules of STYLE.md that a program can check
	@$(PYTHON) tools/tidy.py

.PHONY: format
format: ## lay out every C file with clang-format 14
	@$(CLANG_FORMAT) -i $$(tools/tidy.py --list-c)

.PHONY: format-check
format-check:
	@$(CLANG_FORMAT) --version | grep -q 'version 14\.' || { echo "format: needs clang-format 14"; exit 1; }
	@bad=$$($(CLANG_FORMAT) --dry-run $$(tools/tidy.py --list-c) 2>&1 | sed -n 's/^\([^: ]*\):\([0-9]*\):.*/\1/p' | uniq -c); \
	  [ -z "$$bad" ] || { echo "format: lines that 'make format' would change:"; echo "$$bad"; exit 1; }
	@echo "format: ok"

MODEL := $(wildcard models/*.gguf models/*.md)

.PHONY: install
install: all ## install below DESTDIR and prefix
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir) \
	  $(DESTDIR)$(datadir)/sluice $(DESTDIR)$(datadir)/man/man1 $(DESTDIR)$(unitdir) \
	  $(DESTDIR)$(datadir)/bash-completion/completions $(DESTDIR)$(datadir)/zsh/site-functions \
	  $(DESTDIR)$(datadir)/fish/vendor_completions.d
	$(INSTALL) -m 755 $(BUILD)/sluice $(DESTDIR)$(bindir)/sluice
	$(INSTALL) -m 644 include/sluice.h $(DESTDIR)$(includedir)/sluice.h
	$(INSTALL) -m 644 $(BUILD)/libsluice.a $(DESTDIR)$(libdir)/libsluice.a
	$(INSTALL) -m 755 $(BUILD)/libsluice.so.$(SOVERSION) $(DESTDIR)$(libdir)/libsluice.so.$(VERSION)
	$(if $(CUDA_SO),$(INSTALL) -m 755 $(CUDA_SO) $(DESTDIR)$(libdir)/libsluice_cuda.so)
	ln -sf libsluice.so.$(VERSION) $(DESTDIR)$(libdir)/libsluice.so.$(SOVERSION)
	ln -sf libsluice.so.$(SOVERSION) $(DESTDIR)$(libdir)/libsluice.so
	sed -e 's|@prefix@|$(prefix)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|' \
	  -e 's|@version@|$(VERSION)|; s|@requires@|$(LIB_PKGS)|' tools/sluice.pc.in \
	  >$(DESTDIR)$(libdir)/pkgconfig/sluice.pc
	$(BUILD)/sluice man >$(DESTDIR)$(datadir)/man/man1/sluice.1
	$(BUILD)/sluice completion bash >$(DESTDIR)$(datadir)/bash-completion/completions/sluice
	$(BUILD)/sluice completion zsh >$(DESTDIR)$(datadir)/zsh/site-functions/_sluice
	$(BUILD)/sluice completion fish >$(DESTDIR)$(datadir)/fish/vendor_completions.d/sluice.fish
	sed -e 's|@bindir@|$(bindir)|' etc/systemd/sluice.service.in >$(DESTDIR)$(unitdir)/sluice.service
	$(INSTALL) -m 644 etc/grafana/sluice.json $(DESTDIR)$(datadir)/sluice/grafana.json
	$(INSTALL) -m 644 etc/prometheus/sluice.rules.yml $(DESTDIR)$(datadir)/sluice/prometheus.rules.yml
	$(if $(MODEL),$(INSTALL) -m 644 $(MODEL) $(DESTDIR)$(datadir)/sluice/)

.PHONY: uninstall
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(bindir)/sluice $(DESTDIR)$(includedir)/sluice.h \
	  $(DESTDIR)$(libdir)/libsluice_cuda.so \
	  $(DESTDIR)$(libdir)/libsluice.a $(DESTDIR)$(libdir)/libsluice.so $(DESTDIR)$(libdir)/libsluice.so.$(SOVERSION) \
	  $(DESTDIR)$(libdir)/libsluice.so.$(VERSION) $(DESTDIR)$(libdir)/pkgconfig/sluice.pc \
	  $(DESTDIR)$(datadir)/man/man1/sluice.1 $(DESTDIR)$(datadir)/bash-completion/completions/sluice \
	  $(DESTDIR)$(datadir)/zsh/site-functions/_sluice $(DESTDIR)$(datadir)/fish/vendor_completions.d/sluice.fish
	rm -f $(DESTDIR)$(unitdir)/sluice.service
	rm -rf $(DESTDIR)$(datadir)/sluice

.PHONY: clean
clean: ## remove build/
	rm -rf build

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
