/* ops: every kernel behind one table.
 *
 * ops/ref fills the whole table in plain C and is the truth; a level (avx2, avx512, cuda) overlays
 * the entries that it does faster. A caller never asks which level runs.
 *
 * Same bits: the order of every reduction that forms an output element depends on the shape of that
 * element alone (k, head_dim, the positions it attends to), never on n_tokens, on the other
 * sequences of the batch, on the chunking of a prompt or on the number of threads.
 *
 * Shapes are the caller's duty and are CHECKed. Activations are f32 on the CPU; a level may want
 * what feeds a matrix product, and q, k and v, in the smaller dtype that its `feed` names, and
 * takes f32 there too. Token-major activations: the first dimension is the token of the flat batch.
 *
 * Everything that an op reads or writes lies in the memory of the level's device, the index arrays
 * (tokens, slots, tables) included; only the argument structs and arrays of Weight are the host's.
 * On an accelerator a token with kv_slot -1 writes no keys, and a sequence with kv_len 0 attends to
 * nothing: rows that fill a recorded step up. */
#pragma once

#include "base/thread.h"
#include "ops/device.h"
#include "tensor/tensor.h"

/* A matrix [n, k] that ops->linear reads, in the layout its level wants. An expert is one too:
 * files stack experts or keep them apart, an array of Weight serves both in place. */
typedef struct Weight {
    Tensor t;       /* logical dtype and shape; data is the file's bytes or the packed copy */
    int32_t layout; /* 0: the file's rows; others belong to the level that packed it */
    void *owned;    /* what weight_release frees, or NULL when t.data is borrowed or an arena's */
    size_t owned_bytes; /* of owned, or of the arena */
} Weight;

/* Limits of one step, from which scratch memory is sized once. */
typedef struct OpsLimits {
    int32_t n_tokens_max; /* of a step */
    int32_t n_seqs_max;
    int64_t k_max; /* longest reduction of a linear */
    int64_t n_max; /* widest output of a linear, vocabulary excepted */
    int64_t ff;    /* width of the gated dense layers; 0: there are none */
    int64_t vocab; /* 0: no logits are made */
    int32_t n_logits_max;
    int32_t context_max; /* longest sequence */
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t n_experts, n_experts_used, expert_ff;
} OpsLimits;

/* What an op runs with. */
typedef struct OpCtx {
    Device *device;
    ThreadPool *pool; /* NULL: the calling thread alone */
    void *scratch;    /* ops->scratch_bytes(limits), CACHE_LINE aligned, in the device's memory */
    size_t scratch_bytes;
    /* Where weight_prepare takes host memory that it keeps, which outlives the weight; NULL: each
     * weight has its own. */
    struct LargeArena *weights;
    bool fast; /* products of many tokens may sum in an order that only they have */
} OpCtx;

/* out[t, :] = table[token[t], :] * scale (+ pos_table[pos[t], :]) */
typedef struct EmbedArgs {
    const Weight *table;        /* [vocab, dim] any readable dtype, layout 0 */
    const Weight *pos_table;    /* [n_pos, dim] learned positions (GPT-2), or NULL */
    const int32_t *token, *pos; /* [n_tokens] */
    float scale;
    Tensor out; /* [n_tokens, dim] */
} EmbedArgs;

typedef enum NormKind { NORM_RMS, NORM_LAYER } NormKind;

/* If add is given: x += add first (x is written). Then, row by row (rows of the last dimension),
 * RMS: out = x / sqrt(mean(x^2) + eps) * w; LAYER: out = (x - mean) / sqrt(var + eps) * w +
 * bias. */
typedef struct NormArgs {
    NormKind kind;
    Tensor x;          /* [n_rows, dim] f32 */
    const Tensor *add; /* [n_rows, dim] or NULL */
    const float *w;    /* [dim] f32 */
    const float *bias; /* [dim] or NULL */
    float eps;
    Tensor out; /* [n_rows, dim]; may be x; f32 or the feed's dtype */
} NormArgs;

enum { LINEAR_PARTS_MAX = 3 };

/* Up to three matrices that read the same input (Q, K, V; gate, up) in one op:
 * out[t, i] = sum_j x[t, j] * w[i, j] + bias[i], or out[t, i] += that when accumulate. */
typedef struct LinearPart {
    const Weight *w;   /* [n, k] */
    const float *bias; /* [n] f32 or NULL */
    Tensor out;        /* [n_tokens, n]; rows may be strided */
} LinearPart;

