/* test_cuda_ops: every op of the GPU's table against the reference on odd shapes and random inputs,
 * in every dtype that it takes; outputs hold NaN before. */
#include "cuda/cuda_product_testing.h"

static const OpsLimits LIMITS = {.n_tokens_max = 300,
                                 .n_seqs_max = 8,
                                 .k_max = 4096,
                                 .n_max = 4096,
                                 .ff = 1024,
                                 .vocab = 512,
                                 .n_logits_max = 16,
                                 .n_heads = 32,
                                 .n_kv_heads = 8,
                                 .head_dim = 256,
                                 .n_experts = 16,
                                 .n_experts_used = 4,
                                 .expert_ff = 512};
static const DType FEEDS[] = {DTYPE_F32, DTYPE_BF16};

/* ---- products ----------------------------------------------------------------------------- */

static void products_of_every_format(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int64_t tokens[] = {1, 7, 33};
    for (size_t i = 0; i < ARRAY_LEN(LINEAR_DTYPES); i++) {
        for (size_t j = 0; j < ARRAY_LEN(tokens); j++) {
            const bool plain = dtype_info(LINEAR_DTYPES[i])->group_len == 1;
            CudaProductCase c = {LINEAR_DTYPES[i], FEEDS[j % 2],      DTYPE_F32, tokens[j],
                                 37 + (int64_t)j,  plain ? 333 : 512, j == 1,    j != 0};
            cuda_product_case(&t, &c, 10 * i + j);
        }
    }
    cuda_testing_close(&t);
}

/* The shapes that the tensor cores take, and their edges. */
static void products_in_bf16(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int64_t tokens[] = {1, 2, 8, 9, 17, 64, 65, 130, 300}, ns[] = {8, 64, 136, 1000},
                         ks[] = {8, 64, 264, 1024, 4096};
    uint64_t stream = 1000;
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++)
        for (size_t j = 0; j < ARRAY_LEN(ns); j++)
            for (size_t l = 0; l < ARRAY_LEN(ks); l++) {
                stream += 16;
                if ((i + j + l) % 3 != 0 && ks[l] > 1000) continue; /* the reference is slow */
                const int32_t out = (int32_t)(stream / 16 % 3);
                CudaProductCase c = {DTYPE_BF16, DTYPE_BF16,      out == 0 ? DTYPE_BF16 : DTYPE_F32,
                                     tokens[i],  ns[j],           ks[l],
                                     out == 2,   (i + j) % 2 == 0};
                cuda_product_case(&t, &c, stream);
            }
    cuda_testing_close(&t);
}

static void gated_case(CudaTesting *t, DType weight, DType feed, int64_t n_tokens, int64_t n,
                       int64_t k, ActKind act, uint64_t stream) {
    Err err = {0};
    Tensor gate = linear_testing_weight(weight, n, k, stream);
    Tensor up = linear_testing_weight(weight, n, k, stream + 3);
    Weight gpu_gate = {0}, gpu_up = {0}, host_gate = {.t = gate}, host_up = {.t = up};
    if (t->ops->gated_prepare != NULL) {
        ASSERT_OK(t->ops->gated_prepare(&t->ctx, &gate, &up, &gpu_gate, &gpu_up, &err), err);
    } else {
        gpu_gate = cuda_product_weight(t, &gate);
        gpu_up = cuda_product_weight(t, &up);
    }
    float *x = cuda_testing_random(n_tokens * k, stream + 5, 1);
    float *y = mem_alloc((size_t)(n_tokens * n) * sizeof *y);
    void *gpu_x = cuda_testing_put_f32(t, x, n_tokens * k, feed);
    void *gpu_y = cuda_testing_put(t, NULL, (size_t)(n_tokens * n) * 4);
    GatedArgs args = {.x = tensor_2d(gpu_x, feed, n_tokens, k),
                      .gate = &gpu_gate,
                      .up = &gpu_up,
                      .act = act,
                      .out = tensor_2d(gpu_y, feed, n_tokens, n)};
    t->ops->gated(&t->ctx, &args);
    GatedArgs host = {.x = tensor_2d(x, DTYPE_F32, n_tokens, k),
                      .gate = &host_gate,
                      .up = &host_up,
                      .act = act,
                      .out = tensor_2d(y, DTYPE_F32, n_tokens, n)};
    t->ref->gated(&t->host, &host);
    /* In bf16 both factors may be rounded before they are multiplied. */
    cuda_testing_compare(t, "gated", gpu_y, y, n_tokens * n, feed,
                         feed == DTYPE_BF16 ? 2e-5 : 1e-11);
    mem_free(x);
    mem_free(y);
    mem_free(gate.data);
    mem_free(up.data);
    cuda_testing_reset(t);
}

