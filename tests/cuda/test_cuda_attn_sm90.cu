/* Attention on the GPU: against f64 on odd shapes with NaN in every unused slot, and the same bits of
 * a row for every chunking of its prompt, every neighbour and either form of the kernel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "cuda/cuda_attn_testing.cuh"

extern "C" {
#include <cmocka.h>
}

static void need_device(void) {
    int n_devices = 0;
    cudaDeviceProp prop;
    if (cudaGetDeviceCount(&n_devices) == cudaSuccess && n_devices > 0 &&
        cudaGetDeviceProperties(&prop, 0) == cudaSuccess && prop.major == 9)
        return;
    print_message("no Hopper GPU\n");
    skip();
}

/* Fails with what was measured. */
static void check(bool ok, const char *what, double value) {
    if (!ok) fail_msg("%s: %g", what, value);
}

static AttnModel plain(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim,
                       int32_t block_tokens) {
    AttnModel m = {};
    m.n_heads = n_heads, m.n_kv_heads = n_kv_heads, m.head_dim = head_dim;
    m.block_tokens = block_tokens;
    m.scale = 1 / sqrtf((float)head_dim), m.q_gain = 1, m.causal = true;
    return m;
}

static void describe(char *text, size_t n, const AttnModel *m, const char *batch) {
    snprintf(text, n, "%s, heads %d/%d, dim %d, block %d, window %d, cap %g, gain %g%s%s%s%s",
             batch, m->n_heads, m->n_kv_heads, m->head_dim, m->block_tokens, m->window, m->softcap,
             m->q_gain, m->causal ? "" : ", full", m->sinks ? ", sinks" : "",
             m->q_f32 ? ", q f32" : "", m->out_f32 ? ", out f32" : "");
}

static AttnBatch batch;

static void against_f64(const AttnModel *m, const AttnSeq *seqs, int32_t n, const char *name) {
    char text[200];
    describe(text, sizeof text, m, name);
    attn_batch_init(&batch, m, seqs, n, 8192, 7);
    attn_batch_run(&batch);
    double error = attn_batch_error(&batch);
    check(error < (m->q_gain > 100 ? 0.1 : 1e-2), text, error); /* f32 sums of logits of 1e5 */
    printf("%-90s %.2e\n", text, error);
    fflush(stdout);
    attn_batch_free(&batch);
}

/* A ragged step: decodes, short and long chunks, a sequence without queries. */
static const AttnSeq mixed[] = {{1, 1, 1, -1},    {2, 1, 777, -1},  {3, 0, 40, -1},
                                {4, 33, 33, -1},  {5, 5, 1030, -1}, {6, 200, 1200, -1},
                                {7, 1, 2049, -1}, {8, 3, 128, -1},  {9, 130, 131, -1},
                                {10, 1, 512, -1}, {11, 1, 513, -1}, {12, 64, 640, -1}};
static const AttnSeq decodes[] = {{1, 1, 1, -1},    {2, 1, 15, -1},  {3, 1, 1025, -1},
                                  {4, 1, 3000, -1}, {5, 1, 511, -1}, {6, 1, 4097, -1}};
static const AttnSeq prompt[] = {{1, 1300, 1300, -1}};

#define LEN(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static void shapes(void **state) {
    (void)state;
    need_device();
    static const int32_t heads[][2] = {{4, 4}, {8, 2}, {7, 1}, {16, 1}, {24, 8}, {10, 2}};
    static const int32_t dims[] = {64, 128, 256, 80, 96, 40};
    static const int32_t blocks[] = {16, 32, 64, 128, 256, 8, 4, 2, 1};
    for (int i = 0; i < LEN(heads); i++) {
        AttnModel m = plain(heads[i][0], heads[i][1], 128, 16);
        against_f64(&m, mixed, LEN(mixed), "mixed");
        against_f64(&m, decodes, LEN(decodes), "decode");
    }
    for (int i = 0; i < LEN(dims); i++) {
        AttnModel m = plain(8, 2, dims[i], 16);
        against_f64(&m, mixed, LEN(mixed), "mixed");
        against_f64(&m, decodes, LEN(decodes), "decode");
        against_f64(&m, prompt, 1, "prompt");
    }
    for (int i = 0; i < LEN(blocks); i++) {
        AttnModel m = plain(8, 2, i % 2 ? 64 : 128, blocks[i]);
        against_f64(&m, mixed, LEN(mixed), "mixed");
    }
}