typedef struct LinearArgs {
    Tensor x; /* [n_tokens, k] f32 or the feed's dtype; rows may be strided */
    int32_t n_parts;
    LinearPart part[LINEAR_PARTS_MAX];
    bool accumulate;      /* the residual add, fused */
    const NormArgs *norm; /* where ops->takes_norm: runs first, see there; or NULL */
} LinearArgs;

typedef enum ActKind {
    ACT_SILU,
    ACT_GELU,      /* exact, with erf */
    ACT_GELU_TANH, /* the tanh approximation: GPT-2's gelu_new, Gemma's gelu_pytorch_tanh */
    ACT_RELU
} ActKind;

/* out = act(x Wg^T + bias) * (x Wu^T + bias): a gated feed-forward layer's first half. */
typedef struct GatedArgs {
    Tensor x;                         /* [n_tokens, k] as in LinearArgs */
    const Weight *gate, *up;          /* [n, k] each */
    const float *gate_bias, *up_bias; /* [n] f32 or NULL */
    ActKind act;
    Tensor out;           /* [n_tokens, n] f32 or the feed's dtype; rows may be strided */
    const NormArgs *norm; /* as in LinearArgs */
} GatedArgs;

/* One layer's keys and values, paged: element (slot, head, i) with slot = block * block_tokens +
 * offset stands at ((block * n_kv_heads + head) * block_tokens + offset) * head_dim + i.
 *
 * i8: a token's vector of a head is scale * q with one f32 scale, the largest magnitude over 127
 * (NaN where an element is not finite), and the q rounded to nearest even. A head's part of a
 * block is block_tokens * head_dim bytes of q, then block_tokens scales. */
typedef struct KvView {
    void *k, *v;
    DType dtype; /* f32, f16, bf16, i8 */
    int32_t n_blocks, block_tokens, n_kv_heads, head_dim;
} KvView;

/* Bytes of one token's keys, or values, of a head. */
static inline int64_t ops_kv_bytes(DType dtype, int64_t head_dim) {
    return head_dim * dtype_info(dtype)->group_bytes +
           (dtype == DTYPE_I8 ? (int64_t)sizeof(float) : 0);
}

typedef enum RopeStyle {
    ROPE_NONE,
    ROPE_NEOX,       /* pairs (i, i + rope_dim/2): Hugging Face */
    ROPE_INTERLEAVED /* pairs (2i, 2i+1): GGUF's llama rows */
} RopeStyle;

/* Per token and head: normalize (if *_norm), rotate the first rope_dim elements, and write k and v
 * to their slot of the KV cache. q is changed in place; k and v are scratch afterwards. */
typedef struct RopeKvArgs {
    Tensor q;    /* [n_tokens, n_heads, head_dim] f32 or the feed's dtype; rows may be strided */
    Tensor k, v; /* [n_tokens, n_kv_heads, head_dim] likewise */
    const float *q_norm, *k_norm; /* [head_dim] RMS-norm weights, or NULL */
    float norm_eps;
    RopeStyle style;
    int32_t rope_dim;
    const float *cos_sin;   /* [n_pos][rope_dim/2][2] */
    const int32_t *pos;     /* [n_tokens] */
    const int32_t *kv_slot; /* [n_tokens] */
    KvView kv;
} RopeKvArgs;

/* Positions that one partial softmax covers: every level splits a row's keys at multiples of it,
 * whatever the batch, so that the bits do not depend on the work's division. */
enum { ATTN_SPLIT_TOKENS = 256 };

/* How a level divides the attention of one step, made once for all layers with the same window.
 * Which plan, or none, never shows in the result. */
typedef struct AttnPlan {
    void *data;              /* attn_plan_bytes(limits) of the device, cleared by attn_plan_open */
    const OpsLimits *limits; /* those that it was sized for; borrowed */
} AttnPlan;

/* Paged attention over the ragged batch: for each sequence s the queries query_start[s] ..
 * query_start[s+1] stand at the last positions of its kv_len[s] tokens; query at position p sees
 * positions j <= p (all, when not causal) with j > p - window (when window > 0).
 * score = softcap(scale * q.k), softcap(x) = cap * tanh(x / cap) when cap > 0; with sinks a
 * head's softmax has one more logit, sinks[head], without a value.
 * source: FlashAttention 2205.14135, PagedAttention 2309.06180. */
