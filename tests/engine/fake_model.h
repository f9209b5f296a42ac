/* fake_model: a runner whose right answer is known in advance, for tests of everything around it.
 *
 * It reads nothing but the step plan's batch, as a real model does. Every KV slot holds the token,
 * the position and a tag: the hash of all tokens up to it. A query token's tag comes from the slot
 * before it, and everything it may attend to is checked first: a foreign, stale or missing slot
 * fails the test. The next token is a hash of the tag, the seed and the stream. */
#pragma once

#include "../testing.h"

#include "base/hash.h"
#include "engine/runner.h"

enum { FAKE_VOCAB = 100, FAKE_EOS = 7, FAKE_LATE_MAX = 64, FAKE_WAIT_US = 100000 };

typedef struct FakeSlot {
    uint64_t tag;
    int32_t token, pos;
} FakeSlot;

typedef struct FakeModel {
    EngineLimits limits;
    FakeSlot *slot[KV_GROUPS_MAX];
    FakeSlot *host[KV_GROUPS_MAX]; /* the host tier */
    int64_t now_us, n_steps, n_tokens;
    int64_t us_per_step, us_per_token;
    int64_t fail_step; /* this step fails as a whole; 0: none */
    bool lost;         /* what is said then of the accelerator */
    int64_t us_per_move;
    int32_t move_faults; /* one in so many moves to or from the host goes wrong; 0: none */
    uint64_t fault_seed, n_faults;
    KvMoved late[FAKE_LATE_MAX]; /* told in a later step */
    int32_t n_late;
    uint64_t nonfinite_tag; /* logits after this tag are not finite; 0: none */
    float *hidden;          /* [max_logits, dim] */
} FakeModel;

static inline uint64_t fake_tag(uint64_t before, int32_t token, int32_t pos) {
    return hash_mix(before * 31 + (uint64_t)token * 1000003 + (uint64_t)pos + 1) | 1;
}

/* One in 40 is the end-of-text token, so that most outputs have some length. */
static inline int32_t fake_next(uint64_t tag, uint64_t seed, uint64_t stream) {
    const uint64_t h = hash_mix(tag ^ hash_mix(seed * 7 + stream + 3));
    return h % 40 == 0 ? FAKE_EOS : (int32_t)((h >> 8) % FAKE_VOCAB);
}

static inline FakeSlot *fake_slot(FakeModel *m, const Batch *b, int32_t g, int32_t seq,
                                  int32_t pos) {
    const int32_t size = m->limits.kv.block_tokens;
    const BatchKv *kv = &b->kv[g];
    assert_true(pos / size < kv->table_start[seq + 1] - kv->table_start[seq]);
    const int32_t block = kv->block_id[kv->table_start[seq] + pos / size];
    assert_true(block >= 0 && block < m->limits.kv.n_blocks[g]);
    return &m->slot[g][(int64_t)block * size + pos % size];
}

/* Everything that the token at pos attends to is what it should be. */
static inline void fake_check(FakeModel *m, const Batch *b, int32_t g, int32_t seq, int32_t pos) {
    const int32_t window = m->limits.kv.window[g];
    const int32_t from = window == 0 ? 0 : MAX(0, pos - window + 1);
    for (int32_t p = from; p < pos; p++) {
        const FakeSlot *slot = fake_slot(m, b, g, seq, p);
        assert_int_equal(slot->pos, p);
        const uint64_t before = p == 0 ? 0 : p > from ? fake_slot(m, b, g, seq, p - 1)->tag : 0;
        if (p == 0 || p > from) assert_true(slot->tag == fake_tag(before, slot->token, p));
    }
}

static inline void fake_write(FakeModel *m, const Batch *b, int32_t g, int32_t seq, int32_t t) {
    const int32_t pos = b->pos[t], size = m->limits.kv.block_tokens;
    FakeSlot *slot = fake_slot(m, b, g, seq, pos);
    assert_true(slot == &m->slot[g][b->kv[g].kv_slot[t]]);
    assert_true(b->kv[g].kv_slot[t] % size == pos % size);
    /* Only the token before it is sure to be there, whatever the window. */
    const uint64_t before = pos == 0 ? 0 : fake_slot(m, b, g, seq, pos - 1)->tag;
    *slot = (FakeSlot){fake_tag(before, b->token[t], pos), b->token[t], pos};
}

