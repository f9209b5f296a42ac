#include "engine/step.h"

#include <string.h>

#include "base/mem.h"

/* Hands out parts of one allocation; with no base it only adds up. */
typedef struct StepCarve {
    char *base;
    size_t at;
} StepCarve;

static void *step_carve(StepCarve *carve, size_t n, size_t bytes) {
    void *part = carve->base == NULL ? NULL : carve->base + carve->at;
    carve->at += ALIGN_UP(n * bytes, (size_t)CACHE_LINE);
    return part;
}

/* Blocks of one table, and so of the batch's copy of it. */
static size_t step_table_blocks(const EngineLimits *limits) {
    return (size_t)DIV_UP(limits->max_context, limits->kv.block_tokens);
}

/* Moves of one step: each planned sequence copies a block per group at most, and a second time when
 * beams are planned in vain. */
static size_t step_moves(const EngineLimits *limits) {
    return (size_t)limits->max_seqs * KV_GROUPS_MAX * 2 + (size_t)limits->kv.n_flights +
           (size_t)KV_DISK_BUFFERS * KV_GROUPS_MAX;
}

/* What may be over in one step: all that flies, and as much that was told before. */
static size_t step_moved(const EngineLimits *limits) {
    return 2 * (size_t)limits->kv.n_flights;
}

static void step_layout(StepPlan *plan, StepResult *result, const EngineLimits *limits,
                        StepCarve *carve) {
    const size_t n_tokens = (size_t)limits->max_step_tokens, n_seqs = (size_t)limits->max_seqs;
    const size_t n_jobs = n_seqs + (size_t)limits->max_logits;
    Batch *batch = &plan->batch;
    batch->token = step_carve(carve, n_tokens, sizeof(int32_t));
    batch->pos = step_carve(carve, n_tokens, sizeof(int32_t));
    batch->query_start = step_carve(carve, n_seqs + 1, sizeof(int32_t));
    batch->kv_len = step_carve(carve, n_seqs, sizeof(int32_t));
    batch->logits_row = step_carve(carve, (size_t)limits->max_logits, sizeof(int32_t));
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        batch->kv[g].kv_slot = step_carve(carve, n_tokens, sizeof(int32_t));
        batch->kv[g].table_start = step_carve(carve, n_seqs + 1, sizeof(int32_t));
        batch->kv[g].block_id =
            step_carve(carve, n_seqs * step_table_blocks(limits), sizeof(int32_t));
    }
    plan->seqs = step_carve(carve, n_seqs, sizeof *plan->seqs);
    plan->jobs = step_carve(carve, n_jobs, sizeof *plan->jobs);
    plan->moves.move = step_carve(carve, step_moves(limits), sizeof *plan->moves.move);
    result->sample = step_carve(carve, n_jobs, sizeof *result->sample);
    result->status = step_carve(carve, n_jobs, sizeof *result->status);
    result->moved = step_carve(carve, step_moved(limits), sizeof *result->moved);
}

int64_t step_plan_bytes(const EngineLimits *limits) {
    StepPlan plan = {0};
    StepResult result = {0};
    StepCarve carve = {0};
    step_layout(&plan, &result, limits, &carve);
    return (int64_t)carve.at;
}

Status step_plan_init(StepPlan *plan, StepResult *result, const EngineLimits *limits, Err *err) {
    StepPlan made = {.block_tokens = limits->kv.block_tokens,
                     .n_groups = limits->kv.n_groups,
                     .max_tokens = limits->max_step_tokens,
                     .max_logits = limits->max_logits};
    const size_t bytes = (size_t)step_plan_bytes(limits);
    made.memory = mem_try_alloc(1, bytes);
    if (made.memory == NULL) FAIL(err, ERR_NOMEM, "no memory for a step plan of %zu bytes", bytes);
    StepCarve carve = {.base = made.memory};
    *result = (StepResult){.n_moved_max = (int32_t)step_moved(limits)};
    step_layout(&made, result, limits, &carve);
    made.moves.n_max = (int32_t)step_moves(limits);
    *plan = made;
    return OK;
}

void step_plan_free(StepPlan *plan, StepResult *result) {
    mem_free(plan->memory);
    *plan = (StepPlan){0};
    *result = (StepResult){0};
}

void step_plan_reset(StepPlan *plan, int64_t id, bool hidden) {
    plan->id = id;
    plan->hidden = hidden;
    plan->n_seqs = plan->n_jobs = plan->n_prompt_tokens = 0;
    plan->batch.n_seqs = plan->batch.n_tokens = plan->batch.n_logits = 0;
    plan->batch.query_start[0] = 0;
    for (int32_t g = 0; g < plan->n_groups; g++) plan->batch.kv[g].table_start[0] = 0;
}