static void gated_products(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    uint64_t stream = 5000;
    for (int32_t act = ACT_SILU; act <= ACT_RELU; act++) {
        gated_case(&t, DTYPE_F32, DTYPE_F32, 3, 37, 75, (ActKind)act, stream += 16);
        gated_case(&t, DTYPE_Q8_0, DTYPE_F32, 150, 33, 96, (ActKind)act, stream += 16);
        gated_case(&t, DTYPE_BF16, DTYPE_BF16, 1, 256, 512, (ActKind)act, stream += 16);
        gated_case(&t, DTYPE_BF16, DTYPE_BF16, 37, 88, 264, (ActKind)act, stream += 16);
        gated_case(&t, DTYPE_BF16, DTYPE_BF16, 270, 1000, 128, (ActKind)act, stream += 16);
        gated_case(&t, DTYPE_BF16, DTYPE_BF16, 5, 35, 77, (ActKind)act, stream += 16);
    }
    cuda_testing_close(&t);
}

/* ---- rows --------------------------------------------------------------------------------- */

static void norm_case(CudaTesting *t, NormKind kind, DType out, int64_t n, int64_t dim, bool add,
                      bool bias, uint64_t stream) {
    float *x = cuda_testing_random(n * dim, stream, 1),
          *a = cuda_testing_random(n * dim, stream + 1, 1);
    float *w = cuda_testing_random(dim, stream + 2, 1),
          *b = cuda_testing_random(dim, stream + 3, 1);
    float *y = mem_alloc((size_t)(n * dim) * sizeof *y);
    const size_t bytes = (size_t)(n * dim) * 4, row = (size_t)dim * 4;
    void *gpu_x = cuda_testing_put(t, x, bytes), *gpu_y = cuda_testing_put(t, NULL, bytes);
    Tensor gpu_add = tensor_2d(cuda_testing_put(t, a, bytes), DTYPE_F32, n, dim);
    Tensor host_add = tensor_2d(a, DTYPE_F32, n, dim);
    NormArgs args = {.kind = kind,
                     .x = tensor_2d(gpu_x, DTYPE_F32, n, dim),
                     .add = add ? &gpu_add : NULL,
                     .w = cuda_testing_put(t, w, row),
                     .bias = bias ? cuda_testing_put(t, b, row) : NULL,
                     .eps = 1e-5f,
                     .out = tensor_2d(gpu_y, out, n, dim)};
    t->ops->norm(&t->ctx, &args);
    NormArgs host = args;
    host.x = tensor_2d(x, DTYPE_F32, n, dim);
    host.add = add ? &host_add : NULL;
    host.w = w;
    host.bias = bias ? b : NULL;
    host.out = tensor_2d(y, DTYPE_F32, n, dim);
    t->ref->norm(&t->host, &host);
    cuda_testing_compare(t, "norm", gpu_y, y, n * dim, out, 1e-12);
    cuda_testing_compare(t, "norm's x", gpu_x, x, n * dim, DTYPE_F32, 1e-14);
    mem_free(x);
    mem_free(a);
    mem_free(w);
    mem_free(b);
    mem_free(y);
    cuda_testing_reset(t);
}

