/* ops: the tables of the CPU levels, each the reference with faster entries laid over. */
#include "ops/ops.h"

#include <string.h>

#include "ops/cpu/cpu_detect.h"
#include "ops/cpu/cpu_linear.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/cpu_pack.h"
#include "ops/ops_priv.h"

static DType ops_feed_f32(DType weight) {
    (void)weight;
    return DTYPE_F32;
}

size_t ops_gated_scratch_bytes(const OpsLimits *limits) {
    return ops_scratch_round((size_t)limits->n_tokens_max * (size_t)limits->ff * sizeof(float));
}

void ops_gated(OpCtx *ctx, const GatedArgs *args, void (*linear)(OpCtx *, const LinearArgs *),
               void (*act)(OpCtx *, const ActArgs *)) {
    ops_check_gated(args);
    OpsScratch scratch = ops_scratch_begin(ctx);
    const int64_t n_tokens = args->x.shape[0], n = args->up->t.shape[0];
    void *data = ops_scratch_take(&scratch, (size_t)n_tokens * (size_t)n * sizeof(float));
    const Tensor up = tensor_2d(data, DTYPE_F32, n_tokens, n);
    OpCtx rest = *ctx;
    rest.scratch = scratch.next;
    rest.scratch_bytes = scratch.left_bytes;
    const LinearArgs products = {
        .x = args->x,
        .n_parts = 2,
        .part = {{args->up, args->up_bias, up}, {args->gate, args->gate_bias, args->out}}};
    linear(&rest, &products);
    const ActArgs activation = {.kind = args->act, .gate = args->out, .up = &up, .out = args->out};
    act(&rest, &activation);
}

static size_t ops_ref_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    (void)n_threads;
    return ref_linear_scratch_bytes(limits) + ops_gated_scratch_bytes(limits);
}

static size_t ops_cpu_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    size_t products =
        MAX(cpu_linear_scratch_bytes(limits, n_threads), cpu_moe_scratch_bytes(limits, n_threads));
    return MAX(products, cpu_ops_scratch_bytes(limits, n_threads)) +
           ops_gated_scratch_bytes(limits);
}

static void ops_gated_avx2(OpCtx *ctx, const GatedArgs *args) {
    ops_gated(ctx, args, cpu_linear_avx2, cpu_act_avx2);
}

static void ops_gated_avx512(OpCtx *ctx, const GatedArgs *args) {
    ops_gated(ctx, args, cpu_linear_avx512, cpu_act_avx512);
}

static void ops_gated_avx512bf16(OpCtx *ctx, const GatedArgs *args) {
    ops_gated(ctx, args, cpu_linear_avx512bf16, cpu_act_avx512);
}

static void ops_gated_amx(OpCtx *ctx, const GatedArgs *args) {
    ops_gated(ctx, args, cpu_linear_amx, cpu_act_avx512);
}

/* What the levels that have 512-bit vectors share. */
#define OPS_ENTRIES_512                                                                   \
    .feed = ops_feed_f32, .scratch_bytes = ops_cpu_scratch_bytes,                         \
    .weight_prepare = cpu_pack_weight_prepare, .weight_release = cpu_pack_weight_release, \
    .embed = cpu_embed_avx512, .norm = cpu_norm_avx512, .rope_kv = cpu_rope_avx512,       \
    .attn = cpu_attn_avx512, .act = cpu_act_avx512, .moe_route = ref_moe_route,           \
    .softcap = cpu_act_softcap_avx512, .gather_rows = cpu_embed_gather_avx512

static const Ops OPS_TABLE[OPS_LEVEL_COUNT] = {
    [OPS_REF] =
        {
            .level = "ref",
            .feed = ops_feed_f32,
            .scratch_bytes = ops_ref_scratch_bytes,
            .weight_prepare = ref_weight_prepare,
            .weight_release = ref_weight_release,
            .embed = ref_embed,
            .norm = ref_norm,
            .linear = ref_linear,
            .gated = ref_gated,
            .rope_kv = ref_rope_kv,
            .attn = ref_attn,
            .act = ref_act,
            .moe_route = ref_moe_route,
            .moe = ref_moe,
            .softcap = ref_act_softcap,
            .gather_rows = ref_embed_gather_rows,
        },
    [OPS_AVX2] =
        {
            .level = "avx2",
            .feed = ops_feed_f32,
            .scratch_bytes = ops_cpu_scratch_bytes,
            .weight_prepare = cpu_pack_weight_prepare,
            .weight_release = cpu_pack_weight_release,
            .embed = cpu_embed_avx2,
            .norm = cpu_norm_avx2,
            .linear = cpu_linear_avx2,
            .gated = ops_gated_avx2,
            .rope_kv = cpu_rope_avx2,
            .attn = cpu_attn_avx2,
            .act = cpu_act_avx2,
            .moe_route = ref_moe_route,
            .moe = cpu_moe_avx2,
            .softcap = cpu_act_softcap_avx2,
            .gather_rows = cpu_embed_gather_avx2,
        },
    [OPS_AVX512] = {.level = "avx512",
                    .linear = cpu_linear_avx512,
                    .gated = ops_gated_avx512,
                    .moe = cpu_moe_avx512,
                    OPS_ENTRIES_512},
    [OPS_AVX512BF16] = {.level = "avx512bf16",
                        .linear = cpu_linear_avx512bf16,
                        .gated = ops_gated_avx512bf16,
                        .moe = cpu_moe_avx512bf16,
                        OPS_ENTRIES_512},
    [OPS_AMX] = {.level = "amx",
                 .linear = cpu_linear_amx,
                 .gated = ops_gated_amx,
                 .moe = cpu_moe_amx,
                 OPS_ENTRIES_512},
};

const char *ops_level_name(OpsLevel level) {
    CHECK(level >= 0 && level < OPS_LEVEL_COUNT);
    return OPS_TABLE[level].level;
}

bool ops_cpu_has(OpsLevel level) {
    CpuFeatures features = cpu_detect();
    switch (level) {
        case OPS_REF: return true;
        case OPS_AVX2: return features.avx2;
        case OPS_AVX512:
        case OPS_AVX512BF16: return features.avx512;
        case OPS_AMX: return features.amx;
        case OPS_LEVEL_COUNT: break;
    }
    return false;
}

Status ops_cpu(const Ops **out, const char *level, Err *err) {
    for (int32_t i = OPS_LEVEL_COUNT - 1; i >= 0; i--) {
        if (level != NULL && strcmp(level, OPS_TABLE[i].level) != 0) continue;
        /* Elsewhere vdpbf16ps does no more than FMA, and less exactly. */
        if (level == NULL && i == OPS_AVX512BF16 && !cpu_is_zen5()) continue;
        if (ops_cpu_has((OpsLevel)i)) {
            *out = &OPS_TABLE[i];
            return OK;
        }
        if (level != NULL)
            FAIL(err, ERR_UNSUPPORTED, "level '%s': this processor or system lacks it", level);
    }
    FAIL(err, ERR_ARG,
         "level '%s': there is no such level (wanted ref, avx2, avx512, avx512bf16 or amx)", level);
}