static void options(void **state) {
    (void)state;
    need_device();
    for (int32_t dim = 64; dim <= 256; dim *= 2) {
        AttnModel m = plain(8, 2, dim, 16);
        m.window = 100;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        m.window = 600, m.sinks = true;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        against_f64(&m, prompt, 1, "prompt");
        m.window = 1, m.out_f32 = true;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        m.window = 0, m.softcap = 3, m.q_f32 = true;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        m.sinks = false, m.causal = false;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        m.window = 90, m.softcap = 0;
        against_f64(&m, mixed, LEN(mixed), "mixed");
        m = plain(8, 2, dim, 16);
        m.q_gain = 1e4f; /* logits of some 1e4 */
        against_f64(&m, mixed, LEN(mixed), "mixed");
        against_f64(&m, prompt, 1, "prompt");
        m.softcap = 50;
        against_f64(&m, mixed, LEN(mixed), "mixed");
    }
}

/* The rows of a batch of `n` sequences that stand for positions of one prompt, against the rows of
 * that prompt in one piece. */
static int64_t differing_rows(const AttnModel *m, const AttnSeq *seqs, int32_t n, uint32_t rng,
                              const float *whole, uint32_t seed) {
    int32_t row = m->n_heads * m->head_dim;
    attn_batch_init(&batch, m, seqs, n, 8192, rng);
    attn_batch_run(&batch);
    float *out = (float *)malloc((size_t)batch.n_tokens * row * sizeof *out);
    attn_batch_read(&batch, out);
    int64_t n_differ = 0;
    for (int32_t s = 0; s < n; s++) {
        if (seqs[s].seed != seed) continue;
        for (int32_t i = 0; i < seqs[s].n_queries; i++) {
            int32_t pos = seqs[s].kv_len - seqs[s].n_queries + i;
            n_differ += memcmp(out + (int64_t)(batch.query_start[s] + i) * row,
                               whole + (int64_t)pos * row, row * sizeof *out) != 0;
        }
    }
    free(out);
    attn_batch_free(&batch);
    return n_differ;
}

/* The prompt in chunks of `chunk`, all in one step, each seeing the blocks of the whole. */
static int32_t chunked(AttnSeq *seqs, uint32_t seed, int32_t length, int32_t chunk) {
    int32_t n = 0, n_chunks = (length + chunk - 1) / chunk;
    /* the first holds the table: the last chunk */
    for (int32_t c = n_chunks - 1; c >= 0; c--, n++) {
        int32_t end = (c + 1) * chunk < length ? (c + 1) * chunk : length;
        AttnSeq s = {seed, end - c * chunk, end, n == 0 ? -1 : 0};
        seqs[n] = s;
    }
    return n;
}

static void same_bits(const AttnModel *m, int32_t length, bool shared_tables) {
    static AttnSeq seqs[ATTN_CASE_SEQS];
    int32_t row = m->n_heads * m->head_dim;
    AttnSeq whole_seq = {77, length, length, -1};
    float *whole = (float *)malloc((size_t)length * row * sizeof *whole);
    attn_batch_init(&batch, m, &whole_seq, 1, 8192, 1);
    attn_batch_run(&batch);
    attn_batch_read(&batch, whole);
    attn_batch_free(&batch);
    static const int32_t chunks[] = {1, 2, 7, 64, 300, 1 << 20};
    for (int i = 0; i < LEN(chunks); i++) {
        char text[240], name[60];
        if (!shared_tables && chunks[i] < 64) continue;
        int32_t n = chunked(seqs, 77, length, chunks[i]);
        if (!shared_tables)
            for (int32_t s = 0; s < n; s++) seqs[s].table_of = -1;
        memcpy(seqs + n, mixed, sizeof mixed); /* neighbours */
        int64_t differ = differing_rows(m, seqs, n + (i % 2 ? LEN(mixed) : 0), i + 5, whole, 77);
        snprintf(name, sizeof name, "bits of %d tokens in chunks of %d", length, chunks[i]);
        describe(text, sizeof text, m, name);
        check(differ == 0, text, (double)differ);
        printf("%-110s %ld differ\n", text, (long)differ);
        fflush(stdout);
    }
    /* a few tokens alone: other lists, other splits */
    for (int32_t end = length; end > 0; end -= 391) {
        AttnSeq one = {77, end > 2 ? 1 + end % 2 : 1, end, -1};
        int64_t differ = differing_rows(m, &one, 1, end, whole, 77);
        check(differ == 0, "bits of a token alone", (double)differ);
    }
    free(whole);
}