static void norms(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int64_t dims[] = {1, 7, 64, 100, 1023, 2048, 4096, 12292};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++)
        for (int32_t j = 0; j < 8; j++)
            norm_case(&t, j % 2 == 0 ? NORM_RMS : NORM_LAYER, FEEDS[j / 2 % 2], 1 + j, dims[i],
                      j % 3 == 0, j % 2 == 1 || j / 4 == 1, 7000 + 64 * i + 8 * (uint64_t)j);
    cuda_testing_close(&t);
}

/* A norm in front of products that begin with it, and by itself: the same bits. w: q, k, v, gate
 * and up, of n, 64, 64, n and n rows. */
static void norm_in_products_case(CudaTesting *t, const Weight *w, NormArgs norm, char *want,
                                  char *got) {
    const int64_t n_tokens = norm.x.shape[0], dim = norm.x.shape[1], n = w[0].t.shape[0];
    const size_t bytes = (size_t)(n_tokens * (2 * n + 128)) * 2;
    for (int32_t inside = 0; inside < 2; inside++) {
        char *y = cuda_testing_put(t, NULL, bytes);
        norm.out = tensor_2d(cuda_testing_put(t, NULL, (size_t)(n_tokens * dim) * 2), DTYPE_BF16,
                             n_tokens, dim);
        if (!inside) t->ops->norm(&t->ctx, &norm);
        GatedArgs gated = {.x = norm.out,
                           .gate = &w[3],
                           .up = &w[4],
                           .act = ACT_SILU,
                           .out = tensor_2d(y, DTYPE_BF16, n_tokens, n),
                           .norm = inside ? &norm : NULL};
        LinearArgs linear = {.x = norm.out, .n_parts = 3, .norm = gated.norm};
        y += n_tokens * n * 2;
        for (int32_t i = 0; i < 3; i++) {
            const int64_t rows = w[i].t.shape[0];
            linear.part[i] = (LinearPart){&w[i], NULL, tensor_2d(y, DTYPE_BF16, n_tokens, rows)};
            y += n_tokens * rows * 2;
        }
        t->ops->gated(&t->ctx, &gated);
        t->ops->linear(&t->ctx, &linear);
        cuda_testing_get(t, inside ? got : want, gated.out.data, bytes);
    }
    if (memcmp(got, want, bytes) != 0)
        fail_msg("%lld tokens of %lld to %lld: a norm in the product has other bits",
                 (long long)n_tokens, (long long)dim, (long long)n);
}

static void norm_in_products_shape(CudaTesting *t, int64_t dim, int64_t n, uint64_t stream) {
    enum { TOKENS = 9 };
    Err err = {0};
    Tensor file[5];
    Weight w[5] = {0};
    for (uint64_t i = 0; i < 5; i++)
        file[i] = linear_testing_weight(DTYPE_BF16, i == 0 || i > 2 ? n : 64, dim, stream + i);
    Weight *const parts[] = {&w[0], &w[1], &w[2]};
    ASSERT_OK(t->ops->parts_prepare(&t->ctx, file, 3, parts, &err), err);
    /* On Hopper behind each other, whatever their size: one product makes them. */
    for (int32_t i = 0; i < 2 && plugin_testing_is_hopper(); i++)
        assert_ptr_equal(w[i + 1].t.data, (char *)w[i].t.data + ALIGN_UP(file[i].shape[0], 64) *
                                                                    ALIGN_UP(dim, 64) * 2);
    ASSERT_OK(t->ops->gated_prepare(&t->ctx, &file[3], &file[4], &w[3], &w[4], &err), err);
    float *x = cuda_testing_random(TOKENS * dim, stream + 5, 3);
    float *by = cuda_testing_random(dim, stream + 6, 1);
    char *want = mem_alloc((size_t)(TOKENS * (2 * n + 128)) * 2);
    char *got = mem_alloc((size_t)(TOKENS * (2 * n + 128)) * 2);
    NormArgs norm = {.kind = NORM_RMS, .w = cuda_testing_put(t, by, (size_t)dim * 4), .eps = 1e-5f};
    static const int64_t tokens[] = {1, 2, 3, 8, TOKENS};
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        norm.x = tensor_2d(cuda_testing_put(t, x, (size_t)(tokens[i] * dim) * 4), DTYPE_F32,
                           tokens[i], dim);
        norm_in_products_case(t, w, norm, want, got);
    }
    mem_free(x);
    mem_free(by);
    mem_free(want);
    mem_free(got);
    for (int32_t i = 0; i < 5; i++) mem_free(file[i].data);
    cuda_testing_reset(t);
}

