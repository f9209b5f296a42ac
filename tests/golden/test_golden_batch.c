/* test_golden_batch: sequences in one ragged batch, their blocks scattered over the pool and freed
 * behind the window, give the same bits as each alone: every family at every level.
 *
 * A schedule is drawn from a seed: at each step every sequence brings 0 to 20 tokens and wants the
 * logits of some of them. */
#include "golden.h"

#include "base/rng.h"

enum { BATCH_SEQS = 4, BATCH_BLOCK = 8, BATCH_STEP_TOKENS = 96, BATCH_TABLE = 64 };

typedef struct BatchSeq {
    int32_t first, n; /* its tokens: this part of prompt + greedy */
    int32_t done;
    float *want; /* [n, vocab] alone */
    int32_t block[MODEL_KV_GROUPS_MAX][BATCH_TABLE];
} BatchSeq;

typedef struct BatchTest {
    Golden golden;
    GoldenModel model;
    Ints tokens;
    Forward *forward;
    KvStore *store;
    BatchSeq seq[BATCH_SEQS];
    int32_t n_groups;
    uint64_t seed, draws;
    Batch batch;
    int32_t token[BATCH_STEP_TOKENS], pos[BATCH_STEP_TOKENS], row[BATCH_STEP_TOKENS];
    int32_t row_seq[BATCH_STEP_TOKENS], row_pos[BATCH_STEP_TOKENS];
    int32_t query_start[BATCH_SEQS + 1], kv_len[BATCH_SEQS];
    int32_t slot[MODEL_KV_GROUPS_MAX][BATCH_STEP_TOKENS];
    int32_t table_start[MODEL_KV_GROUPS_MAX][BATCH_SEQS + 1];
    int32_t block_id[MODEL_KV_GROUPS_MAX][BATCH_SEQS * BATCH_TABLE];
} BatchTest;

static int32_t batch_draw(BatchTest *t, int32_t n) {
    return (int32_t)(rng_bits(t->seed, 1, t->draws++) % (uint64_t)n);
}

/* The logits of a sequence alone, in one piece. */
static void batch_alone(BatchTest *t, BatchSeq *seq) {
    Err err = {0};
    const float *logits = NULL;
    Single *single = golden_single(
        &t->model, &(SingleOptions){.context_max = GOLDEN_CONTEXT, .n_logits_max = seq->n});
    const int32_t *tokens = t->tokens.data + seq->first;
    ASSERT_OK(single_feed(single, tokens, seq->n, seq->n, &logits, &err), err);
    size_t bytes = (size_t)seq->n * (size_t)t->golden.vocab * sizeof(float);
    seq->want = mem_alloc(bytes);
    memcpy(seq->want, logits, bytes);
    single_close(single);
}

