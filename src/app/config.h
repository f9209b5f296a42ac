/* config: every option of every command, once.
 *
 * One table makes the parser, --help, the man page, the shell completions and the environment
 * names. Where a value comes from: flag, then environment (SLUICE_ and the name in capitals), then
 * the file, then the default. */
#pragma once

#include "base/base.h"
#include "base/status.h"

typedef enum CommandBit {
    CMD_RUN = 1 << 0,
    CMD_INSPECT = 1 << 1,
    CMD_TOKENIZE = 1 << 2,
    CMD_DETOKENIZE = 1 << 3,
    CMD_RENDER = 1 << 4,
    CMD_EVAL = 1 << 5,
    CMD_BENCH = 1 << 6,
    CMD_CONVERT = 1 << 7,
    CMD_COMPLETION = 1 << 8,
    CMD_MAN = 1 << 9,
    CMD_SERVE = 1 << 10,
    CMD_BENCH_SERVE = 1 << 11,
    CMD_SIMULATE = 1 << 12,
    CMD_BENCH_ENGINE = 1 << 13,
    CMD_REPLAY = 1 << 15,
    CMD_ALL = -1
} CommandBit;

/* Commands that compute with a model. */
#define CMD_COMPUTE (CMD_RUN | CMD_SERVE | CMD_EVAL | CMD_BENCH | CMD_BENCH_ENGINE | CMD_REPLAY)
/* Commands that play a load. */
#define CMD_LOAD (CMD_BENCH_SERVE | CMD_SIMULATE)
/* Those, and one that may. */
#define CMD_PLAY   (CMD_LOAD | CMD_BENCH_ENGINE)
#define CMD_TOKENS (CMD_TOKENIZE | CMD_DETOKENIZE)

/* field, type, name, letter (0: none), argument's name, default, min, max, commands, help.
 * A default of "" means not given. Order is the order of --help. */