static void norms_in_products(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    /* k in four, two and one segments; 512 and 1,096 are no sizes that the product normalizes. */
    static const int64_t dims[] = {512, 1024, 1096, 1600, 2048, 3072, 4096};
    static const int64_t ns[] = {64, 1000, 3100};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++)
        for (size_t j = 0; j < ARRAY_LEN(ns); j++)
            norm_in_products_shape(&t, dims[i], ns[j], 9000 + 64 * i + 8 * j);
    norm_in_products_shape(&t, 1024, 8200, 9900);
    norm_in_products_shape(&t, 2112, 6200, 9910);
    cuda_testing_close(&t);
}

static void embeds_and_gathers(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    const int32_t token[] = {0, 5, 4, 16, 5}, pos[] = {1, 0, 8, 3, 2};
    enum { N = 5, DIM = 256 };
    for (size_t i = 0; i < ARRAY_LEN(LINEAR_DTYPES); i++) {
        Tensor file = linear_testing_weight(LINEAR_DTYPES[i], 17, DIM, 9000 + 16 * i);
        Tensor learned = linear_testing_weight(DTYPE_F32, 9, DIM, 9008 + 16 * i);
        Weight gpu_w = cuda_product_weight(&t, &learned), w = {.t = file}, p = {.t = learned};
        Weight table = {.t = file};
        table.t.data = cuda_testing_put(&t, file.data, (size_t)tensor_bytes(&file));
        gpu_w.t.data = cuda_testing_put(&t, learned.data, (size_t)tensor_bytes(&learned));
        float y[N * DIM], z[N * DIM];
        void *gpu_y = cuda_testing_put(&t, NULL, sizeof y),
             *gpu_z = cuda_testing_put(&t, NULL, sizeof z);
        EmbedArgs args = {.table = &table,
                          .pos_table = i % 2 == 0 ? &gpu_w : NULL,
                          .token = cuda_testing_put(&t, token, sizeof token),
                          .pos = cuda_testing_put(&t, pos, sizeof pos),
                          .scale = 1.5f,
                          .out = tensor_2d(gpu_y, DTYPE_F32, N, DIM)};
        t.ops->embed(&t.ctx, &args);
        EmbedArgs host = {.table = &w,
                          .pos_table = i % 2 == 0 ? &p : NULL,
                          .token = token,
                          .pos = pos,
                          .scale = 1.5f,
                          .out = tensor_2d(y, DTYPE_F32, N, DIM)};
        t.ref->embed(&t.host, &host);
        cuda_testing_compare(&t, dtype_info(LINEAR_DTYPES[i])->name, gpu_y, y, N * DIM, DTYPE_F32,
                             1e-13);
        Tensor from = tensor_2d(gpu_y, DTYPE_F32, N, DIM), to = tensor_2d(gpu_z, DTYPE_F32, 3, DIM);
        const int32_t rows[] = {4, 0, 2};
        t.ops->gather_rows(&t.ctx, &from, cuda_testing_put(&t, rows, sizeof rows), 3, &to);
        for (int32_t r = 0; r < 3; r++) memcpy(z + r * DIM, y + rows[r] * DIM, DIM * 4);
        cuda_testing_compare(&t, "gather", gpu_z, z, 3 * DIM, DTYPE_F32, 1e-13);
        mem_free(file.data);
        mem_free(learned.data);
        cuda_testing_reset(&t);
    }
    cuda_testing_close(&t);
}

