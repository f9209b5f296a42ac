#include "app/bench_batch.h"

#include "base/clock.h"
#include "base/mem.h"

struct BenchBatch {
    Forward *forward;
    KvStore *store;
    Batch batch;
    int32_t n_seqs, n_blocks, block_tokens, n_groups; /* blocks of a sequence */
    int32_t vocab;
    int32_t *arrays;
    Device *device;
    SampleSpec *spec; /* [n_seqs] on an accelerator, which picks tokens as it does for the engine */
    SampleResult *answer;
    int64_t device_us; /* that it took for all steps */
};

/* Sequence s has blocks s * n_blocks and on, in all groups. */
static void bench_batch_init(BenchBatch *b) {
    size_t n = (size_t)b->n_seqs;
    b->arrays = mem_alloc((7 * n + 2 + n * (size_t)b->n_blocks) * sizeof(int32_t));
    Batch *batch = &b->batch;
    batch->n_seqs = batch->n_tokens = batch->n_logits = b->n_seqs;
    batch->token = b->arrays;
    batch->pos = batch->token + n;
    batch->logits_row = batch->pos + n;
    batch->kv_len = batch->logits_row + n;
    batch->query_start = batch->kv_len + n;
    int32_t *kv_slot = batch->query_start + n + 1, *table_start = kv_slot + n;
    int32_t *block_id = table_start + n + 1;
    for (int32_t s = 0; s <= b->n_seqs; s++) {
        batch->query_start[s] = s;
        table_start[s] = s * b->n_blocks;
    }
    for (int32_t s = 0; s < b->n_seqs; s++) batch->logits_row[s] = s;
    for (int32_t i = 0; i < b->n_seqs * b->n_blocks; i++) block_id[i] = i;
    for (int32_t g = 0; g < b->n_groups; g++)
        batch->kv[g] = (BatchKv){kv_slot, table_start, block_id};
}

/* Every step is recorded, and picks the largest logit of each sequence. */
static Status bench_batch_record(BenchBatch *b, Err *err) {
    const DeviceVtable *v = b->device->vtable;
    const size_t n = (size_t)b->n_seqs;
    TRY(forward_record(b->forward, b->store, err));
    void *memory = NULL;
    TRY(v->alloc(b->device, n * sizeof *b->answer, &memory, err));
    b->answer = memory;
    TRY(v->alloc(b->device, n * sizeof *b->spec, &memory, err));
    b->spec = memory;
    SampleSpec *spec = mem_alloc(n * sizeof *spec);
    for (int32_t s = 0; s < b->n_seqs; s++)
        spec[s] = (SampleSpec){
            .row = s, .top_p = 1, .repetition = 1, .mask = -1, .target = -1, .n_top = -1};
    const Status status = v->upload(b->device, b->spec, spec, n * sizeof *spec, err);
    mem_free(spec);
    return status;
}

static Status bench_batch_make(BenchBatch *b, const Compute *compute, int32_t context, Err *err) {
    const ModelConfig *config = model_config(compute->model);
    b->n_groups = kv_store_groups(config);
    b->n_blocks = DIV_UP(context, b->block_tokens);
    b->vocab = config->vocab;
    ForwardLimits limits = {.n_tokens_max = b->n_seqs,
                            .n_seqs_max = b->n_seqs,
                            .n_logits_max = b->n_seqs,
                            .context_max = context,
                            .table_blocks_max = b->n_blocks};
    TRY(forward_open(&b->forward, compute->model, &compute->ctx, &limits, err));
    int32_t n_blocks[MODEL_KV_GROUPS_MAX] = {0};
    for (int32_t g = 0; g < b->n_groups; g++) n_blocks[g] = b->n_seqs * b->n_blocks;
    TRY(kv_store_open(&b->store, config, compute->ctx.device, compute->kv_dtype, b->block_tokens,
                      n_blocks, err));
    bench_batch_init(b);
    kv_store_populate(b->store, compute->pool);
    return b->device->id != DEVICE_HOST ? bench_batch_record(b, err) : OK;
}

Status bench_batch_open(BenchBatch **out, const Compute *compute, int32_t n_seqs, int32_t context,
                        int32_t block_tokens, Err *err) {
    BenchBatch *b = mem_alloc(sizeof *b);
    b->n_seqs = n_seqs;
    b->block_tokens = block_tokens;
    b->device = compute->ctx.device;
    Status status = bench_batch_make(b, compute, context, err);
    if (status != OK) {
        bench_batch_close(b);
        return status;
    }
    *out = b;
    return OK;
}

void bench_batch_close(BenchBatch *b) {
    if (b == NULL) return;
    const DeviceVtable *v = b->device->vtable;
    const size_t n = (size_t)b->n_seqs;
    if (b->spec != NULL) v->free(b->device, b->spec, n * sizeof *b->spec);
    if (b->answer != NULL) v->free(b->device, b->answer, n * sizeof *b->answer);
    kv_store_close(b->store);
    forward_close(b->forward);
    mem_free(b->arrays);
    mem_free(b);
}

static Status bench_batch_run(BenchBatch *b, Err *err) {
    const float *logits;
    if (b->device->id == DEVICE_HOST)
        return forward_run(b->forward, b->store, &b->batch, &logits, err);
    TRY(forward_queue(b->forward, b->store, &b->batch, err));
    forward_sample(b->forward, &(SampleArgs){.n = b->n_seqs, .spec = b->spec, .out = b->answer});
    const Status status = b->device->vtable->sync(b->device, err);
    b->device_us += clock_us() - forward_begin_us(b->forward);
    return status;
}

int64_t bench_batch_device_us(const BenchBatch *b) {
    return b->device_us;
}

/* The sequences of a step have different ones, and so have steps that follow each other: experts
 * are chosen by the token. */
static int32_t bench_batch_token(const BenchBatch *b, int32_t s, int32_t pos) {
    const int64_t i = (int64_t)pos * b->n_seqs + s;
    return (int32_t)((i * 7919 + 101) % b->vocab);
}

Status bench_batch_step(BenchBatch *b, int32_t pos, Err *err) {
    for (int32_t s = 0; s < b->n_seqs; s++) {
        int32_t block = s * b->n_blocks + pos / b->block_tokens;
        b->batch.token[s] = bench_batch_token(b, s, pos);
        b->batch.pos[s] = pos;
        b->batch.kv_len[s] = pos + 1;
        b->batch.kv[0].kv_slot[s] = block * b->block_tokens + pos % b->block_tokens;
    }
    return bench_batch_run(b, err);
}