static inline uint64_t fake_row_tag(const FakeModel *m, const StepPlan *plan, int32_t row) {
    return m->slot[0][plan->batch.kv[0].kv_slot[plan->batch.logits_row[row]]].tag;
}

static inline void fake_sample(const FakeModel *m, const SampleJob *job, uint64_t tag,
                               SamplerResult *out, Status *status) {
    *status = tag == m->nonfinite_tag ? ERR_DEVICE : OK;
    *out = (SamplerResult){.token = job->target >= 0
                                        ? job->target
                                        : fake_next(tag, job->params.seed, job->params.stream),
                           .logprob = -(float)(tag % 1000) / 100};
    for (int32_t i = 0; i < job->params.n_bias && job->target < 0; i++) {
        /* As the real one: a token at -inf is not picked. */
        if (job->params.bias[i].bias == -INFINITY && job->params.bias[i].token == out->token) {
            out->token = (out->token + 1) % FAKE_VOCAB;
        }
    }
    out->n_top = MAX(job->params.n_logprobs, 0);
    for (int32_t k = 0; k < out->n_top; k++) {
        /* Distinct tokens, falling logprobs, hardly any sums that tie. */
        out->top[k] =
            (TokenLogprob){(int32_t)((hash_mix(tag) % 89 + (uint64_t)k) % FAKE_VOCAB),
                           -0.1f * (float)(k + 1) - (float)(hash_mix(tag) % 99991) / 99991};
    }
}

static inline void fake_tell(StepResult *result, const KvMoved *moved) {
    assert_true(result->n_moved < result->n_moved_max);
    result->moved[result->n_moved++] = *moved;
}

/* A number below n for the next fault. */
static inline uint64_t fake_draw(FakeModel *m, uint64_t n) {
    return hash_mix(m->fault_seed ^ hash_mix(++m->n_faults)) % n;
}

/* Tells of a move to or from the host, or of it going wrong: it comes late, twice, never, fails, or
 * the slot is spoiled afterwards. */
static inline void fake_moved(FakeModel *m, StepResult *result, KvMoved moved, FakeSlot *slot) {
    if (m->move_faults == 0 || fake_draw(m, (uint64_t)m->move_faults) > 0) {
        fake_tell(result, &moved);
        return;
    }
    switch (fake_draw(m, 5)) {
        case 0:
            if (m->n_late < FAKE_LATE_MAX) m->late[m->n_late++] = moved;
            return;
        case 1: return;
        case 2: fake_tell(result, &moved); break;
        case 3: moved.status = ERR_DEVICE; break;
        default: slot->tag ^= 2;
    }
    fake_tell(result, &moved);
}

static inline void fake_move_one(FakeModel *m, const KvMove *move, StepResult *result) {
    const size_t size = (size_t)m->limits.kv.block_tokens, bytes = size * sizeof(FakeSlot);
    const size_t src = (size_t)move->src * size, dst = (size_t)move->dst * size;
    FakeSlot *slot = m->slot[move->group], *host = m->host[move->group];
    KvMoved moved = {.ticket = move->ticket};
    switch (move->kind) {
        case KV_MOVE_COPY: memcpy(slot + dst, slot + src, bytes); break;
        case KV_MOVE_SAVE:
            memcpy(host + dst, slot + src, bytes);
            moved.checksum = hash_bytes(host + dst, bytes, 0);
            fake_moved(m, result, moved, host + dst);
            break;
        case KV_MOVE_LOAD:
            memcpy(slot + dst, host + src, bytes);
            if (hash_bytes(host + src, bytes, 0) != move->checksum) moved.status = ERR_FORMAT;
            fake_moved(m, result, moved, host + src);
            break;
        case KV_MOVE_READ: memcpy(move->bytes, slot + src, bytes); break;
        case KV_MOVE_WRITE: memcpy(slot + dst, move->bytes, bytes); break;
    }
}

static inline void fake_move(FakeModel *m, const StepPlan *plan, StepResult *result) {
    if (m->n_late > 0 && fake_draw(m, 4) == 0) {
        for (int32_t i = 0; i < m->n_late; i++) fake_tell(result, &m->late[i]);
        m->n_late = 0;
    }
    for (int32_t i = 0; i < plan->moves.n; i++) fake_move_one(m, &plan->moves.move[i], result);
    result->move_us = m->us_per_move * plan->moves.n;
    m->now_us += result->move_us;
}

