#include "app/cmd.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

static const Command CMD_TABLE[] = {
    {"run", CMD_RUN, "[MODEL]", 0, 1, "write with a model, or chat with it",
     "With -p, -f or text on standard input the model continues the text; otherwise a "
     "chat opens. MODEL is a Hugging Face directory or a GGUF file; without one the "
     "model that ships with Sluice runs.",
     cmd_run},
    {"serve", CMD_SERVE, "[MODEL]", 0, 1, "answer requests over the network (OpenAI's API)",
     "Listens at 127.0.0.1:8000 unless told otherwise. SIGTERM lets open requests end.", cmd_serve},
    {"eval", CMD_EVAL, "[MODEL]", 0, 1, "measure a model's perplexity on a text", "", cmd_eval},
    {"bench", CMD_BENCH, "[MODEL]", 0, 1, "measure speed beside the machine's limits", "",
     cmd_bench},
    {"bench-engine", CMD_BENCH_ENGINE, "[MODEL]", 0, 1,
     "measure what batching, pacing and the prefix cache gain",
     "Decodes side by side, a mixed load batched in three ways, a long prompt that arrives among "
     "decodes, and a shared beginning, cold and warm. With --requests: that load instead, straight "
     "to the engine, and the host's share of a step on an accelerator.",
     cmd_bench_engine},
    {"inspect", CMD_INSPECT, "[MODEL]", 0, 1, "show what a model file holds",
     "Dimensions, number formats, tokenizer and chat template of a Hugging Face directory, a "
     ".safetensors or a GGUF file. A model of an unknown family is shown as far as it goes.",
     cmd_inspect},
    {"convert", CMD_CONVERT, "HF_DIR OUT.gguf", 2, 2,
     "turn a Hugging Face model directory into a GGUF file",
     "Norms, biases, routers and learned positions stay f32; with q4_0 the embeddings take q8_0. "
     "OUT.gguf is replaced only by a complete file.",
     cmd_convert},
    {"tokenize", CMD_TOKENIZE, "MODEL [TEXT]", 1, 2, "print the token ids of a text",
     "MODEL is a model, or a tokenizer without weights: a directory, tokenizer.json, "
     "tokenizer.model, a rank file of tiktoken, a GGUF vocabulary. Without TEXT or --file the text "
     "is read from standard input. The ids are the model's for a user's text: with what its "
     "tokenizer adds around (--no-bos: without), and special tokens written in the text are plain "
     "text (--special: they are the tokens).",
     cmd_tokenize},
    {"detokenize", CMD_DETOKENIZE, "MODEL [ID...]", 1, CONFIG_ARGS_MAX,
     "print the text of token ids",
     "MODEL as for tokenize. Without IDs they are read from standard input, parted by white space "
     "or as a JSON list. Special tokens are left out unless --special is given.",
     cmd_detokenize},
    {"render", CMD_RENDER, "[MODEL|TEMPLATE.jinja]", 0, 1,
     "print a conversation as the chat template renders it",
     "The file of --messages holds an object with messages and any other variable of the template: "
     "tools, add_generation_prompt (true when it is not there), bos_token, eos_token; and now, "
     "which "
     "fixes the clock. An exception that the template raises is a failure with its text.",
     cmd_render},
    {"replay", CMD_REPLAY, "RECEIPT [MODEL]", 1, 2,
     "run a request of `serve --receipts` again and compare the tokens",
     "Says when the model, the build or what else decides the bits is not what it was. Fails at "
     "the "
     "first token that differs. MODEL: where the model is now; default: where it was.",
     cmd_replay},
    {"bench-serve", CMD_BENCH_SERVE, "", 0, 0, "load an OpenAI server and measure its answers",
     "Sends requests at their own times, however many are still running, and reports "
     "time to first token, time per output token and throughput as vLLM does.",
     cmd_bench_serve},
    {"simulate", CMD_SIMULATE, "", 0, 0, "play a load on machines that are not there",
     "Runs the real scheduler and KV cache with a clock driven by a cost model: how fast, "
     "how full, and with --replicas 0, how many machines a load needs.",
     cmd_simulate},
    {"completion", CMD_COMPLETION, "SHELL", 1, 1,
     "print the completion script of bash, zsh or fish", "", cmd_completion},
    {"man", CMD_MAN, "", 0, 0, "print the manual page, for man -l -", "", cmd_man},
};

const Command *cmd_table(int32_t *n) {
    *n = ARRAY_LEN(CMD_TABLE);
    return CMD_TABLE;
}

Status cmd_binary_hash(uint64_t *out, Err *err) {
    FileMap map;
    TRY(file_map(&map, "/proc/self/exe", err));
    *out = hash_bytes(map.data, map.size, 0);
    file_unmap(&map);
    return OK;
}

Status cmd_model_path(const Config *config, char **out, Err *err) {
    if (config->n_args > 0) {
        *out = mem_strdup(config->arg[0]);
        return OK;
    }
    /* build/release/sluice in a source tree; prefix/bin/sluice when installed. */
    static const char *const places[] = {"../../models/fable-28m.gguf",
                                         "../share/sluice/fable-28m.gguf"};
    char exe[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (len > 0) {
        exe[len] = '\0';
        char *slash = strrchr(exe, '/');
        if (slash != NULL) *slash = '\0';
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
            char *path = file_join(exe, places[i]), *plain = realpath(path, NULL);
            mem_free(path);
            if (plain != NULL) {
                *out = mem_strdup(plain);
                free(plain);
                return OK;
            }
        }
    }
    FAIL(err, ERR_NOT_FOUND,
         "no model given, and the one that ships with Sluice (fable-28m.gguf) is not installed");
}
