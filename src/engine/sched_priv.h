/* sched_priv: the waiting queue and the tenants' books, between sched.c and sched_queue.c. */
#pragma once

#include "engine/sched.h"

/* A new request goes last, and into its tenant's book. */
void sched_queue_add(Sched *sched, Request *request);
/* A preempted sequence goes before all that wait. */
void sched_queue_push_front(Sched *sched, Seq *seq);
/* Index in waiting[] of who is next by policy; there must be one. Changes nothing. */
int32_t sched_queue_pick(const Sched *sched);
/* Takes the picked one out; the oldest remembers that it was overtaken. */
void sched_queue_take(Sched *sched, int32_t at);
/* Takes out a sequence that gave up waiting. */
void sched_queue_remove(Sched *sched, Seq *seq);

/* Books n_tokens of a step. known: tokens of the sequence, to tell output from prompt. */
void sched_queue_charge(Sched *sched, const Request *request, int32_t n_tokens, int32_t known);
/* Prompt tokens of a waiting sequence that the prefix cache has. */
int32_t sched_warm_tokens(const Sched *sched, const Seq *seq);