#define CONFIG_MAP(X)                                                                              \
    X(prompt, TEXT, "prompt", 'p', "TEXT", "", 0, 0, CMD_RUN, "continue this text and exit")       \
    X(file, TEXT, "file", 'f', "FILE", "", 0, 0, CMD_RUN | CMD_TOKENIZE,                           \
      "read the text from FILE (- is standard input)")                                             \
    X(system, TEXT, "system", 0, "TEXT", "", 0, 0, CMD_RUN, "system prompt of the chat")           \
    X(chat, FLAG, "chat", 0, NULL, "", 0, 0, CMD_RUN,                                              \
      "treat the given text as a user's message, through the model's chat template")               \
    X(max_tokens, INT, "max-tokens", 'n', "N", "0", 0, 1 << 30, CMD_RUN,                           \
      "tokens to write at most; 0: as many as the context leaves")                                 \
    X(temperature, NUMBER, "temperature", 0, "X", "", 0, 100, CMD_RUN,                             \
      "0 is greedy; default: the model's own, else 0.7")                                           \
    X(top_k, INT, "top-k", 0, "N", "0", 0, 1 << 30, CMD_RUN,                                       \
      "draw from the N likeliest tokens; 0: from all")                                             \
    X(top_p, NUMBER, "top-p", 0, "X", "", 0, 1, CMD_RUN,                                           \
      "draw from the fewest tokens with that much probability; default: the model's own, else 1")  \
    X(min_p, NUMBER, "min-p", 0, "X", "0", 0, 1, CMD_RUN,                                          \
      "drop tokens below X times the likeliest")                                                   \
    X(repetition_penalty, NUMBER, "repetition-penalty", 0, "X", "1", 0.01, 100, CMD_RUN,           \
      "divide the logits of tokens seen before; 1: off")                                           \
    X(presence_penalty, NUMBER, "presence-penalty", 0, "X", "0", -2, 2, CMD_RUN,                   \
      "subtract from the logits of tokens written before")                                         \
    X(frequency_penalty, NUMBER, "frequency-penalty", 0, "X", "0", -2, 2, CMD_RUN,                 \
      "subtract once for each time a token was written")                                           \
    X(seed, INT, "seed", 's', "N", "", 0, INT64_MAX, CMD_RUN | CMD_PLAY,                           \
      "the same seed gives the same tokens; default: drawn and shown with --verbose")              \
    X(stop, TEXTS, "stop", 0, "TEXT", "", 0, 0, CMD_RUN,                                           \
      "stop before this text is written; may be given up to 16 times")                             \
    X(ignore_eos, FLAG, "ignore-eos", 0, NULL, "", 0, 0, CMD_RUN,                                  \
      "do not stop at the end of the text")                                                        \
    X(logprobs, INT, "logprobs", 0, "N", "-1", -1, 20, CMD_RUN,                                    \
      "print each token with its log-probability and the N likeliest")                             \
    X(special, FLAG, "special", 0, NULL, "", 0, 0, CMD_RUN | CMD_TOKENS,                           \
      "special tokens in the text are read and shown as what they are")                            \
    X(no_bos, FLAG, "no-bos", 0, NULL, "", 0, 0, CMD_TOKENIZE,                                     \
      "leave out what the tokenizer puts around a text")                                           \
    X(pieces, FLAG, "pieces", 0, NULL, "", 0, 0, CMD_TOKENIZE, "print a line per token: id, text") \
    X(messages, TEXT, "messages", 0, "FILE", "", 0, 0, CMD_RENDER,                                 \
      "JSON object with messages and other variables (- is standard input)")                       \
    X(tensors, FLAG, "tensors", 0, NULL, "", 0, 0, CMD_INSPECT, "list every tensor")               \
    X(metadata, FLAG, "metadata", 0, NULL, "", 0, 0, CMD_INSPECT, "list the file's metadata")      \
    X(show_template, FLAG, "template", 0, NULL, "", 0, 0, CMD_INSPECT, "print the chat template")  \
    X(shape, TEXT, "shape", 0, "NAME", "", 0, 0, CMD_BENCH,                                        \
      "no file: random weights in memory of a known model's shape, such as llama-3.1-8b")          \
    X(type, TEXT, "type", 0, "TYPE", "f16", 0, 0, CMD_CONVERT | CMD_BENCH,                         \
      "of the matrices: f32, f16, bf16, q8_0 or q4_0; with --shape any number format")             \
    X(ppl, TEXT, "ppl", 0, "FILE", "", 0, 0, CMD_EVAL,                                             \
      "perplexity of the text in FILE (.u16: token ids, little-endian)")                           \
    X(against, TEXT, "against", 0, "MODEL", "", 0, 0, CMD_EVAL,                                    \
      "also the KL divergence of MODEL's predictions from this model's")                           \
    X(window, INT, "window", 0, "N", "0", 0, 1 << 24, CMD_EVAL,                                    \
      "tokens evaluated together; 0: the model's context, at most 1024")                           \
    X(windows, INT, "windows", 0, "N", "0", 0, 1 << 24, CMD_EVAL, "stop after N windows; 0: all")  \
    X(n_prompt, INTS, "n-prompt", 0, "N,...", "512", 0, 1 << 20, CMD_BENCH,                        \
      "prefill lengths to time")                                                                   \
    X(n_gen, INTS, "n-gen", 0, "N,...", "128", 0, 1 << 20, CMD_BENCH, "decode lengths to time")    \
    X(batch, INTS, "batch", 0, "N,...", "1", 1, 4096, CMD_BENCH,                                   \
      "sequences that decode together; a test for each number")                                    \
    X(depth, INT, "depth", 0, "N", "0", 0, 1 << 20, CMD_BENCH,                                     \
      "tokens that sequences have before the decodes that are timed")                              \
    X(repeat, INT, "repeat", 'r', "N", "5", 1, 1000, CMD_BENCH, "repetitions of each test")        \
    X(output, TEXT, "output", 'o', "FORMAT", "md", 0, 0, CMD_BENCH | CMD_SIMULATE,                 \
      "md, csv or json")                                                                           \
    X(part, TEXT, "part", 0, "NAME", "", 0, 0, CMD_BENCH_ENGINE,                                   \
      "decode, batching, arrival or prefix alone")                                                 \
    X(limits, FLAG, "limits", 0, NULL, "", 0, 0, CMD_BENCH,                                        \
      "measure this machine's limits and exit")                                                    \
    X(host, TEXT, "host", 0, "ADDRESS", "127.0.0.1", 0, 0, CMD_SERVE, "address to listen at")      \
    X(port, INT, "port", 0, "N", "8000", 0, 65535, CMD_SERVE,                                      \
      "port to listen at; 0: any free one")                                                        \
    X(model_name, TEXT, "model-name", 0, "NAME", "", 0, 0, CMD_SERVE | CMD_BENCH_SERVE,            \
      "name that clients ask for; default: the last part of MODEL, or what the server has")        \
    X(max_seqs, INT, "max-seqs", 0, "N", "0", 0, 4096,                                             \
      CMD_SERVE | CMD_SIMULATE | CMD_BENCH_ENGINE, "sequences that run at once; 0: 64")            \
    X(max_queue, INT, "max-queue", 0, "N", "0", 0, 1 << 20, CMD_SERVE,                             \
      "requests that wait at most; 0: four times as many")                                         \
    X(gpu_memory, NUMBER, "gpu-memory", 0, "X", "0.9", 0, 1e15,                                    \
      CMD_SERVE | CMD_RUN | CMD_BENCH_ENGINE,                                                      \
      "of the GPU's memory, weights included: a share up to 1, or bytes; the KV cache gets the "   \
      "rest unless --kv-mb says how much")                                                         \
    X(kv_mb, INT, "kv-mb", 0, "MB", "0", 0, 1 << 24, CMD_SERVE | CMD_SIMULATE | CMD_BENCH_ENGINE,  \
      "memory for the KV cache; 0: what max-seqs short sequences need")                            \
    X(receipts, TEXT, "receipts", 0, "DIR", "", 0, 0, CMD_SERVE,                                   \
      "write what each request asked and got into DIR, for sluice replay")                         \
    X(receipts_max, INT, "receipts-max", 0, "N", "100000", 1, 1 << 24, CMD_SERVE,                  \
      "receipts in DIR at most; the oldest leave")                                                 \
    X(host_kv, INT, "host-kv", 0, "MB", "0", 0, 1 << 24, CMD_SERVE,                                \
      "host memory for cached and swapped KV blocks that leave the KV cache; 0: none")             \
    X(kv_dir, TEXT, "kv-dir", 0, "DIR", "", 0, 0, CMD_SERVE,                                       \
      "keep the prefix cache in DIR, so that it is warm after a restart")                          \
    X(kv_dir_mb, INT, "kv-dir-mb", 0, "MB", "0", 0, 1 << 24, CMD_SERVE,                            \
      "of DIR, with a file for each model and build; 0: four times what this one can fill")        \
    X(preempt, TEXT, "preempt", 0, "HOW", "auto", 0, 0, CMD_SERVE,                                 \
      "when blocks run out: recompute, swap (to --host-kv), or auto: the cheaper one")             \
    X(api_key_file, TEXT, "api-key-file", 0, "FILE", "", 0, 0, CMD_SERVE,                          \
      "keys that clients must show, one a line")                                                   \
    X(insecure_no_auth, FLAG, "insecure-no-auth", 0, NULL, "", 0, 0, CMD_SERVE,                    \
      "listen beyond this machine without a key")                                                  \
    X(tls_cert, TEXT, "tls-cert", 0, "FILE", "", 0, 0, CMD_SERVE, "certificate chain, PEM")        \
    X(tls_key, TEXT, "tls-key", 0, "FILE", "", 0, 0, CMD_SERVE, "its key, PEM")                    \
    X(kv_events, TEXT, "kv-events", 0, "ENDPOINT", "", 0, 0, CMD_SERVE,                            \
      "publish what enters and leaves the prefix cache over ZeroMQ, in vLLM's form; listens at "   \
      "tcp://*:5557, connects to tcp://HOST:5557")                                                 \
    X(kv_events_replay, TEXT, "kv-events-replay", 0, "ENDPOINT", "", 0, 0, CMD_SERVE,              \
      "listen there for readers that missed some (tcp://*:5558)")                                  \
    X(kv_events_topic, TEXT, "kv-events-topic", 0, "TEXT", "", 0, 0, CMD_SERVE,                    \
      "their topic; default: kv@HOST@MODEL")                                                       \
    X(log_level, TEXT, "log-level", 0, "LEVEL", "info", 0, 0, CMD_SERVE,                           \
      "error, warn, info or debug")                                                                \
    X(log_period, NUMBER, "log-period", 0, "S", "10", 0.5, 1e6, CMD_SERVE,                         \
      "seconds between the lines on throughput while there is work")                               \
    X(log_content, FLAG, "log-content", 0, NULL, "", 0, 0, CMD_SERVE,                              \
      "what clients ask and get goes into the log too")                                            \
    X(reasoning_content, FLAG, "reasoning-content", 0, NULL, "", 0, 0, CMD_SERVE,                  \
      "tell the reasoning of chats also as reasoning_content, its older name")                     \
    X(watchdog, NUMBER, "watchdog", 0, "S", "300", 0, 1e6, CMD_SERVE,                              \
      "end when the engine stands still for S seconds; /ready fails after S/5; 0: never")          \
    X(drain_timeout, INT, "drain-timeout", 0, "S", "30", 0, 86400, CMD_SERVE,                      \
      "seconds that open requests get after SIGTERM")                                              \
    X(max_connections, INT, "max-connections", 0, "N", "4096", 1, 1 << 20, CMD_SERVE,              \
      "connections at once")                                                                       \
    X(max_connections_per_address, INT, "max-connections-per-address", 0, "N", "256", 1, 1 << 20,  \
      CMD_SERVE, "of them from one address")                                                       \
    X(max_url_bytes, INT, "max-url-bytes", 0, "N", "4096", 16, 1 << 16, CMD_SERVE,                 \
      "of a request's URL")                                                                        \
    X(max_headers, INT, "max-headers", 0, "N", "100", 1, 10000, CMD_SERVE, "of a request")         \
    X(max_header_bytes, INT, "max-header-bytes", 0, "N", "16384", 64, 1 << 20, CMD_SERVE,          \
      "of all headers of a request")                                                               \
    X(max_body_bytes, INT, "max-body-bytes", 0, "N", "16777216", 1, 1 << 30, CMD_SERVE,            \
      "of a request's body")                                                                       \
    X(max_json_depth, INT, "max-json-depth", 0, "N", "64", 1, 64, CMD_SERVE,                       \
      "levels of nesting in a body")                                                               \
    X(max_json_values, INT, "max-json-values", 0, "N", "1000000", 1, 1000000, CMD_SERVE,           \
      "values in a body")                                                                          \
    X(max_messages, INT, "max-messages", 0, "N", "4096", 1, 1 << 20, CMD_SERVE, "of a chat")       \
    X(max_parts, INT, "max-parts", 0, "N", "8192", 1, 1 << 20, CMD_SERVE,                          \
      "parts of all messages' contents")                                                           \
    X(max_logprobs, INT, "max-logprobs", 0, "N", "262144", 1, 1 << 30, CMD_SERVE,                  \
      "log-probabilities of one request: of its prompts, its answers and the likeliest of both")   \
    X(max_pending_bytes, INT, "max-pending-bytes", 0, "N", "1048576", 1, 1 << 30, CMD_SERVE,       \
      "output that waits for its client to read it; more: the client is cut")                      \
    X(header_timeout, NUMBER, "header-timeout", 0, "S", "10", 0.1, 86400, CMD_SERVE,               \
      "seconds until a request's headers are there")                                               \
    X(body_rate, INT, "body-rate", 0, "N", "1024", 0, 1 << 30, CMD_SERVE,                          \
      "bytes a second that a body must come with, once --header-timeout is over")                  \
    X(idle_timeout, NUMBER, "idle-timeout", 0, "S", "75", 0.1, 86400, CMD_SERVE,                   \
      "seconds between two requests of a connection")                                              \
    X(stall_timeout, NUMBER, "stall-timeout", 0, "S", "30", 0.1, 86400, CMD_SERVE,                 \
      "seconds in which a client may read nothing of its reply")                                   \
    X(queue_timeout, NUMBER, "queue-timeout", 0, "S", "30", 0.01, 86400, CMD_SERVE,                \
      "seconds that a request may wait for its turn")                                              \
    X(ping_interval, NUMBER, "ping-interval", 0, "S", "15", 0, 86400, CMD_SERVE,                   \
      "seconds of silence after which a stream gets a comment; 0: never")                          \
    X(url, TEXT, "url", 0, "URL", "http://127.0.0.1:8000", 0, 0, CMD_BENCH_SERVE, "of the server") \
    X(tls_ca, TEXT, "tls-ca", 0, "FILE", "", 0, 0, CMD_BENCH_SERVE,                                \
      "certificates to trust for https, PEM; default: the system's")                               \
    X(endpoint, TEXT, "endpoint", 0, "PATH", "/v1/completions", 0, 0, CMD_BENCH_SERVE,             \
      "/v1/completions (prompts of token ids) or /v1/chat/completions (of words)")                 \
    X(portable, FLAG, "portable", 0, NULL, "", 0, 0, CMD_BENCH_SERVE,                              \
      "ask for nothing that a server may not know: prompts of words, no ignore_eos")               \
    X(api_key, TEXT, "api-key", 0, "KEY", "", 0, 0, CMD_BENCH_SERVE, "to show to the server")      \
    X(requests, INT, "requests", 0, "N", "100", 1, 10000000, CMD_PLAY,                             \
      "to send, at most; without it a trace is played whole")                                      \
    X(rate, NUMBER, "rate", 0, "X", "0", 0, 1e6, CMD_LOAD,                                         \
      "requests a second, at random (Poisson); 0: all at once")                                    \
    X(burst, INT, "burst", 0, "N", "1", 1, 1000000, CMD_LOAD, "arrive in groups of N")             \
    X(concurrency, INT, "concurrency", 0, "N", "0", 0, 100000, CMD_BENCH_SERVE | CMD_BENCH_ENGINE, \
      "run at most N at once (closed loop); 0: no bound")                                          \
    X(input_len, INT, "input-len", 0, "N", "256", 1, 1 << 24, CMD_PLAY, "prompt tokens")           \
    X(output_len, INT, "output-len", 0, "N", "64", 1, 1 << 24, CMD_PLAY, "tokens to generate")     \
    X(shared_prefix, INT, "shared-prefix", 0, "N", "0", 0, 1 << 24, CMD_PLAY,                      \
      "of the prompt's tokens, the same in every request")                                         \
    X(prompts, TEXT, "prompts", 0, "FILE", "", 0, 0, CMD_BENCH_SERVE, "real prompts, one a line")  \
    X(trace, TEXT, "trace", 0, "FILE", "", 0, 0, CMD_LOAD,                                         \
      "arrivals and lengths of a trace: Mooncake's (jsonl, with shared blocks) or Azure's (csv)")  \
    X(speedup, NUMBER, "speedup", 0, "X", "1", 1e-3, 1e6, CMD_LOAD,                                \
      "play the trace X times faster")                                                             \
    X(request_timeout, NUMBER, "request-timeout", 0, "S", "600", 0.1, 1e6,                         \
      CMD_SERVE | CMD_BENCH_SERVE, "give a request up after S seconds")                            \
    X(slo_ttft, NUMBER, "slo-ttft", 0, "MS", "0", 0, 1e9, CMD_PLAY,                                \
      "bound on the time to the first token, for the goodput")                                     \
    X(slo_tpot, NUMBER, "slo-tpot", 0, "MS", "0", 0, 1e9, CMD_PLAY,                                \
      "bound on the time per output token, for the goodput")                                       \
    X(save_result, TEXT, "save-result", 0, "FILE", "", 0, 0, CMD_LOAD,                             \
      "write the figures and every request as JSON")                                               \
    X(svg, TEXT, "svg", 0, "FILE", "", 0, 0, CMD_LOAD, "draw the requests over time")              \
    X(replicas, INT, "replicas", 0, "N", "1", 0, 1000, CMD_SIMULATE,                               \
      "machines; 0: find the fewest that keep --slo-ttft and --slo-tpot")                          \
    X(slo_share, NUMBER, "slo-share", 0, "X", "0.99", 0.01, 1, CMD_SIMULATE,                       \
      "share of the requests that must keep them")                                                 \
    X(bench_report, TEXT, "bench-report", 0, "FILE", "", 0, 0, CMD_SIMULATE,                       \
      "the machine, as sluice bench -o json measured it")                                          \
    X(prefill_speed, NUMBER, "prefill-speed", 0, "X", "", 1e-3, 1e9, CMD_SIMULATE,                 \
      "or by hand: tokens per second of a long prompt")                                            \
    X(decode_speed, NUMBER, "decode-speed", 0, "X", "", 1e-3, 1e9, CMD_SIMULATE,                   \
      "tokens per second of one sequence")                                                         \
    X(read_gbs, NUMBER, "read-gbs", 0, "X", "0", 0, 1e6, CMD_SIMULATE,                             \
      "memory bandwidth in GB/s, for reading keys and values; 0: free")                            \
    X(kv_token_bytes, INT, "kv-token-bytes", 0, "N", "131072", 1, 1 << 30, CMD_SIMULATE,           \
      "KV cache bytes per token (131072: an 8B Llama in bf16)")                                    \
    X(policy, TEXT, "policy", 0, "NAME", "fcfs", 0, 0, CMD_SERVE | CMD_SIMULATE,                   \
      "who runs next: fcfs, priority, shortest, cache or fair")                                    \
    X(route, TEXT, "route", 0, "NAME", "least-load", 0, 0, CMD_SIMULATE,                           \
      "to which replica: round-robin, least-load or affinity (same beginning, same replica)")      \
    X(no_prefix_cache, FLAG, "no-prefix-cache", 0, NULL, "", 0, 0, CMD_SIMULATE,                   \
      "compute every prompt whole")                                                                \
    X(json, FLAG, "json", 0, NULL, "", 0, 0, CMD_TOKENS | CMD_INSPECT | CMD_EVAL, "print JSON")    \
    X(dry_run, FLAG, "dry-run", 0, NULL, "", 0, 0, CMD_RUN | CMD_SERVE | CMD_INSPECT,              \
      "print what would be allocated and exit")                                                    \
    X(context, INT, "context", 'c', "N", "0", 0, 1 << 24,                                          \
      CMD_RUN | CMD_SERVE | CMD_INSPECT | CMD_BENCH_ENGINE,                                        \
      "tokens of one conversation; 0: the model's")                                                \
    X(kv_dtype, TEXT, "kv-dtype", 0, "TYPE", "", 0, 0, CMD_COMPUTE | CMD_INSPECT,                  \
      "of the KV cache: f32, f16, bf16 or int8; default: f32 for f32 models, else bf16")           \
    X(block_tokens, INT, "block-tokens", 0, "N", "0", 0, 256,                                      \
      CMD_COMPUTE | CMD_SIMULATE | CMD_INSPECT, "tokens of a KV block, a power of two; 0: 16")     \
    X(chunk, INT, "chunk", 0, "N", "0", 0, 1 << 16, CMD_COMPUTE | CMD_SIMULATE,                    \
      "prompt tokens per step at most; 0: 512")                                                    \
    X(threads, INT, "threads", 't', "N", "0", 0, 1023, CMD_COMPUTE | CMD_INSPECT,                  \
      "0: the cores this process may use")                                                         \
    X(device, TEXT, "device", 0, "NAME", "", 0, 0, CMD_COMPUTE | CMD_INSPECT,                      \
      "cpu, cuda or cuda:N (GPU number N); default: cpu")                                          \
    X(fast, FLAG, "fast", 0, NULL, "", 0, 0, CMD_RUN | CMD_SERVE | CMD_BENCH | CMD_BENCH_ENGINE,   \
      "on a GPU, sum large steps of prompts in a faster order: the same request may then give "    \
      "other bits beside other load")                                                              \
    X(level, TEXT, "level", 0, "NAME", "", 0, 0, CMD_COMPUTE | CMD_INSPECT,                        \
      "CPU level: ref, avx2, avx512, avx512bf16 or amx; default: the best here")                   \
    X(verbose, FLAG, "verbose", 'v', NULL, "", 0, 0, CMD_RUN, "timings after each answer")         \
    X(quiet, FLAG, "quiet", 'q', NULL, "", 0, 0, CMD_COMPUTE | CMD_CONVERT, "no progress bars")    \
    X(config_file, TEXT, "config", 0, "FILE", "", 0, 0, CMD_ALL,                                   \
      "options as lines of name = value; default: ~/.config/sluice/sluice.conf")                   \
    X(print_config, FLAG, "print-config", 0, NULL, "", 0, 0, CMD_ALL,                              \
      "print every option of the command with its value and its source, and exit")                 \
    X(help, FLAG, "help", 'h', NULL, "", 0, 0, CMD_ALL, "print this and exit")

