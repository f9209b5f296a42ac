/* sim_forget: blocks behind logits that are not finite leave the tree, and the file, as far as
 * nobody else holds them. Checked for requests of one sequence, in steps in which nothing else ends
 * and so lets go of blocks too. */
#pragma once

#include "sim_world.h"

/* The path of a sequence whose logits this step found not to be finite. */
static inline void sim_forget_note(SimWorld *w, const StepPlan *plan, const StepResult *result) {
    const KvRadix *radix = &w->engine->cache.radix;
    const int32_t size = w->plan->limits.kv.block_tokens;
    SimDoubt *doubt = &w->doubt;
    doubt->n = 0;
    for (int32_t i = 0; i < plan->n_jobs; i++) {
        const Seq *seq = plan->jobs[i].seq;
        if (result->status[i] == OK || seq->request->n_seqs > 1) continue;
        int32_t node = -1;
        for (; doubt->n < seq->kv->n_cached; doubt->n++) {
            const int32_t *token = seq->token + (ptrdiff_t)doubt->n * size;
            node = kv_radix_find(radix, seq->kv->salt, node, token);
            SIM_CHECK("K5 a sequence's path", node >= 0);
            doubt->prefix[doubt->n] = radix->node[node].prefix;
        }
        doubt->salt = seq->kv->salt;
        doubt->n_over = w->stats.n_finished + w->stats.n_cancelled + w->stats.n_failed;
    }
}

static inline void sim_forget_check(SimWorld *w) {
    const KvCache *cache = &w->engine->cache;
    const SimDoubt *doubt = &w->doubt;
    const int32_t n = doubt->n;
    w->doubt.n = 0;
    sluice_stats now;
    engine_get_stats(w->engine, &now);
    if (now.n_finished + now.n_cancelled + now.n_failed != doubt->n_over + 1) return;
    for (int32_t i = n - 1; i >= 0; i--) {
        const int32_t at = kv_radix_find_prefix(&cache->radix, doubt->salt, doubt->prefix[i]);
        if (at >= 0) {
            bool held = cache->radix.node[at].first_child >= 0;
            for (int32_t g = 0; g < cache->config.n_groups; g++) {
                const int32_t block = cache->radix.node[at].block[g];
                held = held || (block >= 0 && cache->pool[g].ref[block] > 0);
            }
            SIM_CHECK("K7 blocks behind bad logits stay", held);
            return;
        }
        for (int32_t k = 0; k < w->plan->n_records; k++) {
            const KvNode node = {.prefix = doubt->prefix[i], .disk = k};
            SIM_CHECK("K7 records behind bad logits stay", !kv_disk_has(cache->disk, &node));
        }
    }
}
