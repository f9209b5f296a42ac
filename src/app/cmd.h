/* cmd: the subcommands, one table row and one file each (cmd_NAME.c). */
#pragma once

#include "app/config.h"
#include "base/buf.h"

/* Runs the command; what it has to say goes to standard output, progress and remarks to standard
 * error. A failure's sentence is printed by main. */
typedef Status (*CommandRun)(const Config *config, Err *err);

typedef struct Command {
    const char *name;
    uint32_t bit;          /* CommandBit, picks the options */
    const char *arguments; /* positional ones, for the usage line */
    int32_t n_args_min, n_args_max;
    const char *summary; /* one line */
    const char *details; /* more for --help and the man page, or "" */
    CommandRun run;
} Command;

/* The table; *n rows. */
const Command *cmd_table(int32_t *n);

Status cmd_inspect(const Config *config, Err *err);
Status cmd_run(const Config *config, Err *err);
Status cmd_serve(const Config *config, Err *err);
Status cmd_eval(const Config *config, Err *err);
Status cmd_bench(const Config *config, Err *err);
Status cmd_render(const Config *config, Err *err);
Status cmd_convert(const Config *config, Err *err);
Status cmd_bench_engine(const Config *config, Err *err);
Status cmd_bench_serve(const Config *config, Err *err);
/* Writes out to standard output and frees it. */
Status cmd_tokenize_print(Buf *out, Err *err);
Status cmd_tokenize(const Config *config, Err *err);
Status cmd_detokenize(const Config *config, Err *err);
Status cmd_replay(const Config *config, Err *err);
/* A hash of the program's own file: which build this is. */
MUST_USE Status cmd_binary_hash(uint64_t *out, Err *err);
Status cmd_simulate(const Config *config, Err *err);
Status cmd_completion(const Config *config, Err *err);
Status cmd_man(const Config *config, Err *err);

/* The model argument: the first positional one, or the model that ships with Sluice, found beside
 * the source tree's build folder or under the installed prefix. The caller frees with mem_free. */
MUST_USE Status cmd_model_path(const Config *config, char **out, Err *err);