static void bits(void **state) {
    (void)state;
    need_device();
    static const int32_t shape[][3] = {{8, 2, 128}, {4, 4, 64},   {16, 1, 128},
                                       {8, 2, 256}, {32, 8, 128}, {64, 8, 64}};
    for (int i = 0; i < LEN(shape); i++) {
        AttnModel m = plain(shape[i][0], shape[i][1], shape[i][2], 16);
        same_bits(&m, 1500, true);
        m.window = 333, m.sinks = true, m.softcap = i % 2 ? 20 : 0;
        m.q_gain = 8;
        if (i < 4) same_bits(&m, 1111, false);
    }
}

/* Single tokens of n sequences, which attention rotates, against each seventh alone. Each has from
 * `least` to 2,100 positions more. */
static void rotates(const AttnModel *m, int32_t n, int32_t least) {
    static AttnSeq seqs[300];
    const int32_t longest = least > 4096 ? 65536 : 8192;
    for (int32_t i = 0; i < n; i++) {
        AttnSeq s = {(uint32_t)i, 1, least + i * 37 % 2100, -1};
        seqs[i] = s;
    }
    const int32_t row = m->n_heads * m->head_dim;
    float *all = (float *)malloc((size_t)n * row * sizeof *all);
    float *one = (float *)malloc((size_t)row * sizeof *one);
    attn_batch_init(&batch, m, seqs, n, longest, 5);
    check(attn_batch_rope(&batch), "rotation beside others", n);
    attn_batch_run(&batch);
    attn_batch_read(&batch, all);
    attn_batch_free(&batch);
    int64_t n_differ = 0;
    for (int32_t i = 0; i < n; i += 7) {
        attn_batch_init(&batch, m, &seqs[i], 1, longest, i);
        check(attn_batch_rope(&batch), "rotation alone", i);
        attn_batch_run(&batch);
        attn_batch_read(&batch, one);
        attn_batch_free(&batch);
        n_differ += memcmp(one, all + (int64_t)i * row, row * sizeof *one) != 0;
    }
    char text[200];
    describe(text, sizeof text, m, "rotated tokens");
    check(n_differ == 0, text, (double)n_differ);
    free(all), free(one);
}

static void rotated_bits(void **state) {
    (void)state;
    need_device();
    static const int32_t shape[][3] = {{8, 2, 128}, {8, 2, 64}, {8, 2, 256}, {16, 2, 128}};
    for (int i = 0; i < LEN(shape); i++) {
        AttnModel m = plain(shape[i][0], shape[i][1], shape[i][2], 16);
        rotates(&m, 300, 1);
        m.window = 700, m.sinks = true, m.softcap = i % 2 ? 20 : 0;
        rotates(&m, 300, 1);
    }
    /* entries of several segments, also where those are long */
    for (int32_t dim = 64; dim <= 128; dim *= 2) {
        AttnModel m = plain(32, 8, dim, 16);
        rotates(&m, 40, 2500);
        rotates(&m, 8, 33000);
    }
}

/* 17 tokens at the end of a long sequence, whose last rows are few, beside single tokens of shorter
 * ones, for whose length the plan cuts; against the same tokens alone. */
