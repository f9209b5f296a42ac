#include "app/config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

static const ConfigInfo CONFIG_INFOS[CONFIG_COUNT] = {
#define CONFIG_ROW(field, type, name, letter, argument, default_text, min, max, commands, help) \
    {name,         CONFIG_IS_##type,       letter,        argument,                             \
     default_text, (double)(min),          (double)(max), (uint32_t)(commands),                 \
     help,         offsetof(Config, field)},
    CONFIG_MAP(CONFIG_ROW)
#undef CONFIG_ROW
};

const ConfigInfo *config_info(ConfigOption option) {
    return &CONFIG_INFOS[option];
}

bool config_given(const Config *config, ConfigOption option) {
    return config->source[option] != CONFIG_DEFAULT;
}

/* "seed" -> "SLUICE_SEED", "max-tokens" -> "SLUICE_MAX_TOKENS". */
static void config_env_name(const ConfigInfo *info, Buf *out) {
    buf_append_text(out, "SLUICE_");
    for (const char *c = info->name; *c != '\0'; c++)
        buf_append_byte(out, *c == '-' ? '_' : (char)toupper((unsigned char)*c));
}

static Status config_bad(const ConfigInfo *info, const char *text, const char *wanted, Err *err) {
    FAIL(err, ERR_ARG, "--%s: got '%s', wanted %s", info->name, text, wanted);
}

/* The largest bound is written as a double, which rounds it up to one more than there is. */
static int64_t config_bound(double bound) {
    return bound >= (double)INT64_MAX ? INT64_MAX : (int64_t)bound;
}

static Status config_int(const ConfigInfo *info, Str text, int64_t *out, Err *err) {
    int64_t value;
    if (!str_to_i64(text, &value) || (double)value < info->min || (double)value > info->max)
        FAIL(err, ERR_ARG, "--%s: got '%.*s', wanted a whole number from %lld to %lld", info->name,
             STR_ARG(text), (long long)config_bound(info->min), (long long)config_bound(info->max));
    *out = value;
    return OK;
}

static Status config_number(const ConfigInfo *info, const char *text, double *out, Err *err) {
    double value;
    if (!str_to_f64(str_from(text), &value) || !(value >= info->min && value <= info->max))
        FAIL(err, ERR_ARG, "--%s: got '%s', wanted a number from %g to %g", info->name, text,
             info->min, info->max);
    *out = value;
    return OK;
}

static Status config_flag(const ConfigInfo *info, const char *text, bool *out, Err *err) {
    Str s = str_from(text);
    if (str_is(s, "1") || str_is(s, "true") || str_is(s, "yes")) {
        *out = true;
    } else if (str_is(s, "0") || str_is(s, "false") || str_is(s, "no")) {
        *out = false;
    } else {
        return config_bad(info, text, "true or false", err);
    }
    return OK;
}

static Status config_ints(const ConfigInfo *info, const char *text, ConfigInts *out, Err *err) {
    Str rest = str_from(text);
    out->n = 0;
    for (;;) {
        size_t comma = MIN(str_find(rest, STR_LIT(","), 0), rest.len);
        if (out->n == CONFIG_LIST_MAX) return config_bad(info, text, "at most 16 numbers", err);
        TRY(config_int(info, str_trim(str_slice(rest, 0, comma)), &out->item[out->n], err));
        out->n++;
        if (comma == rest.len) return OK;
        rest = str_slice(rest, comma + 1, rest.len);
    }
}

static Status config_texts(const ConfigInfo *info, const char *text, ConfigTexts *out, bool first,
                           Err *err) {
    if (first) {
        for (int32_t i = 0; i < out->n; i++) mem_free(out->item[i]);
        out->n = 0;
    }
    if (out->n == CONFIG_LIST_MAX) return config_bad(info, text, "at most 16 of them", err);
    out->item[out->n++] = mem_strdup(text);
    return OK;
}