enum { CONFIG_LIST_MAX = 16, CONFIG_ARGS_MAX = 65536 };

/* Values of options that may be given several times, or as a list. */
typedef struct ConfigTexts {
    int32_t n;
    char *item[CONFIG_LIST_MAX]; /* owned by the Config */
} ConfigTexts;
typedef struct ConfigInts {
    int32_t n;
    int64_t item[CONFIG_LIST_MAX];
} ConfigInts;

#define CONFIG_TYPE_FLAG   bool
#define CONFIG_TYPE_INT    int64_t
#define CONFIG_TYPE_NUMBER double
#define CONFIG_TYPE_TEXT   char *
#define CONFIG_TYPE_TEXTS  ConfigTexts
#define CONFIG_TYPE_INTS   ConfigInts

typedef enum ConfigOption {
#define CONFIG_ENUM(field, type, ...) CONFIG_##field,
    CONFIG_MAP(CONFIG_ENUM)
#undef CONFIG_ENUM
        CONFIG_COUNT
} ConfigOption;

typedef enum ConfigSource {
    CONFIG_DEFAULT,
    CONFIG_FILE,
    CONFIG_ENVIRONMENT,
    CONFIG_COMMAND_LINE
} ConfigSource;

/* The values for one run of a command. Texts not given are NULL. */
typedef struct Config {
#define CONFIG_FIELD(field, type, ...) CONFIG_TYPE_##type field;
    CONFIG_MAP(CONFIG_FIELD)
#undef CONFIG_FIELD
    ConfigSource source[CONFIG_COUNT];
    int32_t n_args;
    char **arg; /* positional arguments; borrowed from argv */
} Config;

typedef enum ConfigType {
    CONFIG_IS_FLAG,
    CONFIG_IS_INT,
    CONFIG_IS_NUMBER,
    CONFIG_IS_TEXT,
    CONFIG_IS_TEXTS,
    CONFIG_IS_INTS
} ConfigType;

/* One row of the table, for help and completion. */
typedef struct ConfigInfo {
    const char *name;
    ConfigType type;
    char letter;
    const char *argument, *default_text;
    double min, max;
    uint32_t commands;
    const char *help;
    size_t offset; /* of the field in Config */
} ConfigInfo;

const ConfigInfo *config_info(ConfigOption option);

/* Parses argv (after the command's name) for the command with this bit, and fills in environment,
 * file and defaults. On failure config may be freed. */
MUST_USE Status config_parse(Config *config, uint32_t command, int argc, char **argv, Err *err);
void config_free(Config *config);
/* Whether the option was given anywhere. */
bool config_given(const Config *config, ConfigOption option);
/* name = value lines with their sources, on standard output. */
void config_print(const Config *config, uint32_t command);