/* Deals the pool's blocks out in a drawn order. */
static void batch_deal(BatchTest *t, int32_t group) {
    enum { N = BATCH_SEQS * BATCH_TABLE };
    int32_t order[N];
    for (int32_t i = 0; i < N; i++) order[i] = i;
    for (int32_t i = N - 1; i > 0; i--) {
        int32_t j = batch_draw(t, i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (int32_t s = 0; s < BATCH_SEQS; s++)
        memcpy(t->seq[s].block[group], order + s * BATCH_TABLE, sizeof t->seq[s].block[group]);
}

static void batch_open(BatchTest *t, const GoldenCase *c) {
    static const struct {
        int32_t first, n;
    } parts[BATCH_SEQS] = {{0, 330}, {17, 90}, {100, 33}, {250, 200}};
    Err err = {0};
    golden_load(&t->golden, c->family);
    golden_open_model(&t->model, t->golden.folder, c->level, 2);
    ints_append(&t->tokens, t->golden.prompt.data, t->golden.prompt.len);
    ints_append(&t->tokens, t->golden.greedy.data, t->golden.greedy.len);
    const ModelConfig *config = model_config(t->model.model);
    ForwardLimits limits = {BATCH_STEP_TOKENS, BATCH_SEQS, BATCH_STEP_TOKENS, GOLDEN_CONTEXT, 0};
    const int32_t n_blocks[] = {BATCH_SEQS * BATCH_TABLE, BATCH_SEQS * BATCH_TABLE};
    ASSERT_OK(forward_open(&t->forward, t->model.model, &t->model.ctx, &limits, &err), err);
    ASSERT_OK(kv_store_open(&t->store, config, t->model.ctx.device, DTYPE_F32, BATCH_BLOCK,
                            n_blocks, &err),
              err);
    t->n_groups = kv_store_groups(config);
    t->batch = (Batch){.token = t->token,
                       .pos = t->pos,
                       .query_start = t->query_start,
                       .kv_len = t->kv_len,
                       .logits_row = t->row};
    for (int32_t g = 0; g < t->n_groups; g++) {
        t->batch.kv[g] = (BatchKv){t->slot[g], t->table_start[g], t->block_id[g]};
        batch_deal(t, g);
    }
    for (int32_t s = 0; s < BATCH_SEQS; s++) {
        t->seq[s].first = parts[s].first;
        t->seq[s].n = parts[s].n;
        batch_alone(t, &t->seq[s]);
    }
}

/* The table of a sequence in a group, without the blocks that lie wholly behind the window of the
 * first query. */
static void batch_table(BatchTest *t, int32_t g, const BatchSeq *seq, int32_t n_new) {
    Batch *b = &t->batch;
    int32_t window = kv_store_group_window(model_config(t->model.model), g);
    int32_t at = t->table_start[g][b->n_seqs], len = seq->done + n_new;
    int32_t n_blocks = DIV_UP(len, BATCH_BLOCK);
    for (int32_t i = 0; i < n_blocks; i++) {
        bool freed = window > 0 && (i + 1) * BATCH_BLOCK - 1 <= seq->done - window;
        t->block_id[g][at + i] = freed ? -1 : seq->block[g][i];
    }
    t->table_start[g][b->n_seqs + 1] = at + n_blocks;
    for (int32_t i = 0; i < n_new; i++) {
        int32_t pos = seq->done + i;
        t->slot[g][b->n_tokens + i] =
            seq->block[g][pos / BATCH_BLOCK] * BATCH_BLOCK + pos % BATCH_BLOCK;
    }
}

static void batch_add(BatchTest *t, int32_t s, int32_t n_new) {
    BatchSeq *seq = &t->seq[s];
    Batch *b = &t->batch;
    for (int32_t g = 0; g < t->n_groups; g++) batch_table(t, g, seq, n_new);
    for (int32_t i = 0; i < n_new; i++) {
        int32_t row = b->n_tokens + i;
        t->token[row] = t->tokens.data[seq->first + seq->done + i];
        t->pos[row] = seq->done + i;
        if (batch_draw(t, 3) == 0) continue;
        t->row[b->n_logits] = row;
        t->row_seq[b->n_logits] = s;
        t->row_pos[b->n_logits++] = seq->done + i;
    }
    seq->done += n_new;
    t->kv_len[b->n_seqs] = seq->done;
    b->n_tokens += n_new;
    t->query_start[++b->n_seqs] = b->n_tokens;
}

static void batch_step(BatchTest *t) {
    Batch *b = &t->batch;
    Err err = {0};
    const float *logits = NULL;
    size_t vocab = (size_t)t->golden.vocab;
    b->n_seqs = b->n_tokens = b->n_logits = 0;
    for (int32_t s = 0; s < BATCH_SEQS; s++) {
        int32_t drawn = batch_draw(t, 21);
        int32_t n_new = MIN(drawn, t->seq[s].n - t->seq[s].done);
        if (n_new > 0) batch_add(t, s, n_new);
    }
    if (b->n_tokens == 0) return;
    ASSERT_OK(forward_run(t->forward, t->store, b, &logits, &err), err);
    for (int32_t i = 0; i < b->n_logits; i++) {
        const float *want = t->seq[t->row_seq[i]].want + (size_t)t->row_pos[i] * vocab;
        if (memcmp(logits + (size_t)i * vocab, want, vocab * sizeof(float)) != 0)
            fail_msg("sequence %d, position %d: other bits than alone", t->row_seq[i],
                     t->row_pos[i]);
    }
}

static void batch_case(void **state) {
    const GoldenCase *c = golden_case(state);
    BatchTest *t = mem_alloc(sizeof *t);
    t->seed = 2024;
    batch_open(t, c);
    bool open = true;
    while (open) {
        batch_step(t);
        open = false;
        for (int32_t s = 0; s < BATCH_SEQS; s++) open = open || t->seq[s].done < t->seq[s].n;
    }
    for (int32_t s = 0; s < BATCH_SEQS; s++) mem_free(t->seq[s].want);
    kv_store_close(t->store);
    forward_close(t->forward);
    golden_close_model(&t->model);
    ints_free(&t->tokens);
    golden_free(&t->golden);
    mem_free(t);
}

int main(void) {
    return golden_run_cases(batch_case, "batch");
}
