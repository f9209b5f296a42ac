/* step: what one step computes (StepPlan) and what came out (StepResult).
 *
 * Built by the scheduler, read by the runner, never changed in between. All arrays are allocated
 * once, for the largest step. */
#pragma once

#include "engine/request.h"
#include "model/batch.h"

/* A sequence's part of the step. */
typedef struct PlanSeq {
    Seq *seq;
    int32_t first_token, n_tokens; /* in the batch */
    int32_t first_row, n_rows;     /* of the logits */
    int32_t first_job, n_jobs;     /* of the jobs */
} PlanSeq;

/* What to do with a row of logits. */
typedef struct SampleJob {
    Seq *seq;
    int32_t row;
    int32_t target; /* >= 0: report this token's logprob (prompt logprobs); -1: pick a token */
    SamplerParams params;
} SampleJob;

typedef struct StepPlan {
    int64_t id;
    bool hidden; /* hidden states are wanted instead of logits: an embedding step */
    Batch batch;
    int32_t n_seqs;
    PlanSeq *seqs; /* [max_seqs] */
    int32_t n_jobs;
    SampleJob *jobs;         /* [max_seqs + max_logits] */
    KvMoves moves;           /* of blocks, before the pass; there may be no pass at all */
    int32_t n_prompt_tokens; /* tokens that are not the single next one of a sequence */
    int32_t block_tokens, n_groups;
    int32_t max_tokens, max_logits;
    void *memory;
} StepPlan;

typedef struct StepResult {
    SamplerResult *sample; /* [n_jobs] */
    Status *status;        /* [n_jobs] */
    KvMoved *moved;        /* [n_moved_max] moves to and from the host that are over */
    int32_t n_moved, n_moved_max;
    int64_t move_us;     /* that this step's moves took */
    int64_t device_us;   /* from when an accelerator had work until it was done; 0 on the host */
    const float *hidden; /* [n_logits, dim] of an embedding step; the runner's */
} StepResult;

int64_t step_plan_bytes(const EngineLimits *limits);
MUST_USE Status step_plan_init(StepPlan *plan, StepResult *result, const EngineLimits *limits,
                               Err *err);
void step_plan_free(StepPlan *plan, StepResult *result);

/* Empties the plan for the next step, but for the moves: they are the caller's to begin anew. */
void step_plan_reset(StepPlan *plan, int64_t id, bool hidden);
/* Rows of logits that the next n query tokens of seq ask for. */
int32_t step_plan_rows(const Seq *seq, int32_t n);
/* Adds the next n query tokens of seq, whose slots exist, with their rows and jobs. There must be
 * room (CHECKed). */
void step_plan_add(StepPlan *plan, Seq *seq, int32_t n);