/* Sets an option from text. A source overrides lower ones; TEXTS of one source add up. */
static Status config_set(Config *config, ConfigOption option, const char *text, ConfigSource source,
                         Err *err) {
    const ConfigInfo *info = config_info(option);
    void *field = (char *)config + info->offset;
    bool first = config->source[option] != source;
    config->source[option] = source;
    switch (info->type) {
        case CONFIG_IS_FLAG: return config_flag(info, text, field, err);
        case CONFIG_IS_INT: return config_int(info, str_from(text), field, err);
        case CONFIG_IS_NUMBER: return config_number(info, text, field, err);
        case CONFIG_IS_INTS: return config_ints(info, text, field, err);
        case CONFIG_IS_TEXTS: return config_texts(info, text, field, first, err);
        case CONFIG_IS_TEXT: break;
    }
    char **value = field;
    mem_free(*value);
    *value = mem_strdup(text);
    return OK;
}

static bool config_find(Str name, uint32_t command, ConfigOption *out) {
    for (int i = 0; i < CONFIG_COUNT; i++) {
        if ((CONFIG_INFOS[i].commands & command) != 0 && str_is(name, CONFIG_INFOS[i].name)) {
            *out = (ConfigOption)i;
            return true;
        }
    }
    return false;
}

static bool config_find_letter(char letter, uint32_t command, ConfigOption *out) {
    for (int i = 0; i < CONFIG_COUNT; i++) {
        if ((CONFIG_INFOS[i].commands & command) != 0 && CONFIG_INFOS[i].letter == letter) {
            *out = (ConfigOption)i;
            return true;
        }
    }
    return false;
}

/* "--name=value", "--name value", "-nvalue", "-n value". *at moves past what was taken. */
static Status config_take_option(Config *config, uint32_t command, int argc, char **argv, int *at,
                                 Err *err) {
    const char *text = argv[*at], *value = NULL;
    ConfigOption option;
    if (text[1] == '-') {
        Str name = str_from(text + 2);
        size_t equals = str_find(name, STR_LIT("="), 0);
        if (equals != SIZE_MAX) value = text + 2 + equals + 1;
        name = str_slice(name, 0, equals);
        if (!config_find(name, command, &option))
            FAIL(err, ERR_ARG, "unknown option --%.*s", STR_ARG(name));
    } else {
        if (!config_find_letter(text[1], command, &option))
            FAIL(err, ERR_ARG, "unknown option -%c", text[1]);
        if (text[2] != '\0') value = text + 2;
    }
    const ConfigInfo *info = config_info(option);
    if (info->type == CONFIG_IS_FLAG) {
        if (value == NULL) value = "true";
    } else if (value == NULL) {
        if (*at + 1 >= argc) FAIL(err, ERR_ARG, "--%s wants %s", info->name, info->argument);
        value = argv[++*at];
    }
    ++*at;
    return config_set(config, option, value, CONFIG_COMMAND_LINE, err);
}

static Status config_parse_args(Config *config, uint32_t command, int argc, char **argv, Err *err) {
    config->arg = mem_alloc((size_t)(argc + 1) * sizeof *config->arg);
    bool only_args = false;
    for (int at = 0; at < argc;) {
        if (!only_args && strcmp(argv[at], "--") == 0) {
            only_args = true;
            at++;
        } else if (!only_args && argv[at][0] == '-' && argv[at][1] != '\0') {
            TRY(config_take_option(config, command, argc, argv, &at, err));
        } else {
            config->arg[config->n_args++] = argv[at++];
        }
    }
    return OK;
}

static Status config_parse_environment(Config *config, uint32_t command, Err *err) {
    Buf name = {0};
    Status status = OK;
    for (int i = 0; i < CONFIG_COUNT && status == OK; i++) {
        const ConfigInfo *info = config_info((ConfigOption)i);
        if ((info->commands & command) == 0 || config_given(config, (ConfigOption)i)) continue;
        buf_clear(&name);
        config_env_name(info, &name);
        const char *value = getenv(name.data);
        if (value != NULL && value[0] != '\0')
            status = config_set(config, (ConfigOption)i, value, CONFIG_ENVIRONMENT, err);
    }
    buf_free(&name);
    return status;
}

/* The file to read, or NULL; *must: it was asked for, so it must be there. Caller frees. */
static char *config_file_path(const Config *config, bool *must) {
    *must = config->config_file != NULL;
    if (*must) return mem_strdup(config->config_file);
    const char *dir = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (dir != NULL && dir[0] == '/') return file_join(dir, "sluice/sluice.conf");
    return home == NULL ? NULL : file_join(home, ".config/sluice/sluice.conf");
}

