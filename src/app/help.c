#include "app/help.h"

#include <ctype.h>

#include "base/str.h"
#include "sluice.h"

enum { HELP_COLUMNS = 80, HELP_INDENT = 30 };

void help_print_commands(FILE *out) {
    int32_t n;
    const Command *table = cmd_table(&n);
    fprintf(out, "Sluice %s: runs large language models.\n\nusage: sluice COMMAND [options]\n\n",
            sluice_version());
    for (int32_t i = 0; i < n; i++) fprintf(out, "  %-12s %s\n", table[i].name, table[i].summary);
    fprintf(out,
            "\n`sluice COMMAND --help` lists the options of a command. `sluice run` alone opens a\n"
            "chat with the model that ships with Sluice.\n");
}

/* Prints text wrapped between column `indent` and HELP_COLUMNS; the cursor stands at `column`. */
static void help_wrap(FILE *out, const char *text, int indent, int column) {
    while (*text != '\0') {
        size_t len = strcspn(text, " ");
        if (column > indent && column + 1 + (int)len > HELP_COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fwrite(text, 1, len, out);
        column += (int)len;
        text += len;
        while (*text == ' ') text++;
    }
    fputc('\n', out);
}

static void help_print_option(FILE *out, const ConfigInfo *info) {
    char left[64];
    int n = info->letter != 0 ? snprintf(left, sizeof left, "  -%c, --%s", info->letter, info->name)
                              : snprintf(left, sizeof left, "      --%s", info->name);
    if (info->argument != NULL)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", info->argument);
    fputs(left, out);
    if (n >= HELP_INDENT - 1) {
        fputc('\n', out);
        n = 0;
    }
    fprintf(out, "%*s", HELP_INDENT - n, "");
    help_wrap(out, info->help, HELP_INDENT, HELP_INDENT);
}

void help_print_command(FILE *out, const Command *command) {
    fprintf(out, "usage: sluice %s [options] %s\n\n", command->name, command->arguments);
    fprintf(out, "%c%s.\n", toupper((unsigned char)command->summary[0]), command->summary + 1);
    if (command->details[0] != '\0') help_wrap(out, command->details, 0, 0);
    fprintf(out, "\noptions:\n");
    for (int i = 0; i < CONFIG_COUNT; i++) {
        const ConfigInfo *info = config_info((ConfigOption)i);
        if ((info->commands & command->bit) != 0) help_print_option(out, info);
    }
    fprintf(out,
            "\nEach option may also come from the environment (SLUICE_TOP_K=8) or a\n"
            "configuration file (top-k = 8); the command line wins, then the environment.\n");
}

/* Roff text: a leading dot or quote and backslashes are protected. */
static void help_roff(const char *text) {
    for (bool line_start = true; *text != '\0'; text++) {
        if (line_start && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        if (*text == '\\') {
            fputs("\\e", stdout);
        } else if (*text == '-') {
            fputs("\\-", stdout);
        } else {
            fputc(*text, stdout);
        }
        line_start = *text == '\n';
    }
}

static void help_man_option(const ConfigInfo *info) {
    printf(".TP\n.B ");
    if (info->letter != 0) printf("\\-%c\\fR, \\fB", info->letter);
    printf("\\-\\-");
    help_roff(info->name);
    if (info->argument != NULL) printf(" \\fI%s\\fR", info->argument);
    printf("\n");
    help_roff(info->help);
    if (info->default_text[0] != '\0') printf(" (default: %s)", info->default_text);
    printf("\n");
}

Status cmd_man(const Config *config, Err *err) {
    (void)config;
    (void)err;
    int32_t n;
    const Command *table = cmd_table(&n);
    printf(".TH SLUICE 1 \"\" \"Sluice %s\" \"User Commands\"\n", sluice_version());
    printf(".SH NAME\nsluice \\- run large language models\n");
    printf(".SH SYNOPSIS\n.B sluice\n.I COMMAND\n[options] [arguments]\n.SH COMMANDS\n");
    for (int32_t i = 0; i < n; i++) {
        printf(".SS sluice %s [options] ", table[i].name);
        help_roff(table[i].arguments);
        printf("\n");
        help_roff(table[i].summary);
        printf(".\n");
        if (table[i].details[0] != '\0') {
            help_roff(table[i].details);
            printf("\n");
        }
        for (int k = 0; k < CONFIG_COUNT; k++) {
            const ConfigInfo *info = config_info((ConfigOption)k);
            bool shared = info->commands == (uint32_t)CMD_ALL;
            if ((info->commands & table[i].bit) != 0 && !shared) help_man_option(info);
        }
    }
    printf(".SH COMMON OPTIONS\n");
    for (int k = 0; k < CONFIG_COUNT; k++) {
        const ConfigInfo *info = config_info((ConfigOption)k);
        if (info->commands == (uint32_t)CMD_ALL) help_man_option(info);
    }
    printf(".SH ENVIRONMENT\nEach option may be given as SLUICE_NAME, capitals, with _ for -.\n");
    printf(".SH FILES\n~/.config/sluice/sluice.conf: lines of option = value.\n");
    return OK;
}

static void help_complete_bash(const Command *table, int32_t n) {
    printf("_sluice() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n");
    printf("  case ${COMP_WORDS[1]} in\n");
    for (int32_t i = 0; i < n; i++) {
        printf("  %s) words='", table[i].name);
        for (int k = 0; k < CONFIG_COUNT; k++) {
            const ConfigInfo *info = config_info((ConfigOption)k);
            if ((info->commands & table[i].bit) != 0) printf("--%s ", info->name);
        }
        printf("' ;;\n");
    }
    printf("  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words='");
    for (int32_t i = 0; i < n; i++) printf("%s ", table[i].name);
    printf(
        "'; fi\n  if [[ $cur == -* || $COMP_CWORD -eq 1 ]]; then\n"
        "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
        "  else\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\n"
        "complete -o filenames -F _sluice sluice\n");
}

/* Inside single quotes of a shell; quotes in help texts become typographic. */
static void help_print_quoted(const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            fputs("\u2019", stdout);
        } else {
            if (*text == ':' || *text == '[' || *text == ']') fputc('\\', stdout);
            fputc(*text, stdout);
        }
    }
}

