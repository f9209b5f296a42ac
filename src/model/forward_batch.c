/* forward_batch: a step's arrays, copied to the device at once.
 *
 * Where an array stands follows from the counts of tokens, sequences and rows alone, so that a
 * recorded step finds the next one's arrays in the same places. The block ids come last: of each
 * step only those that it has are copied. */
#include <string.h>

#include "base/mem.h"
#include "model/forward_priv.h"

/* All arrays but the block ids. */
static int64_t forward_batch_fixed(int32_t n_groups, int64_t n_tokens, int64_t n_seqs,
                                   int64_t n_logits) {
    return 2 * n_tokens + 2 * n_seqs + 1 + n_logits + n_groups * (n_tokens + n_seqs + 1);
}

static int64_t forward_batch_len(const ForwardLimits *limits, int32_t n_groups) {
    const int64_t blocks =
        limits->table_blocks_max > 0 ? limits->table_blocks_max : limits->context_max;
    return forward_batch_fixed(n_groups, limits->n_tokens_max, limits->n_seqs_max,
                               limits->n_logits_max) +
           n_groups * blocks * limits->n_seqs_max;
}

int64_t forward_batch_bytes(const ForwardLimits *limits, const ModelConfig *config) {
    return forward_batch_len(limits, kv_store_groups(config)) * (int64_t)sizeof(int32_t);
}

Status forward_batch_open(Forward *f, Err *err) {
    const ForwardLimits *limits = &f->limits;
    const ModelConfig *c = f->config;
    Device *device = f->ctx.device;
    ForwardBatch *sent = &f->sent;
    sent->len_max = forward_batch_len(limits, kv_store_groups(c));
    const size_t bytes = (size_t)sent->len_max * sizeof(int32_t);
    const size_t logits =
        (size_t)limits->n_logits_max * (size_t)MAX(c->vocab, c->dim) * sizeof(float);
    void *memory = NULL;
    TRY(device->vtable->alloc(device, bytes, &memory, err));
    sent->device = memory;
    TRY(device->vtable->host_alloc(device, bytes, &memory, err));
    sent->host = memory;
    TRY(device->vtable->host_alloc(device, logits, &memory, err));
    f->host_logits = memory;
    return OK;
}

void forward_batch_close(Forward *f) {
    Device *device = f->ctx.device;
    if (f->sent.device != NULL)
        device->vtable->free(device, f->sent.device, (size_t)f->sent.len_max * sizeof(int32_t));
    if (f->sent.host != NULL) device->vtable->host_free(device, f->sent.host);
    if (f->host_logits != NULL) device->vtable->host_free(device, f->host_logits);
}

/* The arrays of a step of that size behind `at`; kv[0].block_id is where the block ids begin. */
static Batch forward_batch_at(int32_t *at, int32_t n_groups, int32_t n_tokens, int32_t n_seqs,
                              int32_t n_logits) {
    Batch b = {.n_seqs = n_seqs, .n_tokens = n_tokens, .n_logits = n_logits};
    int32_t *next = at;
    b.token = next;
    b.pos = next += n_tokens;
    b.query_start = next += n_tokens;
    b.kv_len = next += n_seqs + 1;
    b.logits_row = next += n_seqs;
    next += n_logits;
    for (int32_t g = 0; g < n_groups; g++) {
        b.kv[g].kv_slot = next;
        b.kv[g].table_start = next += n_tokens;
        next += n_seqs + 1;
    }
    for (int32_t g = 0; g < n_groups; g++) b.kv[g].block_id = next;
    return b;
}

void forward_batch_place(Forward *f, int32_t n_tokens, int32_t n_seqs, int32_t n_logits) {
    f->sent.batch =
        forward_batch_at(f->sent.device, kv_store_groups(f->config), n_tokens, n_seqs, n_logits);
}

static void forward_batch_copy(int32_t *to, const int32_t *from, int32_t n, int32_t n_all,
                               int32_t fill) {
    memcpy(to, from, (size_t)n * sizeof *to);
    for (int32_t i = n; i < n_all; i++) to[i] = fill;
}

/* One group's slots and tables; its block ids go behind n_blocks others. Returns how many there are
 * then. */
static int32_t forward_batch_copy_kv(Batch *to, int32_t g, const Batch *from, int32_t n_blocks) {
    const BatchKv *kv = &from->kv[g];
    const int32_t n = kv->table_start[from->n_seqs] - kv->table_start[0];
    forward_batch_copy(to->kv[g].kv_slot, kv->kv_slot, from->n_tokens, to->n_tokens, -1);
    for (int32_t i = 0; i <= to->n_seqs; i++)
        to->kv[g].table_start[i] =
            n_blocks + kv->table_start[MIN(i, from->n_seqs)] - kv->table_start[0];
    memcpy(to->kv[g].block_id + n_blocks, kv->block_id + kv->table_start[0],
           (size_t)n * sizeof(int32_t));
    return n_blocks + n;
}

Status forward_batch_send(Forward *f, const Batch *batch, int32_t n_seqs, Err *err) {
    const int32_t n_groups = kv_store_groups(f->config);
    const int32_t n_fill = n_seqs > 0 ? n_seqs - batch->n_seqs : 0;
    int64_t n_ids = 0;
    for (int32_t g = 0; g < n_groups; g++)
        n_ids += batch->kv[g].table_start[batch->n_seqs] - batch->kv[g].table_start[0];
    Batch host = forward_batch_at(f->sent.host, n_groups, batch->n_tokens + n_fill,
                                  batch->n_seqs + n_fill, batch->n_logits + n_fill);
    const int64_t fixed = forward_batch_fixed(n_groups, host.n_tokens, host.n_seqs, host.n_logits);
    CHECK(fixed + n_ids <= f->sent.len_max);
    forward_batch_copy(host.token, batch->token, batch->n_tokens, host.n_tokens, 0);
    forward_batch_copy(host.pos, batch->pos, batch->n_tokens, host.n_tokens, 0);
    forward_batch_copy(host.kv_len, batch->kv_len, batch->n_seqs, host.n_seqs, 0);
    for (int32_t i = 0; i <= host.n_seqs; i++)
        host.query_start[i] = i <= batch->n_seqs
                                  ? batch->query_start[i]
                                  : batch->query_start[batch->n_seqs] + i - batch->n_seqs;
    for (int32_t i = 0; i < host.n_logits; i++)
        host.logits_row[i] = i < batch->n_logits ? batch->logits_row[i] : i;
    int32_t n_blocks = 0;
    for (int32_t g = 0; g < n_groups; g++)
        n_blocks = forward_batch_copy_kv(&host, g, batch, n_blocks);
    forward_batch_place(f, host.n_tokens, host.n_seqs, host.n_logits);
    return f->ctx.device->vtable->send(f->ctx.device, f->sent.device, f->sent.host,
                                       (size_t)(fixed + n_blocks) * sizeof(int32_t), err);
}
