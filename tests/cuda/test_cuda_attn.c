/* test_cuda_attn: rotation, the write to the paged cache and attention on the GPU against the
 * reference: every field, odd shapes, shuffled blocks, NaN wherever nothing may be read; rows that
 * fill a recorded step up; and the same bits for a sequence alone and in a batch. */
#include "cuda/cuda_testing.h"

enum { SEQS = 5, TABLE = 80 };

typedef struct RopeAttn {
    int32_t head_dim, n_heads, n_kv_heads, block_tokens, rope_dim, window;
    RopeStyle style;
    DType feed, cache;
    bool norm, causal, sinks;
    float softcap;
} RopeAttn;

static const OpsLimits LIMITS = {.n_tokens_max = 2048,
                                 .n_seqs_max = SEQS,
                                 .k_max = 64,
                                 .n_max = 64,
                                 .n_heads = 16,
                                 .n_kv_heads = 8,
                                 .head_dim = 256,
                                 .context_max = 640};

typedef struct Sequences {
    int32_t query_start[SEQS + 1], kv_len[SEQS], table_start[SEQS + 1], block_id[SEQS * TABLE];
    int32_t *pos, *slot;
    int32_t n_tokens, n_blocks;
} Sequences;

/* First everything goes through the cache as a prompt; then the last few tokens attend. */
static void sequences_make(Sequences *s, const RopeAttn *c, const int32_t *kv_len) {
    s->n_blocks = SEQS * TABLE;
    s->n_tokens = 0;
    int32_t order[SEQS * TABLE];
    for (int32_t i = 0; i < s->n_blocks; i++) order[i] = i * 7 % s->n_blocks; /* 7: coprime */
    for (int32_t i = 0; i < SEQS; i++) {
        s->kv_len[i] = kv_len[i];
        s->query_start[i] = s->n_tokens;
        s->table_start[i] = i * TABLE;
        s->n_tokens += kv_len[i];
        for (int32_t b = 0; b < TABLE; b++) s->block_id[i * TABLE + b] = order[i * TABLE + b];
    }
    s->query_start[SEQS] = s->n_tokens;
    s->table_start[SEQS] = SEQS * TABLE;
    s->pos = mem_alloc((size_t)s->n_tokens * 4);
    s->slot = mem_alloc((size_t)s->n_tokens * 4);
    for (int32_t i = 0; i < SEQS; i++)
        for (int32_t j = 0; j < kv_len[i]; j++) {
            const int32_t block = s->block_id[i * TABLE + j / c->block_tokens];
            s->pos[s->query_start[i] + j] = j;
            s->slot[s->query_start[i] + j] = block * c->block_tokens + j % c->block_tokens;
        }
}

static void compare_caches(CudaTesting *t, const KvView *gpu, const KvView *host, size_t bytes) {
    const size_t n = bytes / (size_t)dtype_info(host->dtype)->group_bytes;
    const void *pairs[2][2] = {{gpu->k, host->k}, {gpu->v, host->v}};
    for (int32_t i = 0; i < 2; i++) {
        char *have = mem_alloc(bytes);
        float *a = mem_alloc(n * 4), *b = mem_alloc(n * 4);
        cuda_testing_get(t, have, pairs[i][0], bytes);
        dtype_to_f32(host->dtype, have, a, (int64_t)n);
        dtype_to_f32(host->dtype, pairs[i][1], b, (int64_t)n);
        size_t m = 0;
        for (size_t j = 0; j < n; j++) {
            assert_int_equal(isnan(a[j]) != 0, isnan(b[j]) != 0); /* nothing else is written */
            if (isnan(a[j])) continue;
            a[m] = a[j];
            b[m++] = b[j];
        }
        ASSERT_ERROR_BELOW(testing_nmse(a, b, m), host->dtype == DTYPE_F32 ? 1e-12 : 1e-6);
        mem_free(have);
        mem_free(a);
        mem_free(b);
    }
}

