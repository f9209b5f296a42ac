/* filter: the cut of top-k and top-p without sorting a vocabulary.
 *
 * A radix select: three passes over the candidates with histograms of 11, 11 and 10 bits of the
 * logit, so the time is linear whatever the logits are. */
#pragma once

#include "base/base.h"

enum { FILTER_BUCKETS = 2048 };

/* Tokens still in play. */
typedef struct Candidates {
    int32_t n;
    int32_t *token; /* [n] ascending */
    float *logit;   /* [n] finite */
    double *weight; /* [n] exp((logit - max) / temperature); filled before top-p */
} Candidates;

/* Keeps the tokens whose logit is at least the k-th largest (all that tie with it stay, as in
 * Hugging Face and vLLM). histogram: FILTER_BUCKETS doubles of scratch. */
void filter_top_k(Candidates *candidates, int32_t k, double *histogram);
/* Keeps the likeliest tokens until their weight reaches p of the total, at least one; among equal
 * logits the lower ids come first. */
void filter_top_p(Candidates *candidates, double p, double *histogram);
/* Keeps the tokens at least min_p times as likely as the likeliest. */
void filter_min_p(Candidates *candidates, double min_p);