/* The positions [*from, *to) among the next n query tokens of seq whose logits (or hidden states)
 * are wanted. */
static void step_wanted(const Seq *seq, int32_t n, int32_t *from, int32_t *to) {
    const Request *request = seq->request;
    *to = seq->n_computed + n;
    *from = *to == seq->n_tokens ? *to - 1 : *to; /* the last known token gives the next one */
    if (request->pooling == SLUICE_POOL_MEAN) *from = seq->n_computed;
    if (request->pooling == SLUICE_POOL_CLS) {
        *from = seq->n_computed;
        *to = seq->n_computed == 0 ? 1 : *from;
    }
    if (request->want_prompt_logprobs && seq->index == 0) {
        /* Token i's logprob comes from the row of token i - 1; the first has none. */
        const int32_t first = MAX(request->n_prompt_logprobs - 1, seq->n_computed);
        if (first < request->n_prompt - 1) *from = MIN(*from, MAX(first, seq->n_computed));
    }
}

int32_t step_plan_rows(const Seq *seq, int32_t n) {
    int32_t from, to;
    step_wanted(seq, n, &from, &to);
    return to - from;
}

static void step_add_kv(StepPlan *plan, const KvTable *table, BatchKv *kv, const PlanSeq *part,
                        int32_t pos) {
    const int32_t size = plan->block_tokens;
    for (int32_t i = 0; i < part->n_tokens; i++) {
        const int32_t at = pos + i;
        kv->kv_slot[part->first_token + i] = table->block[at / size] * size + at % size;
    }
    const int32_t start = kv->table_start[plan->n_seqs];
    memcpy(kv->block_id + start, table->block, (size_t)table->n_blocks * sizeof *table->block);
    kv->table_start[plan->n_seqs + 1] = start + table->n_blocks;
}

/* Picking parameters: stop tokens are out of reach until min_tokens are there. */
static SamplerParams step_params(const Seq *seq) {
    SamplerParams params = seq->sampling;
    if (request_n_output(seq) < seq->request->n_output_min) {
        params.n_bias += seq->request->n_stop_ids;
    }
    return params;
}

static void step_add_jobs(StepPlan *plan, Seq *seq, PlanSeq *part, int32_t from, int32_t to) {
    Request *request = seq->request;
    part->first_job = plan->n_jobs;
    for (int32_t at = from; at < to && !plan->hidden; at++) {
        const int32_t row = part->first_row + at - from;
        if (at + 1 < seq->n_tokens) {
            plan->jobs[plan->n_jobs++] = (SampleJob){seq, row, seq->token[at + 1], seq->sampling};
            continue;
        }
        /* Siblings that never ran take their first token from the same row. */
        const bool fork = seq->index == 0 && !request->forked && !request->beam;
        for (int32_t i = 0; i < (fork ? request->n_seqs : 1); i++) {
            Seq *picker = &request->seq[seq->index + i];
            plan->jobs[plan->n_jobs++] = (SampleJob){picker, row, -1, step_params(picker)};
        }
    }
    part->n_jobs = plan->n_jobs - part->first_job;
}

void step_plan_add(StepPlan *plan, Seq *seq, int32_t n) {
    Batch *batch = &plan->batch;
    const int32_t pos = seq->n_computed;
    CHECK(n >= 1 && pos + n <= seq->n_tokens && kv_cache_len(seq->kv) == pos + n);
    CHECK(batch->n_tokens + n <= plan->max_tokens);
    PlanSeq part = {
        .seq = seq, .first_token = batch->n_tokens, .n_tokens = n, .first_row = batch->n_logits};
    memcpy(batch->token + part.first_token, seq->token + pos, (size_t)n * sizeof *seq->token);
    for (int32_t i = 0; i < n; i++) batch->pos[part.first_token + i] = pos + i;
    for (int32_t g = 0; g < plan->n_groups; g++) {
        step_add_kv(plan, &seq->kv->table[g], &batch->kv[g], &part, pos);
    }
    int32_t from, to;
    step_wanted(seq, n, &from, &to);
    part.n_rows = to - from;
    CHECK(batch->n_logits + part.n_rows <= plan->max_logits);
    for (int32_t at = from; at < to; at++) {
        batch->logits_row[batch->n_logits++] = part.first_token + at - pos;
    }
    step_add_jobs(plan, seq, &part, from, to);
    batch->n_tokens += n;
    batch->kv_len[plan->n_seqs] = pos + n;
    batch->query_start[plan->n_seqs + 1] = batch->n_tokens;
    plan->seqs[plan->n_seqs++] = part;
    batch->n_seqs = plan->n_seqs;
    if (n > 1 || seq->n_tokens - pos > 1) plan->n_prompt_tokens += n;
    seq->planned = true;
}