typedef struct AttnArgs {
    Tensor q;   /* [n_tokens, n_heads, head_dim] f32 or the feed's dtype; rows may be strided */
    Tensor out; /* [n_tokens, n_heads, head_dim] likewise */
    KvView kv;
    int32_t n_seqs;
    const int32_t *query_start; /* [n_seqs + 1] */
    const int32_t *kv_len;      /* [n_seqs] length after this step */
    const int32_t *table_start; /* [n_seqs + 1] into block_id */
    const int32_t *block_id;    /* -1: freed behind the window, never read */
    float scale, softcap;
    int32_t window; /* 0: none */
    bool causal;
    const float *sinks;     /* [n_heads] or NULL */
    int32_t query_max;      /* no sequence of the step has more queries; for attn_plan's levels */
    AttnPlan plan;          /* of this step and window; zeroed where there is none */
    const RopeKvArgs *rope; /* where ops->takes_rope: runs first, see there; or NULL */
} AttnArgs;

/* out = act(gate) * up, or act(gate) when up is NULL. out may be gate. */
typedef struct ActArgs {
    ActKind kind;
    Tensor gate;      /* [n_tokens, n] */
    const Tensor *up; /* [n_tokens, n] or NULL */
    Tensor out;
} ActArgs;

/* Token-choice routing: the n_used largest of softmax(logits) per token (ties: lower expert).
 * normalize: the chosen weights are divided by their sum (Mixtral's softmax over the chosen is the
 * same number). source: Mixtral 2401.04088. */
typedef struct MoeRouteArgs {
    Tensor logits; /* [n_tokens, n_experts] f32 */
    int32_t n_used;
    bool normalize;
    float scale;     /* applied to the weights at the end; 1 usually */
    int32_t *expert; /* [n_tokens, n_used] */
    float *weight;   /* [n_tokens, n_used] */
} MoeRouteArgs;

/* out[t] (+)= sum over the chosen experts, in the order of `expert`, of
 * weight * down_e(act(gate_e(x)) * up_e(x)). Reads the touched experts only. */
typedef struct MoeArgs {
    Tensor x;                       /* [n_tokens, dim] */
    const Weight *gate, *up, *down; /* [n_experts] weights each: [ff, dim], [ff, dim], [dim, ff] */
    ActKind act;
    int32_t n_experts, n_used;
    const int32_t *expert; /* [n_tokens, n_used] */
    const float *weight;   /* [n_tokens, n_used] */
    Tensor out;            /* [n_tokens, dim] */
    bool accumulate;
} MoeArgs;

/* What a pick of a token depends on besides the logits; an array of them lies on the device. The
 * rules are the sampler's (sample/sampler.h): changes, temperature, top-k, top-p, min-p, draw. */
typedef struct SampleSpec {
    double u;                              /* uniform in [0, 1): where the draw falls */
    int32_t row;                           /* of the logits */
    float temperature;                     /* 0: the first of the largest logits */
    int32_t top_k;                         /* 0: off */
    float top_p, min_p;                    /* 1, 0: off */
    float repetition, presence, frequency; /* penalties; 1, 0, 0: off */
    int32_t first_change, n_changes;       /* in SampleArgs.change */
    bool is_changed;                       /* an earlier spec of the row has the same changes */
    int32_t mask;                          /* which of SampleArgs.mask; -1: every token may come */
    int32_t target;                        /* this token, whatever the logits; -1: pick one */
    int32_t n_top;     /* likeliest tokens to report, and the token's logprob; -1: nothing */
    int32_t first_top; /* in SampleArgs.top */
} SampleSpec;

/* A logit that bias or penalties change: a token stands once in a spec's. */
typedef struct SampleChange {
    int32_t token;
    int32_t n_output; /* times that the output has it */
    float bias;       /* added first; -inf takes the token out */
    int32_t seen;     /* in prompt or output: the penalties apply */
    float logit;      /* is set to what it was before */
} SampleChange;

typedef struct SampleResult {
    int32_t token;
    int32_t status; /* OK, or ERR_DEVICE: a logit is NaN or +inf, or none is finite */
    float logprob;  /* of the unchanged logits; where the spec asks for it */
} SampleResult;

/* One of the likeliest tokens by the unchanged logits: most likely first, ties by id. */
typedef struct SampleTop {
    int32_t token;
    float logprob;
} SampleTop;

enum { SAMPLE_TOP_MAX = 20 };

typedef struct SampleArgs {
    Tensor logits; /* [n_rows, vocab] f32; the rows of specs with changes or a
                              mask are changed */
    int32_t n;
    const SampleSpec *spec; /* [n]; specs of one row have the same changes and mask */
    SampleChange *change;   /* all specs' */
    const uint64_t *mask;   /* [n_masks, ceil(vocab / 64)] bit t: token t may be picked */
    SampleResult *out;      /* [n] */
    SampleTop *top;         /* all specs' */
    bool logprobs;          /* some spec asks for them */
} SampleArgs;