static void activations(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    enum { N = 5, DIM = 1027 };
    for (int32_t i = 0; i < 16; i++) {
        const DType feed = FEEDS[i % 2];
        const ActKind kind = (ActKind)(i / 4);
        float *x = cuda_testing_random(N * DIM, 11000 + (uint64_t)i, 2);
        float *u = cuda_testing_random(N * DIM, 12000 + (uint64_t)i, 1);
        Tensor gate = tensor_2d(cuda_testing_put_f32(&t, x, N * DIM, feed), feed, N, DIM);
        Tensor up = tensor_2d(cuda_testing_put_f32(&t, u, N * DIM, feed), feed, N, DIM);
        const bool gated = i % 4 < 2;
        t.ops->act(&t.ctx, &(ActArgs){kind, gate, gated ? &up : NULL, gate});
        Tensor host = tensor_2d(x, DTYPE_F32, N, DIM), host_up = tensor_2d(u, DTYPE_F32, N, DIM);
        t.ref->act(&t.host, &(ActArgs){kind, host, gated ? &host_up : NULL, host});
        cuda_testing_compare(&t, "act", gate.data, x, N * DIM, feed, 1e-12);
        mem_free(x);
        mem_free(u);
        cuda_testing_reset(&t);
    }
    float *x = cuda_testing_random(N * DIM, 13000, 20);
    Tensor gpu = tensor_2d(cuda_testing_put_f32(&t, x, N * DIM, DTYPE_F32), DTYPE_F32, N, DIM);
    t.ops->softcap(&t.ctx, gpu, 30);
    t.ref->softcap(&t.host, tensor_2d(x, DTYPE_F32, N, DIM), 30);
    cuda_testing_compare(&t, "softcap", gpu.data, x, N * DIM, DTYPE_F32, 1e-12);
    mem_free(x);
    cuda_testing_close(&t);
}

/* ---- mixtures ----------------------------------------------------------------------------- */

static void moe_case(CudaTesting *t, DType weight, DType feed, int64_t n_tokens, int32_t n_used,
                     uint64_t stream) {
    enum { EXPERTS = 16, DIM = 128, FF = 96 };
    Err err = {0};
    Tensor file[3][EXPERTS];
    Weight gpu[3][EXPERTS], host[3][EXPERTS];
    for (int32_t i = 0; i < 3; i++)
        for (int32_t e = 0; e < EXPERTS; e++) {
            file[i][e] = linear_testing_weight(weight, i == 2 ? DIM : FF, i == 2 ? FF : DIM,
                                               stream + (uint64_t)(100 * i + 4 * e));
            host[i][e] = (Weight){.t = file[i][e]};
        }
    const ExpertsFile files = {file[0], file[1], file[2]};
    ASSERT_OK(t->ops->experts_prepare(&t->ctx, &files, EXPERTS, gpu[0], gpu[1], gpu[2], &err), err);
    float *logits = cuda_testing_random(n_tokens * EXPERTS, stream + 1, 1);
    if (n_tokens > 2) /* ties go to the lower expert */
        for (int32_t e = 0; e < EXPERTS; e++) logits[EXPERTS + e] = (float)(e % 3);
    float *x = cuda_testing_random(n_tokens * DIM, stream + 2, 1);
    float *y = cuda_testing_random(n_tokens * DIM, stream + 3, 1);
    const size_t n_pairs = (size_t)(n_tokens * n_used);
    int32_t *expert = mem_alloc(n_pairs * 4), *gpu_expert = mem_alloc(n_pairs * 4);
    float *share = mem_alloc(n_pairs * 4);
    MoeRouteArgs route = {
        .logits = tensor_2d(cuda_testing_put(t, logits, (size_t)n_tokens * EXPERTS * 4), DTYPE_F32,
                            n_tokens, EXPERTS),
        .n_used = n_used,
        .normalize = stream % 32 == 0,
        .scale = 1.25f,
        .expert = cuda_testing_put(t, NULL, n_pairs * 4),
        .weight = cuda_testing_put(t, NULL, n_pairs * 4)};
    t->ops->moe_route(&t->ctx, &route);
    MoeRouteArgs host_route = route;
    host_route.logits = tensor_2d(logits, DTYPE_F32, n_tokens, EXPERTS);
    host_route.expert = expert;
    host_route.weight = share;
    t->ref->moe_route(&t->host, &host_route);
    cuda_testing_get(t, gpu_expert, route.expert, n_pairs * 4);
    assert_memory_equal(expert, gpu_expert, n_pairs * 4);
    cuda_testing_compare(t, "moe_route", route.weight, share, (int64_t)n_pairs, DTYPE_F32, 1e-12);
    void *gpu_y = cuda_testing_put(t, y, (size_t)(n_tokens * DIM) * 4);
    MoeArgs args = {
        .x = tensor_2d(cuda_testing_put_f32(t, x, n_tokens * DIM, feed), feed, n_tokens, DIM),
        .gate = gpu[0],
        .up = gpu[1],
        .down = gpu[2],
        .act = ACT_SILU,
        .n_experts = EXPERTS,
        .n_used = n_used,
        .expert = route.expert,
        .weight = route.weight,
        .out = tensor_2d(gpu_y, DTYPE_F32, n_tokens, DIM),
        .accumulate = true};
    t->ops->moe(&t->ctx, &args);
    MoeArgs host_args = args;
    host_args.x = tensor_2d(x, DTYPE_F32, n_tokens, DIM);
    host_args.gate = host[0];
    host_args.up = host[1];
    host_args.down = host[2];
    host_args.expert = expert;
    host_args.weight = share;
    host_args.out = tensor_2d(y, DTYPE_F32, n_tokens, DIM);
    t->ref->moe(&t->host, &host_args);
    cuda_testing_compare(t, "moe", gpu_y, y, n_tokens * DIM, DTYPE_F32,
                         feed == DTYPE_BF16 ? 1e-5 : 1e-11);
    for (int32_t i = 0; i < 3; i++)
        for (int32_t e = 0; e < EXPERTS; e++) mem_free(file[i][e].data);
    mem_free(logits);
    mem_free(x);
    mem_free(y);
    mem_free(expert);
    mem_free(gpu_expert);
    mem_free(share);
    cuda_testing_reset(t);
}