/* The last step of a case: the GPU's form of the reference's arguments. */
static void attn_on_gpu(CudaTesting *t, const RopeAttn *c, const Sequences *s, AttnArgs *gpu) {
    OpsLimits limits = LIMITS;
    limits.n_heads = c->n_heads;
    limits.n_kv_heads = c->n_kv_heads;
    limits.head_dim = c->head_dim;
    gpu->query_start = cuda_testing_put(t, s->query_start, sizeof s->query_start);
    gpu->kv_len = cuda_testing_put(t, s->kv_len, sizeof s->kv_len);
    gpu->table_start = cuda_testing_put(t, s->table_start, sizeof s->table_start);
    gpu->block_id = cuda_testing_put(t, s->block_id, sizeof s->block_id);
    if (c->sinks) gpu->sinks = cuda_testing_put(t, gpu->sinks, (size_t)c->n_heads * 4);
    if (gpu->query_max == 0) gpu->query_max = 300;
    gpu->plan = (AttnPlan){cuda_testing_put(t, NULL, t->ops->attn_plan_bytes(&limits)), &limits};
    t->ops->attn_plan_open(&t->ctx, &gpu->plan);
    t->ops->attn_plan(&t->ctx, gpu);
    t->ops->attn(&t->ctx, gpu);
}

