#include "model/single.h"

#include "base/mem.h"

struct Single {
    const Model *model;
    Forward *forward;
    KvStore *store;
    int32_t context_max, chunk, n_logits_max, block_tokens, n_groups;
    int32_t len;
    Batch batch;
    int32_t query_start[2], table_start[2], kv_len; /* one sequence */
    int32_t *arrays;                                /* what the batch's other arrays are cut from */
    float *logits; /* [n_logits_max, vocab], for rows of several steps */
};

/* All groups have the plain table block_id[i] = i. */
static void single_init_batch(Single *s, int32_t n_blocks) {
    size_t chunk = (size_t)s->chunk;
    s->arrays = mem_alloc((4 * chunk + (size_t)n_blocks) * sizeof(int32_t));
    Batch *b = &s->batch;
    b->n_seqs = 1;
    b->token = s->arrays;
    b->pos = b->token + chunk;
    b->logits_row = b->pos + chunk;
    int32_t *kv_slot = b->logits_row + chunk, *block_id = kv_slot + chunk;
    b->query_start = s->query_start;
    b->kv_len = &s->kv_len;
    s->table_start[1] = n_blocks;
    for (int32_t i = 0; i < n_blocks; i++) block_id[i] = i;
    for (int32_t g = 0; g < s->n_groups; g++)
        b->kv[g] =
            (BatchKv){.kv_slot = kv_slot, .table_start = s->table_start, .block_id = block_id};
}

static Status single_init(Single *s, const OpCtx *ctx, DType kv_dtype, Err *err) {
    const ModelConfig *c = model_config(s->model);
    if (s->context_max < 1 || s->chunk < 1 || s->n_logits_max < 1)
        FAIL(err, ERR_ARG, "a context of %d, chunks of %d and %d rows of logits; wanted at least 1",
             s->context_max, s->chunk, s->n_logits_max);
    s->chunk = MIN(s->chunk, s->context_max);
    ForwardLimits limits = {.n_tokens_max = s->chunk,
                            .n_seqs_max = 1,
                            .n_logits_max = MIN(s->chunk, s->n_logits_max),
                            .context_max = s->context_max,
                            .table_blocks_max = DIV_UP(s->context_max, s->block_tokens)};
    TRY(forward_open(&s->forward, s->model, ctx, &limits, err));
    int32_t n_blocks[MODEL_KV_GROUPS_MAX] = {0};
    s->n_groups = kv_store_groups(c);
    for (int32_t g = 0; g < s->n_groups; g++) n_blocks[g] = DIV_UP(s->context_max, s->block_tokens);
    TRY(kv_store_open(&s->store, c, ctx->device, kv_dtype, s->block_tokens, n_blocks, err));
    TRY(forward_record(s->forward, s->store, err));
    s->logits = mem_try_alloc((size_t)s->n_logits_max, (size_t)c->vocab * sizeof(float));
    if (s->logits == NULL) FAIL(err, ERR_NOMEM, "no memory for %d rows of logits", s->n_logits_max);
    single_init_batch(s, n_blocks[0]);
    return OK;
}

Status single_open(Single **out, const Model *model, const OpCtx *ctx, const SingleOptions *options,
                   Err *err) {
    Single *s = mem_alloc(sizeof *s);
    s->model = model;
    s->context_max =
        options->context_max != 0 ? options->context_max : model_config(model)->context;
    s->chunk = options->chunk != 0 ? options->chunk : 512;
    s->n_logits_max = options->n_logits_max != 0 ? options->n_logits_max : 1;
    s->block_tokens = options->block_tokens != 0 ? options->block_tokens : 16;
    Status status = single_init(s, ctx, options->kv_dtype, err);
    if (status != OK) {
        single_close(s);
        return status;
    }
    *out = s;
    return OK;
}

void single_close(Single *s) {
    if (s == NULL) return;
    kv_store_close(s->store);
    forward_close(s->forward);
    mem_free(s->arrays);
    mem_free(s->logits);
    mem_free(s);
}

void single_reset(Single *s) {
    s->len = 0;
}

int32_t single_len(const Single *s) {
    return s->len;
}

void single_truncate(Single *s, int32_t n) {
    CHECK(n >= 0 && n <= s->len);
    s->len = n;
}

/* One step of n tokens, the last n_logits of which give logits. */
static Status single_step(Single *s, const int32_t *token, int32_t n, int32_t n_logits,
                          const float **logits, Err *err) {
    Batch *b = &s->batch;
    b->n_tokens = n;
    b->n_logits = n_logits;
    for (int32_t i = 0; i < n; i++) {
        b->token[i] = token[i];
        b->pos[i] = s->len + i;
        b->kv[0].kv_slot[i] = s->len + i;
    }
    for (int32_t i = 0; i < n_logits; i++) b->logits_row[i] = n - n_logits + i;
    s->query_start[1] = n;
    s->kv_len = s->len + n;
    TRY(forward_run(s->forward, s->store, b, logits, err));
    s->len += n;
    return OK;
}

static Status single_check(const Single *s, const int32_t *token, int32_t n, int32_t n_logits,
                           Err *err) {
    int32_t vocab = model_config(s->model)->vocab;
    if (n < 1 || n_logits < 0 || n_logits > n || n_logits > s->n_logits_max)
        FAIL(err, ERR_ARG, "%d rows of logits of %d tokens; wanted at most %d", n_logits, n,
             s->n_logits_max);
    if (n > s->context_max - s->len)
        FAIL(err, ERR_LIMIT, "%d tokens after %d; the context holds %d", n, s->len, s->context_max);
    for (int32_t i = 0; i < n; i++)
        if (token[i] < 0 || token[i] >= vocab)
            FAIL(err, ERR_ARG, "token %d is not in the vocabulary of %d", token[i], vocab);
    return OK;
}

Status single_feed(Single *s, const int32_t *token, int32_t n, int32_t n_logits,
                   const float **logits, Err *err) {
    size_t vocab = (size_t)model_config(s->model)->vocab;
    TRY(single_check(s, token, n, n_logits, err));
    int32_t n_collected = 0;
    for (int32_t done = 0, n_step; done < n; done += n_step) {
        const float *rows = NULL;
        n_step = MIN(s->chunk, n - done);
        int32_t n_rows = MAX(0, MIN(n_step, done + n_step - (n - n_logits)));
        TRY(single_step(s, token + done, n_step, n_rows, &rows, err));
        if (n_rows == 0) continue;
        if (n_rows == n_logits) {
            *logits = rows; /* all in the last step: no copy */
            return OK;
        }
        memcpy(s->logits + (size_t)n_collected * vocab, rows,
               (size_t)n_rows * vocab * sizeof(float));
        n_collected += n_rows;
    }
    *logits = s->logits;
    return OK;
}