static void mixtures(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    static const int64_t tokens[] = {1, 3, 70, 200};
    uint64_t stream = 20000;
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++)
        for (int32_t used = 1; used <= 4; used += 3) {
            moe_case(&t, DTYPE_F32, DTYPE_F32, tokens[i], used, stream += 400);
            moe_case(&t, DTYPE_BF16, DTYPE_BF16, tokens[i], used, stream += 400);
            moe_case(&t, DTYPE_Q8_0, DTYPE_F32, tokens[i], used, stream += 416);
        }
    cuda_testing_close(&t);
}

/* What any chip with the tensor cores that are wanted here can do, Hopper or not, and none can. */
static void limits(void **state) {
    (void)state;
    CudaTesting t;
    cuda_testing_open(&t, &LIMITS);
    Err err = {0};
    DeviceLimits limits;
    ASSERT_OK(t.ctx.device->vtable->limits(t.ctx.device, &limits, &err), err);
    print_message("read %.2f TB/s, products %.0f TFLOP/s\n", limits.read_bytes_per_s / 1e12,
                  limits.products_per_s / 1e12);
    const double least = plugin_testing_is_hopper() ? 1 : 0.05;
    assert_true(limits.read_bytes_per_s > least * 1e12 && limits.read_bytes_per_s < 6e12);
    assert_true(limits.products_per_s > least * 2e14 && limits.products_per_s < 2e15);
    cuda_testing_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_of_every_format),
                                       cmocka_unit_test(products_in_bf16),
                                       cmocka_unit_test(gated_products),
                                       cmocka_unit_test(norms),
                                       cmocka_unit_test(norms_in_products),
                                       cmocka_unit_test(embeds_and_gathers),
                                       cmocka_unit_test(activations),
                                       cmocka_unit_test(mixtures),
                                       cmocka_unit_test(limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