static void rope_attn_case(CudaTesting *t, const RopeAttn *c, const int32_t *kv_len,
                           uint64_t stream) {
    Sequences s;
    sequences_make(&s, c, kv_len);
    const int64_t n = s.n_tokens, d = c->head_dim;
    const int64_t nq = n * c->n_heads * d, nk = n * c->n_kv_heads * d;
    float *q = cuda_testing_random(nq, stream, 1), *k = cuda_testing_random(nk, stream + 1, 1);
    float *v = cuda_testing_random(nk, stream + 2, 1), *w = cuda_testing_random(d, stream + 3, 1);
    float *turns = cuda_testing_random(2048 * (int64_t)MAX(c->rope_dim, 1), stream + 4, 0.7f);
    float *sinks = cuda_testing_random(c->n_heads, stream + 5, 1);
    float *out = mem_alloc((size_t)nq * 4);
    const size_t cache = (size_t)s.n_blocks * (size_t)(c->n_kv_heads * c->block_tokens) *
                         (size_t)d * (size_t)dtype_info(c->cache)->group_bytes;
    KvView kv = {.dtype = c->cache,
                 .n_blocks = s.n_blocks,
                 .block_tokens = c->block_tokens,
                 .n_kv_heads = c->n_kv_heads,
                 .head_dim = c->head_dim};
    KvView host_kv = kv;
    kv.k = cuda_testing_put(t, NULL, cache);
    kv.v = cuda_testing_put(t, NULL, cache);
    host_kv.k = memset(mem_alloc(cache), 0xff, cache);
    host_kv.v = memset(mem_alloc(cache), 0xff, cache);
    void *gq = cuda_testing_put_f32(t, q, nq, c->feed),
         *gk = cuda_testing_put_f32(t, k, nk, c->feed);
    void *gv = cuda_testing_put_f32(t, v, nk, c->feed),
         *gout = cuda_testing_put(t, NULL, (size_t)nq * 4);
    RopeKvArgs rope = {.q = tensor_3d(q, DTYPE_F32, n, c->n_heads, d),
                       .k = tensor_3d(k, DTYPE_F32, n, c->n_kv_heads, d),
                       .v = tensor_3d(v, DTYPE_F32, n, c->n_kv_heads, d),
                       .q_norm = c->norm ? w : NULL,
                       .k_norm = c->norm ? w : NULL,
                       .norm_eps = 1e-6f,
                       .style = c->style,
                       .rope_dim = c->rope_dim,
                       .cos_sin = turns,
                       .pos = s.pos,
                       .kv_slot = s.slot,
                       .kv = host_kv};
    t->ref->rope_kv(&t->host, &rope);
    RopeKvArgs gpu = rope;
    gpu.q = tensor_3d(gq, c->feed, n, c->n_heads, d);
    gpu.k = tensor_3d(gk, c->feed, n, c->n_kv_heads, d);
    gpu.v = tensor_3d(gv, c->feed, n, c->n_kv_heads, d);
    if (c->norm) gpu.q_norm = gpu.k_norm = cuda_testing_put(t, w, (size_t)d * 4);
    gpu.cos_sin = cuda_testing_put(t, turns, (size_t)(2048 * MAX(c->rope_dim, 1)) * 4);
    gpu.pos = cuda_testing_put(t, s.pos, (size_t)n * 4);
    gpu.kv_slot = cuda_testing_put(t, s.slot, (size_t)n * 4);
    gpu.kv = kv;
    t->ops->rope_kv(&t->ctx, &gpu);
    cuda_testing_compare(t, "rope's q", gq, q, nq, c->feed, 1e-12);
    compare_caches(t, &kv, &host_kv, cache);
    /* From here on both attend from the same q and cache. */
    cuda_testing_get_f32(t, q, gq, nq, c->feed);
    cuda_testing_get(t, host_kv.k, kv.k, cache);
    cuda_testing_get(t, host_kv.v, kv.v, cache);
    AttnArgs attn = {.q = tensor_3d(q, DTYPE_F32, n, c->n_heads, d),
                     .out = tensor_3d(out, DTYPE_F32, n, c->n_heads, d),
                     .kv = host_kv,
                     .n_seqs = SEQS,
                     .query_start = s.query_start,
                     .kv_len = s.kv_len,
                     .table_start = s.table_start,
                     .block_id = s.block_id,
                     .scale = 1 / sqrtf((float)d),
                     .softcap = c->softcap,
                     .window = c->window,
                     .causal = c->causal,
                     .sinks = c->sinks ? sinks : NULL};
    t->ref->attn(&t->host, &attn);
    AttnArgs gpu_attn = attn;
    gpu_attn.q = gpu.q;
    gpu_attn.out = tensor_3d(gout, c->feed, n, c->n_heads, d);
    gpu_attn.kv = kv;
    attn_on_gpu(t, c, &s, &gpu_attn);
    cuda_testing_compare(t, "attn", gout, out, nq, c->feed, c->feed == DTYPE_BF16 ? 2e-5 : 1e-11);
    mem_free(q);
    mem_free(k);
    mem_free(v);
    mem_free(w);
    mem_free(turns);
    mem_free(sinks);
    mem_free(out);
    mem_free(host_kv.k);
    mem_free(host_kv.v);
    mem_free(s.pos);
    mem_free(s.slot);
    cuda_testing_reset(t);
}

