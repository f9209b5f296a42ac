#include "model/scratch.h"

#include <string.h>

#include "base/mem.h"
#include "model/rope_table.h"

static bool scratch_has_dense(const ModelConfig *config) {
    for (int32_t i = 0; i < config->n_layers; i++)
        if (!config->layer_moe[i]) return true;
    return false;
}

OpsLimits scratch_ops_limits(const ModelConfig *config, const ForwardLimits *limits) {
    int64_t heads = (int64_t)config->n_heads * config->head_dim;
    int64_t widest = MAX(MAX(heads, (int64_t)config->ff_dim),
                         MAX((int64_t)config->dim, (int64_t)config->expert_ff_dim));
    return (OpsLimits){.n_tokens_max = limits->n_tokens_max,
                       .n_seqs_max = limits->n_seqs_max,
                       .k_max = widest,
                       .n_max = MAX(widest, (int64_t)config->n_experts),
                       .ff = config->ffn_gated && scratch_has_dense(config) ? config->ff_dim : 0,
                       .vocab = config->vocab,
                       .n_logits_max = limits->n_logits_max,
                       .context_max = limits->context_max,
                       .n_heads = config->n_heads,
                       .n_kv_heads = config->n_kv_heads,
                       .head_dim = config->head_dim,
                       .n_experts = config->n_experts,
                       .n_experts_used = config->n_experts_used,
                       .expert_ff = config->expert_ff_dim};
}

/* What tensor cores' copies want of a row's start. */
enum { SCRATCH_ALIGN = 256 };

static int64_t scratch_table_len(const RopeConfig *rope, int32_t n_pos) {
    return rope_table_bytes(rope, n_pos) / (int64_t)sizeof(float);
}

/* Gives each part its place behind `base`, or only adds up when base is NULL. Returns the bytes. */
static int64_t scratch_place(Scratch *s, const ModelConfig *c, const ForwardLimits *limits,
                             const Ops *ops, char *base) {
    int64_t n = limits->n_tokens_max, heads = (int64_t)c->n_heads * c->head_dim;
    int64_t kv_heads = (int64_t)c->n_kv_heads * c->head_dim;
    int64_t ff = scratch_has_dense(c) ? c->ff_dim : 0;
    const int64_t feed = dtype_info(s->feed)->group_bytes, f32 = sizeof(float);
    const int64_t plan =
        ops->attn_plan_bytes != NULL ? (int64_t)ops->attn_plan_bytes(&s->limits) : 0;
    const struct {
        void *part; /* address of the pointer */
        int64_t len, size;
    } parts[] = {
        {&s->x, n * c->dim, f32},
        {&s->h, n * c->dim, f32},
        {&s->add, c->post_norms ? n * c->dim : 0, f32},
        {&s->q, n * heads, feed},
        {&s->k, n * kv_heads, feed},
        {&s->v, n * kv_heads, feed},
        {&s->attn, n * heads, feed},
        {&s->hidden, n * ff, feed},
        {&s->router, n * c->n_experts, f32},
        {&s->expert_weight, n * c->n_experts_used, f32},
        {&s->expert, n * c->n_experts_used, sizeof(int32_t)},
        {&s->logits, (int64_t)limits->n_logits_max * c->vocab, f32},
        {&s->cos_sin, scratch_table_len(&c->rope, limits->context_max), f32},
        {&s->cos_sin_local, scratch_table_len(&c->rope_local, limits->context_max), f32},
        {&s->attn_plan[0], plan, 1},
        {&s->attn_plan[1], kv_store_groups(c) > 1 ? plan : 0, 1},
    };
    int64_t bytes = 0;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (base != NULL) {
            void *at = base + bytes;
            memcpy(parts[i].part, &at, sizeof at);
        }
        bytes = ALIGN_UP(bytes + parts[i].len * parts[i].size, (int64_t)SCRATCH_ALIGN);
    }
    if (base != NULL) s->op = base + bytes;
    return bytes + (int64_t)s->op_bytes;
}

int64_t scratch_bytes(const ModelConfig *config, const ForwardLimits *limits, const Ops *ops,
                      int32_t n_threads) {
    OpsLimits ops_limits = scratch_ops_limits(config, limits);
    Scratch s = {.limits = ops_limits,
                 .feed = ops->feed(config->weight_dtype),
                 .op_bytes = ops->scratch_bytes(&ops_limits, n_threads)};
    return scratch_place(&s, config, limits, ops, NULL);
}

static Status scratch_fill_table(const RopeConfig *rope, int32_t n_pos, float *out, Device *device,
                                 Err *err) {
    int64_t bytes = rope_table_bytes(rope, n_pos);
    if (bytes == 0) return OK;
    if (device->id == DEVICE_HOST) {
        rope_table_fill(rope, n_pos, out);
        return OK;
    }
    float *table = mem_try_alloc(1, (size_t)bytes);
    if (table == NULL) FAIL(err, ERR_NOMEM, "no memory for a rope table of %d positions", n_pos);
    rope_table_fill(rope, n_pos, table);
    Status status = device->vtable->upload(device, out, table, (size_t)bytes, err);
    mem_free(table);
    return status;
}

Status scratch_open(Scratch *out, const ModelConfig *config, const ForwardLimits *limits,
                    const Ops *ops, const OpCtx *ctx, Err *err) {
    int32_t n_threads = ctx->pool != NULL ? pool_threads(ctx->pool) : 1;
    OpsLimits ops_limits = scratch_ops_limits(config, limits);
    Device *device = ctx->device;
    *out = (Scratch){.limits = ops_limits,
                     .feed = ops->feed(config->weight_dtype),
                     .op_bytes = ops->scratch_bytes(&ops_limits, n_threads)};
    out->bytes = scratch_place(out, config, limits, ops, NULL);
    TRY(device->vtable->alloc(device, (size_t)out->bytes, &out->data, err));
    (void)scratch_place(out, config, limits, ops, out->data);
    Status status =
        scratch_fill_table(&config->rope, limits->context_max, out->cos_sin, device, err);
    if (status == OK)
        status = scratch_fill_table(&config->rope_local, limits->context_max, out->cos_sin_local,
                                    device, err);
    if (status != OK) scratch_close(out, device);
    return status;
}

void scratch_open_plans(Scratch *scratch, const ModelConfig *config, const Ops *ops, OpCtx *ctx) {
    for (int32_t g = 0; ops->attn_plan_open != NULL && g < kv_store_groups(config); g++) {
        AttnPlan plan = scratch_plan(scratch, g);
        ops->attn_plan_open(ctx, &plan);
    }
}

void scratch_close(Scratch *scratch, Device *device) {
    if (scratch->data != NULL) device->vtable->free(device, scratch->data, (size_t)scratch->bytes);
    *scratch = (Scratch){0};
}
