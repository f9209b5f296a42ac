/* beam: beam search over sequences that share their blocks.
 *
 * The beams of a request advance together. Each step ranks the continuations of all beams by their
 * sum of logprobs; a stop token among the best `width` makes a finished hypothesis, the others are
 * the next beams. Scores and the end follow Hugging Face: score = sum / length ^ penalty, done when
 * no running beam can beat the worst of `width` hypotheses. */
#pragma once

#include "engine/engine_priv.h"

/* The step gave logprobs for every beam; part is the first beam's (the only one after the prompt).
 * The request may be gone afterwards. */
void beam_commit(Engine *engine, const PlanSeq *part, const StepResult *result);
