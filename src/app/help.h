/* help: what the option table says to people: --help, the manual page, shell completions. */
#pragma once

#include <stdio.h>

#include "app/cmd.h"

/* The list of commands. */
void help_print_commands(FILE *out);
/* Usage and options of one command, within 80 columns. */
void help_print_command(FILE *out, const Command *command);
