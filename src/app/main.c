/* main: picks the subcommand, parses its options, prints its failure. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/cmd.h"
#include "app/help.h"
#include "sluice.h"

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static const Command *main_find_command(const char *name) {
    int32_t n;
    const Command *table = cmd_table(&n);
    for (int32_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

/* Options are parsed: checks the arguments and runs. */
static int main_run(const Command *command, const Config *config) {
    if (config->help) {
        help_print_command(stdout, command);
        return EXIT_OK;
    }
    if (config->n_args < command->n_args_min || config->n_args > command->n_args_max) {
        fprintf(stderr, "sluice %s: wants %s (see sluice %s --help)\n", command->name,
                command->arguments[0] != '\0' ? command->arguments : "no arguments", command->name);
        return EXIT_USAGE;
    }
    if (config->print_config) {
        config_print(config, command->bit);
        return EXIT_OK;
    }
    Err err = {0};
    Status status = command->run(config, &err);
    if (status != OK) {
        fprintf(stderr, "sluice %s: %s\n", command->name, err.text);
        return status == ERR_ARG ? EXIT_USAGE : EXIT_FAILED;
    }
    if (fflush(stdout) != 0) {
        fprintf(stderr, "sluice %s: cannot write to standard output\n", command->name);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

/* A model file was cut short, or its disk failed, while it was mapped. Nothing that was computed
 * from it can be trusted or finished: stop, for a supervisor to start again. */
static void main_on_bus_error(int number) {
    (void)number;
    static const char text[] =
        "sluice: a model file can no longer be read: it was cut short or its disk failed\n";
    ssize_t unused = write(STDERR_FILENO, text, sizeof text - 1);
    (void)unused;
    _exit(EXIT_FAILED);
}

int main(int argc, char **argv) {
    /* A reader that leaves shows as a write error, not as a dead process. */
    signal(SIGPIPE, SIG_IGN);
    /* So does a file that may not grow further. */
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGBUS, main_on_bus_error);
    if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        const Command *command = argc > 2 ? main_find_command(argv[2]) : NULL;
        if (command != NULL) {
            help_print_command(stdout, command);
        } else {
            help_print_commands(argc < 2 ? stderr : stdout);
        }
        return argc < 2 ? EXIT_USAGE : EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("sluice %s\n", sluice_version());
        return EXIT_OK;
    }
    const Command *command = main_find_command(argv[1]);
    if (command == NULL) {
        fprintf(stderr, "sluice: unknown command '%s' (see sluice help)\n", argv[1]);
        return EXIT_USAGE;
    }
    Err err = {0};
    Config config;
    int code;
    if (config_parse(&config, command->bit, argc - 2, argv + 2, &err) != OK) {
        fprintf(stderr, "sluice %s: %s (see sluice %s --help)\n", command->name, err.text,
                command->name);
        code = EXIT_USAGE;
    } else {
        code = main_run(command, &config);
    }
    config_free(&config);
    return code;
}