static void ropes_and_attends(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int32_t lens[] = {1, 40, 129, 7, 300}, few[] = {3, 33, 0, 64, 17};
    static const RopeAttn cases[] = {
        {64, 4, 2, 16, 64, 0, ROPE_NEOX, DTYPE_F32, DTYPE_F32, false, true, false, 0},
        {64, 4, 2, 16, 64, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, true, true, false, 0},
        {128, 8, 1, 16, 128, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, false, true, false, 0},
        {128, 4, 4, 32, 64, 50, ROPE_INTERLEAVED, DTYPE_BF16, DTYPE_BF16, false, true, true, 0},
        {256, 4, 2, 16, 256, 100, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, true, true, false, 30},
        {80, 6, 3, 8, 32, 0, ROPE_NEOX, DTYPE_F32, DTYPE_F16, false, true, true, 0},
        {24, 3, 1, 4, 24, 17, ROPE_INTERLEAVED, DTYPE_F32, DTYPE_BF16, true, true, false, 20},
        {64, 16, 8, 16, 64, 0, ROPE_NONE, DTYPE_BF16, DTYPE_BF16, false, false, false, 0},
        {33, 2, 2, 64, 0, 0, ROPE_NONE, DTYPE_F32, DTYPE_F32, false, false, true, 0},
        {128, 16, 2, 64, 128, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_F16, true, true, false, 0},
        {128, 4, 2, 16, 128, 0, ROPE_INTERLEAVED, DTYPE_BF16, DTYPE_BF16, false, true, false, 0},
        {256, 4, 2, 16, 256, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, false, true, false, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rope_attn_case(&t, &cases[i], few, 30000 + 32 * i);
        if (cases[i].block_tokens >= 8) rope_attn_case(&t, &cases[i], lens, 31000 + 32 * i);
    }
    cuda_testing_close(&t);
}

/* ---- rotation inside ---------------------------------------------------------------------- */

/* Random keys or values of all sequences but for their last token; NaN everywhere else. */
static uint16_t *decode_cache(const RopeAttn *c, const Sequences *s, uint64_t stream) {
    const int64_t d = c->head_dim, bt = c->block_tokens, h = c->n_kv_heads;
    const int64_t n = (int64_t)s->n_blocks * h * bt * d;
    uint16_t *cache = memset(mem_alloc((size_t)n * 2), 0xff, (size_t)n * 2);
    float *x = cuda_testing_random(n, stream, 1);
    for (int32_t i = 0; i < SEQS; i++)
        for (int32_t j = 0; j + 1 < s->kv_len[i]; j++)
            for (int64_t head = 0; head < h; head++) {
                const int64_t block = s->block_id[i * TABLE + j / bt];
                const int64_t at = ((block * h + head) * bt + j % bt) * d;
                for (int64_t l = 0; l < d; l++) cache[at + l] = bf16_from_f32(x[at + l]);
            }
    mem_free(x);
    return cache;
}

/* One token of each sequence: rope_kv and then attn, and attn that begins with rope_kv, leave the
 * same bits in the output and in the cache. */
static void decode_case(CudaTesting *t, const RopeAttn *c, const int32_t *kv_len, uint64_t stream) {
    Sequences s;
    sequences_make(&s, c, kv_len);
    const int64_t d = c->head_dim, nq = SEQS * c->n_heads * d, nk = SEQS * c->n_kv_heads * d;
    int32_t pos[SEQS], slot[SEQS];
    for (int32_t i = 0; i < SEQS; i++) {
        const int32_t last = s.query_start[i] + kv_len[i] - 1;
        pos[i] = kv_len[i] > 0 ? s.pos[last] : 0;
        slot[i] = kv_len[i] > 0 ? s.slot[last] : -1;
    }
    for (int32_t i = 0; i <= SEQS; i++) s.query_start[i] = i;
    float *x[3] = {cuda_testing_random(nq, stream, 1), cuda_testing_random(nk, stream + 1, 1),
                   cuda_testing_random(nk, stream + 2, 1)};
    float *w = cuda_testing_random(d, stream + 3, 1), *sinks = cuda_testing_random(16, stream, 1);
    float *turns = cuda_testing_random(2048 * (int64_t)MAX(c->rope_dim, 1), stream + 4, 0.7f);
    uint16_t *cache[2] = {decode_cache(c, &s, stream + 5), decode_cache(c, &s, stream + 6)};
    const size_t cache_bytes =
        (size_t)s.n_blocks * (size_t)(c->n_kv_heads * c->block_tokens) * (size_t)d * 2;
    const size_t bytes = (size_t)nq * 2 + 2 * cache_bytes;
    char *got[2] = {mem_alloc(bytes), mem_alloc(bytes)};
    for (int32_t inside = 0; inside < 2; inside++) {
        const KvView kv = {cuda_testing_put(t, cache[0], cache_bytes),
                           cuda_testing_put(t, cache[1], cache_bytes),
                           DTYPE_BF16,
                           s.n_blocks,
                           c->block_tokens,
                           c->n_kv_heads,
                           c->head_dim};
        void *out = cuda_testing_put(t, NULL, (size_t)nq * 2);
        const float *norm = c->norm ? cuda_testing_put(t, w, (size_t)d * 4) : NULL;
        RopeKvArgs rope = {
            .q = tensor_3d(cuda_testing_put_f32(t, x[0], nq, DTYPE_BF16), DTYPE_BF16, SEQS,
                           c->n_heads, d),
            .k = tensor_3d(cuda_testing_put_f32(t, x[1], nk, DTYPE_BF16), DTYPE_BF16, SEQS,
                           c->n_kv_heads, d),
            .v = tensor_3d(cuda_testing_put_f32(t, x[2], nk, DTYPE_BF16), DTYPE_BF16, SEQS,
                           c->n_kv_heads, d),
            .q_norm = norm,
            .k_norm = norm,
            .norm_eps = 1e-6f,
            .style = c->style,
            .rope_dim = c->rope_dim,
            .cos_sin = cuda_testing_put(t, turns, (size_t)(2048 * MAX(c->rope_dim, 1)) * 4),
            .pos = cuda_testing_put(t, pos, sizeof pos),
            .kv_slot = cuda_testing_put(t, slot, sizeof slot),
            .kv = kv};
        AttnArgs attn = {.q = rope.q,
                         .out = tensor_3d(out, DTYPE_BF16, SEQS, c->n_heads, d),
                         .kv = kv,
                         .n_seqs = SEQS,
                         .scale = 1 / sqrtf((float)d),
                         .softcap = c->softcap,
                         .window = c->window,
                         .causal = true,
                         .sinks = c->sinks ? sinks : NULL,
                         .query_max = 1,
                         .rope = inside ? &rope : NULL};
        if (!inside) t->ops->rope_kv(&t->ctx, &rope);
        attn_on_gpu(t, c, &s, &attn);
        cuda_testing_get(t, got[inside], out, (size_t)nq * 2);
        cuda_testing_get(t, got[inside] + nq * 2, kv.k, cache_bytes);
        cuda_testing_get(t, got[inside] + nq * 2 + cache_bytes, kv.v, cache_bytes);
    }
    for (size_t i = 0; i < bytes; i++)
        if (got[0][i] != got[1][i])
            fail_msg("head dim %d, %d heads over %d: byte %zu of %zu differs, the output has %lld",
                     c->head_dim, c->n_heads, c->n_kv_heads, i, bytes, (long long)(nq * 2));
    for (int32_t i = 0; i < 3; i++) mem_free(x[i]);
    for (int32_t i = 0; i < 2; i++) {
        mem_free(got[i]);
        mem_free(cache[i]);
    }
    mem_free(w);
    mem_free(sinks);
    mem_free(turns);
    mem_free(s.pos);
    mem_free(s.slot);
    cuda_testing_reset(t);
}

static void attention_rotates(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int32_t lens[] = {1, 128, 129, 7, 640}, few[] = {3, 33, 0, 64, 17};
    static const RopeAttn cases[] = {
        {64, 16, 4, 16, 64, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, false, true, false, 0},
        {64, 8, 8, 8, 32, 0, ROPE_INTERLEAVED, DTYPE_BF16, DTYPE_BF16, true, true, true, 0},
        {128, 16, 2, 16, 128, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, true, true, false, 0},
        {128, 4, 4, 32, 64, 50, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, false, true, true, 30},
        {80, 10, 1, 8, 32, 0, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, false, true, false, 0},
        {256, 4, 2, 16, 256, 100, ROPE_NEOX, DTYPE_BF16, DTYPE_BF16, true, true, false, 0},
        {64, 16, 8, 64, 0, 0, ROPE_NONE, DTYPE_BF16, DTYPE_BF16, false, true, false, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        decode_case(&t, &cases[i], few, 50000 + 32 * i);
        decode_case(&t, &cases[i], lens, 51000 + 32 * i);
    }
    cuda_testing_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ropes_and_attends),
                                       cmocka_unit_test(attention_rotates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