static inline Status fake_run(void *self, const StepPlan *plan, StepResult *result, Err *err) {
    FakeModel *m = self;
    const Batch *b = &plan->batch;
    m->n_steps++;
    m->n_tokens += b->n_tokens;
    m->now_us += m->us_per_step + m->us_per_token * b->n_tokens;
    fake_move(m, plan, result);
    if (m->fail_step == m->n_steps) FAIL(err, ERR_DEVICE, "the step was made to fail");
    if (b->n_tokens == 0) { /* waits a while for what flies */
        m->now_us += plan->moves.n == 0 ? FAKE_WAIT_US : 0;
        return OK;
    }
    assert_true(b->n_tokens <= m->limits.max_step_tokens);
    assert_true(b->n_seqs >= 1 && b->n_seqs <= m->limits.max_seqs);
    assert_true(b->n_logits <= m->limits.max_logits);
    for (int32_t g = 0; g < m->limits.kv.n_groups; g++) {
        for (int32_t s = 0; s < b->n_seqs; s++) {
            const int32_t first = b->query_start[s], end = b->query_start[s + 1];
            assert_true(end > first && b->kv_len[s] == b->pos[end - 1] + 1);
            fake_check(m, b, g, s, b->pos[first]);
            for (int32_t t = first; t < end; t++) {
                assert_int_equal(b->pos[t], b->pos[first] + t - first);
                fake_write(m, b, g, s, t);
            }
        }
    }
    for (int32_t i = 0; i < plan->n_jobs; i++) {
        fake_sample(m, &plan->jobs[i], fake_row_tag(m, plan, plan->jobs[i].row), &result->sample[i],
                    &result->status[i]);
    }
    for (int32_t row = 0; row < b->n_logits && plan->hidden; row++) {
        for (int32_t d = 0; d < m->limits.dim; d++) {
            m->hidden[row * m->limits.dim + d] =
                (float)((fake_row_tag(m, plan, row) >> d) % 1000) / 1000;
        }
    }
    result->hidden = m->hidden;
    return OK;
}

static inline void fake_close(void *self) {
    FakeModel *m = self;
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        free(m->slot[g]);
        free(m->host[g]);
        m->slot[g] = m->host[g] = NULL;
    }
    free(m->hidden);
}

static inline int64_t fake_now(void *self) {
    return ((FakeModel *)self)->now_us;
}

static inline bool fake_lost(void *self) {
    return ((FakeModel *)self)->lost;
}

static inline Runner fake_open(FakeModel *m, const EngineLimits *limits) {
    *m = (FakeModel){.limits = *limits, .now_us = 1000000, .us_per_step = 1000, .us_per_token = 50};
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        m->slot[g] = calloc((size_t)limits->kv.n_blocks[g] * (size_t)limits->kv.block_tokens,
                            sizeof(FakeSlot));
        m->host[g] = calloc((size_t)limits->kv.n_host[g] * (size_t)limits->kv.block_tokens,
                            sizeof(FakeSlot));
    }
    m->hidden = calloc((size_t)limits->max_logits * (size_t)limits->dim, sizeof(float));
    return (Runner){.self = m, .run = fake_run, .lost = fake_lost, .close = fake_close};
}

/* The output that the request must have: out[n_max], returns the length; *eos: it ended with the
 * end-of-text token. */
static inline int32_t fake_expect(const int32_t *prompt, int32_t n_prompt, uint64_t seed,
                                  uint64_t stream, int32_t n_min, int32_t n_max, int32_t *out,
                                  bool *eos) {
    uint64_t tag = 0;
    int32_t pos = 0;
    for (; pos < n_prompt; pos++) tag = fake_tag(tag, prompt[pos], pos);
    *eos = false;
    for (int32_t n = 0; n < n_max;) {
        int32_t token = fake_next(tag, seed, stream);
        if (n < n_min && token == FAKE_EOS) token++;
        out[n++] = token;
        *eos = token == FAKE_EOS && n > n_min;
        if (*eos || n == n_max) return n;
        tag = fake_tag(tag, token, pos++);
    }
    return 0;
}