static void help_complete_zsh(const Command *table, int32_t n) {
    printf(
        "#compdef sluice\n_sluice() {\n  if (( CURRENT == 2 )); then\n    local -a commands=(\n");
    for (int32_t i = 0; i < n; i++) {
        printf("      '%s:", table[i].name);
        help_print_quoted(table[i].summary);
        printf("'\n");
    }
    printf("    )\n    _describe command commands\n    return\n  fi\n  case $words[2] in\n");
    for (int32_t i = 0; i < n; i++) {
        printf("  %s) _arguments", table[i].name);
        for (int k = 0; k < CONFIG_COUNT; k++) {
            const ConfigInfo *info = config_info((ConfigOption)k);
            if ((info->commands & table[i].bit) == 0) continue;
            printf(" \\\n    '--%s[", info->name);
            help_print_quoted(info->help);
            printf("]%s'", info->argument != NULL ? ":value:_files" : "");
        }
        printf(" \\\n    '*:file:_files' ;;\n");
    }
    printf("  esac\n}\n_sluice \"$@\"\n");
}

static void help_complete_fish(const Command *table, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        printf("complete -c sluice -n __fish_use_subcommand -a %s -d '", table[i].name);
        help_print_quoted(table[i].summary);
        printf("'\n");
        for (int k = 0; k < CONFIG_COUNT; k++) {
            const ConfigInfo *info = config_info((ConfigOption)k);
            if ((info->commands & table[i].bit) == 0) continue;
            printf("complete -c sluice -n '__fish_seen_subcommand_from %s' -l %s", table[i].name,
                   info->name);
            if (info->letter != 0) printf(" -s %c", info->letter);
            printf("%s -d '", info->argument != NULL ? " -r" : "");
            help_print_quoted(info->help);
            printf("'\n");
        }
    }
}

Status cmd_completion(const Config *config, Err *err) {
    int32_t n;
    const Command *table = cmd_table(&n);
    Str shell = str_from(config->arg[0]);
    if (str_is(shell, "bash")) {
        help_complete_bash(table, n);
    } else if (str_is(shell, "zsh")) {
        help_complete_zsh(table, n);
    } else if (str_is(shell, "fish")) {
        help_complete_fish(table, n);
    } else {
        FAIL(err, ERR_ARG, "no completion for '%.*s': wanted bash, zsh or fish", STR_ARG(shell));
    }
    return OK;
}