static void chunk_beside_tokens(const AttnModel *m, int32_t n, int32_t length, int32_t kv_len) {
    enum { QUERIES = 17, N = 9 };
    AttnSeq seqs[1 + N] = {{99, QUERIES, kv_len, -1}};
    for (int32_t i = 1; i <= n; i++) {
        AttnSeq s = {(uint32_t)i, 1, length, -1};
        seqs[i] = s;
    }
    const size_t bytes = (size_t)(QUERIES + N) * m->n_heads * m->head_dim * sizeof(float);
    float *out[2] = {(float *)malloc(bytes), (float *)malloc(bytes)};
    for (int32_t beside = 0; beside < 2; beside++) {
        attn_batch_init(&batch, m, seqs, beside ? 1 + n : 1, 65536, 5 + beside);
        attn_batch_run(&batch);
        attn_batch_read(&batch, out[beside]);
        attn_batch_free(&batch);
    }
    int64_t n_differ = 0;
    for (int64_t i = 0; i < (int64_t)QUERIES * m->n_heads * m->head_dim; i++)
        n_differ += memcmp(out[0] + i, out[1] + i, sizeof(float)) != 0;
    char text[200];
    describe(text, sizeof text, m, "a chunk beside tokens");
    check(n_differ == 0, text, (double)n_differ);
    free(out[0]), free(out[1]);
}

static void chunks_beside_tokens(void **state) {
    (void)state;
    need_device();
    for (int32_t dim = 64; dim <= 256; dim *= 2) {
        AttnModel m = plain(32, 8, dim, 16);
        chunk_beside_tokens(&m, 9, 1024, 17000);
        chunk_beside_tokens(&m, 9, 1024, 20017);
        chunk_beside_tokens(&m, 4, 8192, 40000);
    }
}

/* A graph is captured once and replayed with other lengths. */
static void replays(void **state) {
    AttnModel m = plain(8, 2, 128, 16);
    AttnSeq seqs[40];
    (void)state;
    need_device();
    for (int i = 0; i < LEN(seqs); i++) {
        AttnSeq s = {(uint32_t)i, 1, 3000 - i * 70, -1};
        seqs[i] = s;
    }
    attn_batch_init(&batch, &m, seqs, LEN(seqs), 8192, 3);
    CudaAttnArgs args = batch.args;
    args.dependent = true;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CU(cudaStreamCreate(&stream));
    CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CU(cuda_attn_plan(stream, &args));
    CU(cuda_attn(stream, &args));
    CU(cudaStreamEndCapture(stream, &graph));
    CU(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < LEN(seqs); i++) batch.kv_len[i] = 1 + (seqs[i].kv_len - 1) * round / 3;
        CU(cudaMemcpy((void *)args.kv_len, batch.kv_len, sizeof(int32_t) * LEN(seqs),
                      cudaMemcpyHostToDevice));
        CU(cudaMemset(args.out, 0xff, (size_t)batch.n_tokens * args.out_stride * 4));
        CU(cudaDeviceSynchronize());
        CU(cudaGraphLaunch(exec, stream));
        CU(cudaStreamSynchronize(stream));
        check(attn_batch_error(&batch) < 1e-2, "a replay", attn_batch_error(&batch));
    }
    CU(cudaGraphExecDestroy(exec));
    CU(cudaGraphDestroy(graph));
    CU(cudaStreamDestroy(stream));
    attn_batch_free(&batch);
}

static void refuses(void **state) {
    AttnModel m = plain(8, 2, 128, 16);
    (void)state;
    need_device();
    attn_batch_init(&batch, &m, decodes, LEN(decodes), 8192, 3);
    CudaAttnArgs args = batch.args;
    args.block_tokens = 24;
    assert_int_equal(cuda_attn(0, &args), cudaErrorInvalidValue);
    args.block_tokens = 512;
    assert_int_equal(cuda_attn(0, &args), cudaErrorInvalidValue);
    args = batch.args, args.limits.head_dim = 100;
    assert_int_equal(cuda_attn(0, &args), cudaErrorInvalidValue);
    args.limits.head_dim = 264;
    assert_int_equal(cuda_attn(0, &args), cudaErrorInvalidValue);
    args = batch.args, args.k = (const char *)args.k + 8;
    assert_int_equal(cuda_attn(0, &args), cudaErrorInvalidValue);
    args = batch.args, args.n_tokens = 0;
    assert_int_equal(cuda_attn(0, &args), cudaSuccess);
    attn_batch_free(&batch);
}

/* usage: test_cuda_attn_sm90 [PATTERN of the tests] */
int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes), cmocka_unit_test(options),
                                       cmocka_unit_test(bits), cmocka_unit_test(rotated_bits),
                                       cmocka_unit_test(chunks_beside_tokens),
                                       cmocka_unit_test(replays), cmocka_unit_test(refuses)};
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