/* The matrices of a layer's experts as a file has them, arrays of one for each expert. */
typedef struct ExpertsFile {
    const Tensor *gate, *up, *down;
} ExpertsFile;

typedef struct Ops {
    const char *level; /* "ref", "avx2", "avx512", "avx512bf16", "amx", "cuda" */

    /* The dtype of activations that are multiplied with weights of this dtype, and of q, k, v and
     * the attention's output beside them. */
    DType (*feed)(DType weight);

    /* Bytes of scratch that any op may use within the limits. */
    size_t (*scratch_bytes)(const OpsLimits *limits, int32_t n_threads);

    /* Makes a weight from the file's tensor (host memory that outlives it): borrows, repacks or
     * uploads. weight_release undoes it. */
    Status (*weight_prepare)(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
    void (*weight_release)(OpCtx *ctx, Weight *weight);
    /* Makes a table that embed gathers rows of, as the file has it. NULL: it stays where it is. */
    Status (*table_prepare)(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
    /* All weights of a model are there: what preparing them took is given back. May be NULL. */
    Status (*weights_ready)(OpCtx *ctx, Err *err);
    /* The gate and up matrices of a gated layer, of one shape and dtype, and those of n experts
     * with their down matrices. NULL where weight_prepare for each does as well. */
    Status (*gated_prepare)(OpCtx *ctx, const Tensor *gate, const Tensor *up, Weight *out_gate,
                            Weight *out_up, Err *err);
    Status (*experts_prepare)(OpCtx *ctx, const ExpertsFile *file, int32_t n, Weight *gate,
                              Weight *up, Weight *down, Err *err);
    /* n matrices that are the parts of one linear, up to LINEAR_PARTS_MAX. NULL as above. */
    Status (*parts_prepare)(OpCtx *ctx, const Tensor *file, int32_t n, Weight *const *out,
                            Err *err);

    /* linear and gated can begin with the norm that makes their x. x is then scratch that they may
     * leave unwritten. */
    bool takes_norm;
    /* attn can begin with the rope_kv of its tokens. q is then scratch that it may leave as it
     * is. */
    bool takes_rope;

    void (*embed)(OpCtx *ctx, const EmbedArgs *args);
    void (*norm)(OpCtx *ctx, const NormArgs *args);
    void (*linear)(OpCtx *ctx, const LinearArgs *args);
    void (*gated)(OpCtx *ctx, const GatedArgs *args);
    void (*rope_kv)(OpCtx *ctx, const RopeKvArgs *args);
    void (*attn)(OpCtx *ctx, const AttnArgs *args);
    /* The plan of a step from the lengths, the window and the shapes of args: before the first attn
     * that has it. All three NULL where attn needs no plan. */
    size_t (*attn_plan_bytes)(const OpsLimits *limits);
    void (*attn_plan_open)(OpCtx *ctx, AttnPlan *plan);
    void (*attn_plan)(OpCtx *ctx, const AttnArgs *args);
    void (*act)(OpCtx *ctx, const ActArgs *args);
    void (*moe_route)(OpCtx *ctx, const MoeRouteArgs *args);
    void (*moe)(OpCtx *ctx, const MoeArgs *args);
    /* x = cap * tanh(x / cap), in place */
    void (*softcap)(OpCtx *ctx, Tensor x, float cap);
    /* out[i, :] = x[row[i], :] */
    void (*gather_rows)(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                        Tensor *out);
    /* Picks tokens where the logits lie; NULL on the CPU, where sample/ does. */
    void (*sample)(OpCtx *ctx, const SampleArgs *args);
} Ops;

typedef enum OpsLevel {
    OPS_REF,
    OPS_AVX2,
    OPS_AVX512,
    OPS_AVX512BF16, /* BF16 matrices times activations rounded to bf16; else as avx512 */
    OPS_AMX,        /* the same on tiles, F16 matrices too, times two bf16 each; else as avx512 */
    OPS_LEVEL_COUNT
} OpsLevel;

/* The level of that name ("ref", "avx2", "avx512", "avx512bf16", "amx"); NULL: the fastest this CPU
 * has, avx512bf16 where vdpbf16ps does more than FMA.
 * ERR_ARG for an unknown name, ERR_UNSUPPORTED for a level the CPU lacks. The table is static. */
MUST_USE Status ops_cpu(const Ops **out, const char *level, Err *err);
/* Whether this CPU (and system) can run the level. */
bool ops_cpu_has(OpsLevel level);
const char *ops_level_name(OpsLevel level);
