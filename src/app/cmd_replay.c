/* cmd_replay: runs a receipt's request again and compares the tokens. */
#include <stdio.h>

#include "app/cmd.h"
#include "app/session.h"
#include "base/mem.h"
#include "server/receipt.h"

typedef struct Replay {
    Receipt receipt;
    sluice_model *model;
    sluice_engine *engine;
    int64_t n_tokens; /* that were the same */
} Replay;

/* A word about everything that may change the bits. */
static Status cmd_replay_compare(const Replay *replay, const sluice_engine_plan *plan, Err *err) {
    const ReceiptBuild *was = &replay->receipt.build;
    sluice_model_info info = {.size = sizeof info};
    sluice_model_get_info(replay->model, &info);
    uint64_t model_hash = sluice_model_hash(replay->model), binary_hash;
    TRY(cmd_binary_hash(&binary_hash, err));
    const char *const pairs[][3] = {{"version", was->version, sluice_version()},
                                    {"level", was->level, info.level},
                                    {"KV cache's type", was->kv_dtype, plan->kv_dtype}};
    if (was->model_hash != model_hash)
        fprintf(stderr, "replay: the model differs: its hash was %016llx and is %016llx\n",
                (unsigned long long)was->model_hash, (unsigned long long)model_hash);
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        if (strcmp(pairs[i][1], pairs[i][2]) != 0)
            fprintf(stderr, "replay: the %s differs: it was %s and is %s\n", pairs[i][0],
                    pairs[i][1], pairs[i][2]);
    if (was->binary_hash != binary_hash)
        fprintf(stderr,
                "replay: the build differs: the program's hash was %016llx and is %016llx\n",
                (unsigned long long)was->binary_hash, (unsigned long long)binary_hash);
    return OK;
}

static Status cmd_replay_open(Replay *replay, const Config *config, Err *err) {
    const Receipt *r = &replay->receipt;
    sluice_model_options model;
    sluice_engine_options engine;
    sluice_engine_plan plan = {.size = sizeof plan};
    sluice_error failure = {0};
    session_options(config, &model, &engine);
    if (model.level == NULL) model.level = r->build.level;
    if (engine.kv_dtype == NULL) engine.kv_dtype = r->build.kv_dtype;
    if (engine.max_context == 0) engine.max_context = r->build.max_context;
    engine.max_seqs = MAX(r->request.n, MAX(r->request.beam_width, 1));
    const char *path = config->n_args > 1 ? config->arg[1] : r->model_path;
    if (sluice_model_open(&replay->model, path, &model, &failure) != SLUICE_OK ||
        sluice_engine_dry_run(replay->model, &engine, &plan, &failure) != SLUICE_OK ||
        sluice_engine_open(&replay->engine, replay->model, &engine, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    return cmd_replay_compare(replay, &plan, err);
}

static void cmd_replay_text(const Replay *replay, int32_t token, Buf *out) {
    char *text = NULL;
    size_t len = 0;
    (void)sluice_detokenize(replay->model, &token, 1, true, &text, &len, NULL);
    buf_append_format(out, "%d ", token);
    json_write_str(out, (Str){text == NULL ? "" : text, len});
    sluice_free(text);
}

/* Compares the tokens of one sequence. What was cut off (a client that left) is as far as it
 * went. */
static Status cmd_replay_check(Replay *replay, int32_t index, const Ints *now, Err *err) {
    const ReceiptTokens *was = &replay->receipt.output[index];
    int32_t n = replay->receipt.request.n;
    bool whole = was->finish == SLUICE_FINISH_STOP || was->finish == SLUICE_FINISH_LENGTH;
    size_t at = 0;
    while (at < was->n && at < now->len && was->ids[at] == now->data[at]) at++;
    replay->n_tokens += (int64_t)at;
    if (at == was->n && (at == now->len || !whole)) return OK;
    Buf before = {0}, after = {0};
    buf_append_text(&before, at == was->n ? "the end" : "");
    buf_append_text(&after, at == now->len ? "the end" : "");
    if (at < was->n) cmd_replay_text(replay, was->ids[at], &before);
    if (at < now->len) cmd_replay_text(replay, now->data[at], &after);
    (void)err_set(err, ERR_FORMAT,
                  "the tokens differ: prompt %d, sequence %d, token %zu was %s and is %s",
                  index / n, index % n, at, before.data, after.data);
    buf_free(&before);
    buf_free(&after);
    return ERR_FORMAT;
}

/* Runs one prompt; tokens[i]: what its sequence i gives. */
static Status cmd_replay_prompt(Replay *replay, int32_t prompt, Ints *tokens, Err *err) {
    sluice_request request = replay->receipt.request;
    request.prompt = replay->receipt.prompt[prompt].ids;
    request.n_prompt = replay->receipt.prompt[prompt].n;
    uint64_t id;
    sluice_error failure = {0};
    if (sluice_submit(replay->engine, &request, &id, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    bool last = false;
    while (!last) {
        sluice_event event;
        if (!sluice_poll(replay->engine, -1, &event)) continue;
        ints_append(&tokens[event.index], event.tokens, (size_t)event.n_tokens);
        last = event.last;
        if (event.finish == SLUICE_FINISH_ERROR)
            (void)err_set(err, (Status)event.status, "the generation failed: %s", event.error);
    }
    return err->status;
}

static Status cmd_replay_run(Replay *replay, Err *err) {
    int32_t n = replay->receipt.request.n;
    Status status = OK;
    for (int32_t p = 0; p < replay->receipt.n_prompts && status == OK; p++) {
        Ints *tokens = mem_alloc((size_t)n * sizeof *tokens);
        status = cmd_replay_prompt(replay, p, tokens, err);
        for (int32_t i = 0; i < n; i++) {
            if (status == OK) status = cmd_replay_check(replay, p * n + i, &tokens[i], err);
            ints_free(&tokens[i]);
        }
        mem_free(tokens);
    }
    return status;
}

Status cmd_replay(const Config *config, Err *err) {
    Replay *replay = mem_alloc(sizeof *replay);
    Status status = receipt_read(&replay->receipt, config->arg[0], err);
    if (status == OK) status = cmd_replay_open(replay, config, err);
    if (status == OK) status = cmd_replay_run(replay, err);
    if (status == OK)
        printf("the same: %lld tokens of %d sequences\n", (long long)replay->n_tokens,
               replay->receipt.n_outputs);
    if (replay->engine != NULL) sluice_engine_close(replay->engine);
    if (replay->model != NULL) sluice_model_close(replay->model);
    receipt_free(&replay->receipt);
    mem_free(replay);
    return status;
}