static Status config_parse_line(Config *config, uint32_t command, Str line, const char *path,
                                int64_t n_line, Err *err) {
    line = str_trim(line);
    if (line.len == 0 || line.ptr[0] == '#') return OK;
    size_t equals = str_find(line, STR_LIT("="), 0);
    Str name = str_trim(str_slice(line, 0, equals));
    ConfigOption option;
    if (equals == SIZE_MAX || !config_find(name, (uint32_t)CMD_ALL, &option))
        FAIL(err, ERR_ARG, "%s:%lld: got '%.*s', wanted a line of option = value", path,
             (long long)n_line, STR_ARG(line));
    if ((config_info(option)->commands & command) == 0 || config->source[option] > CONFIG_FILE)
        return OK;
    Str value = str_trim(str_slice(line, equals + 1, line.len));
    char *text = mem_strndup(value.ptr, value.len);
    Status status = config_set(config, option, text, CONFIG_FILE, err);
    mem_free(text);
    return status;
}

static Status config_parse_file(Config *config, uint32_t command, Err *err) {
    bool must;
    char *path = config_file_path(config, &must);
    Buf text = {0};
    Status status = OK;
    if (path != NULL && (must || file_exists(path))) {
        status = file_read(&text, path, 1 << 20, err);
        Str rest = buf_str(&text);
        for (int64_t n_line = 1; status == OK && rest.len > 0; n_line++) {
            size_t end = MIN(str_find(rest, STR_LIT("\n"), 0), rest.len);
            status = config_parse_line(config, command, str_slice(rest, 0, end), path, n_line, err);
            rest = str_slice(rest, end + 1, rest.len);
        }
    }
    buf_free(&text);
    mem_free(path);
    return status;
}

Status config_parse(Config *config, uint32_t command, int argc, char **argv, Err *err) {
    *config = (Config){0};
    for (int i = 0; i < CONFIG_COUNT; i++) {
        const char *text = config_info((ConfigOption)i)->default_text;
        if (text[0] != '\0') TRY(config_set(config, (ConfigOption)i, text, CONFIG_DEFAULT, err));
    }
    TRY(config_parse_args(config, command, argc, argv, err));
    if (config->help) return OK;
    TRY(config_parse_environment(config, command, err));
    return config_parse_file(config, command, err);
}

void config_free(Config *config) {
    for (int i = 0; i < CONFIG_COUNT; i++) {
        void *field = (char *)config + CONFIG_INFOS[i].offset;
        if (CONFIG_INFOS[i].type == CONFIG_IS_TEXT) mem_free(*(char **)field);
        if (CONFIG_INFOS[i].type == CONFIG_IS_TEXTS) {
            ConfigTexts *texts = field;
            for (int32_t k = 0; k < texts->n; k++) mem_free(texts->item[k]);
        }
    }
    mem_free(config->arg);
    *config = (Config){0};
}

static void config_print_value(const ConfigInfo *info, const void *field) {
    switch (info->type) {
        case CONFIG_IS_FLAG: printf("%s", *(const bool *)field ? "true" : "false"); break;
        case CONFIG_IS_INT: printf("%lld", (long long)*(const int64_t *)field); break;
        case CONFIG_IS_NUMBER: printf("%g", *(const double *)field); break;
        case CONFIG_IS_TEXT: {
            const char *text = *(char *const *)field;
            printf("%s", text == NULL ? "" : text);
            break;
        }
        case CONFIG_IS_TEXTS: {
            const ConfigTexts *texts = field;
            for (int32_t i = 0; i < texts->n; i++)
                printf("%s%s", i > 0 ? ", " : "", texts->item[i]);
            break;
        }
        case CONFIG_IS_INTS: {
            const ConfigInts *ints = field;
            for (int32_t i = 0; i < ints->n; i++)
                printf("%s%lld", i > 0 ? "," : "", (long long)ints->item[i]);
            break;
        }
    }
}

void config_print(const Config *config, uint32_t command) {
    static const char *const sources[] = {"default", "file", "environment", "command line"};
    for (int i = 0; i < CONFIG_COUNT; i++) {
        const ConfigInfo *info = &CONFIG_INFOS[i];
        if ((info->commands & command) == 0) continue;
        printf("%s = ", info->name);
        config_print_value(info, (const char *)config + info->offset);
        printf("  # %s\n", sources[config->source[i]]);
    }
}
