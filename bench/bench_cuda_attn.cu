/* Speed of the attention on the GPU: decode by the bytes of K and V, prefill by floating point
 * operations (causal counts half). Prints CSV: what,heads,kv_heads,dim,seqs,context,us,rate,share. */
#include "cuda/cuda_attn_testing.cuh"

static AttnBatch batch;
static bool dependent = true;
static double read_limit = 4.17e12, flop_limit = 787e12;

/* Seconds of the attention, best of five replays of a graph of n_iter launches over sets of sequences
 * that together exceed the L2 cache. */
static double seconds(int32_t n_sets, int32_t n_iter) {
    cudaEvent_t start, end;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CU(cudaEventCreate(&start));
    CU(cudaEventCreate(&end));
    CU(cudaStreamCreate(&stream));
    CudaAttnArgs a = batch.args;
    a.dependent = dependent;
    int32_t per_set = batch.table_start[batch.n_seqs] / n_sets;
    CU(cuda_attn_plan(stream, &a));
    CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int32_t i = 0; i < n_iter; i++) {
        a.block_id = batch.args.block_id + i % n_sets * per_set;
        CU(cuda_attn(stream, &a));
    }
    CU(cudaStreamEndCapture(stream, &graph));
    CU(cudaGraphInstantiate(&exec, graph, 0));
    float best = 1e9f;
    for (int i = 0; i < 5; i++) {
        float ms;
        CU(cudaEventRecord(start, stream));
        CU(cudaGraphLaunch(exec, stream));
        CU(cudaEventRecord(end, stream));
        CU(cudaEventSynchronize(end));
        CU(cudaEventElapsedTime(&ms, start, end));
        if (i > 0 && ms < best) best = ms;
    }
    CU(cudaGraphExecDestroy(exec));
    CU(cudaGraphDestroy(graph));
    CU(cudaStreamDestroy(stream));
    CU(cudaEventDestroy(start));
    CU(cudaEventDestroy(end));
    return best / n_iter * 1e-3;
}

static void decode(int32_t n_heads, int32_t n_kv, int32_t dim, int32_t n_seqs, int32_t context,
                   int32_t block) {
    static AttnSeq seqs[ATTN_CASE_SEQS];
    AttnModel m = {};
    m.n_heads = n_heads, m.n_kv_heads = n_kv, m.head_dim = dim, m.block_tokens = block;
    m.scale = 1 / sqrtf((float)dim), m.q_gain = 1, m.causal = true;
    double bytes = 4.0 * n_kv * dim * n_seqs * context;
    int32_t n_sets = bytes > 250e6 ? 1 : (int32_t)(250e6 / bytes) + 1;
    if (n_sets * n_seqs > 2000) n_sets = 2000 / n_seqs;
    for (int32_t i = 0; i < n_sets * n_seqs; i++) {
        AttnSeq s = {(uint32_t)(1 + i), 1, context, -1};
        seqs[i] = s;
    }
    attn_batch_init(&batch, &m, seqs, n_sets * n_seqs, 131072, 3);
    batch.args.n_seqs = batch.args.n_tokens = n_seqs; /* the first set's lengths serve all */
    attn_batch_rope(&batch); /* as in a model's steps */
    double s = seconds(n_sets, 40);
    printf("decode,%d,%d,%d,%d,%d,%.1f,%.3f TB/s,%.1f %%,block %d\n", n_heads, n_kv, dim, n_seqs,
           context, s * 1e6, bytes / s * 1e-12, bytes / s / read_limit * 100, block);
    fflush(stdout);
    attn_batch_free(&batch);
}

static void prefill(int32_t n_heads, int32_t n_kv, int32_t dim, int32_t length, bool causal,
                    int32_t block, int32_t total) {
    static AttnSeq seqs[ATTN_CASE_SEQS];
    AttnModel m = {};
    m.n_heads = n_heads, m.n_kv_heads = n_kv, m.head_dim = dim, m.block_tokens = block;
    m.scale = 1 / sqrtf((float)dim), m.q_gain = 1, m.causal = causal;
    int32_t n_seqs = total / length;
    for (int32_t i = 0; i < n_seqs; i++) {
        AttnSeq s = {(uint32_t)(1 + i), length, length, -1};
        seqs[i] = s;
    }
    attn_batch_init(&batch, &m, seqs, n_seqs, 131072, 3);
    double s = seconds(1, 4);
    double flops = 4.0 * n_heads * dim * length * length * n_seqs / (causal ? 2 : 1);
    printf("prefill %s,%d,%d,%d,%d,%d,%.1f,%.0f TFLOP/s,%.1f %%,block %d\n",
           causal ? "causal" : "full", n_heads, n_kv, dim, n_seqs, length, s * 1e6,
           flops / s * 1e-12, flops / s / flop_limit * 100, block);
    fflush(stdout);
    attn_batch_free(&batch);
}

static void plan_time(void) {
    static const AttnSeq one = {1, 1, 8192, -1};
    static AttnSeq seqs[256];
    for (int i = 0; i < 256; i++) seqs[i] = one;
    for (int i = 1; i < 256; i++) seqs[i].table_of = 0;
    AttnModel m = {};
    m.n_heads = 32, m.n_kv_heads = 8, m.head_dim = 128, m.block_tokens = 16;
    m.scale = 0.1f, m.q_gain = 1, m.causal = true;
    attn_batch_init(&batch, &m, seqs, 256, 131072, 3);
    cudaEvent_t start, end;
    float ms;
    CU(cudaEventCreate(&start));
    CU(cudaEventCreate(&end));
    for (int i = 0; i < 3; i++) {
        CU(cudaEventRecord(start));
        for (int j = 0; j < 10; j++) CU(cuda_attn_plan(0, &batch.args));
        CU(cudaEventRecord(end));
        CU(cudaEventSynchronize(end));
        CU(cudaEventElapsedTime(&ms, start, end));
    }
    printf("plan of 256 sequences of 8192: %.1f us\n", ms * 100);
    attn_batch_free(&batch);
}

static void decode_brief(void) {
    static const int32_t size[][2] = {{1, 512},    {1, 544},   {1, 1024},  {1, 8192},  {1, 65536},
                                      {8, 544},    {8, 8192},  {32, 544},  {32, 2048}, {64, 1024},
                                      {128, 512},  {128, 544}, {128, 600}, {256, 544}, {128, 2048},
                                      {256, 1024}, {32, 8192}};
    for (int i = 0; i < 17; i++) {
        decode(32, 8, 128, size[i][0], size[i][1], 16);
        decode(32, 8, 64, size[i][0], size[i][1], 16);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "decode") == 0) {
        decode_brief();
        return 0;
    }
    bool brief = argc > 1 && strcmp(argv[1], "brief") == 0;
    dependent = argc < 3; /* a second argument: each kernel starts after the last has ended */
    struct cudaDeviceProp prop;
    CU(cudaGetDeviceProperties(&prop, 0));
    printf("%s; shares of %.2f TB/s and %.0f TFLOP/s\n", prop.name, read_limit * 1e-12,
           flop_limit * 1e-12);
    static const int32_t shape[][3] = {{32, 8, 128}, {64, 8, 128}, {32, 8, 64}};
    static const int32_t size[][2] = {{1, 1024},   {1, 8192},   {1, 65536}, {8, 1024},
                                      {8, 8192},   {32, 2048},  {64, 1024}, {128, 512},
                                      {128, 2048}, {256, 1024}, {32, 8192}};
    if (brief) {
        decode(32, 8, 128, 1, 1024, 16);
        decode(32, 8, 128, 1, 8192, 16);
        decode(32, 8, 128, 1, 65536, 16);
        decode(32, 8, 128, 8, 8192, 16);
        decode(32, 8, 128, 128, 512, 16);
        decode(32, 8, 128, 32, 8192, 16);
        decode(32, 8, 64, 32, 2048, 16);
        decode(32, 8, 64, 256, 1024, 16);
        prefill(16, 16, 128, 2048, true, 16, 16384);
        prefill(16, 16, 128, 16384, true, 16, 16384);
        prefill(32, 32, 64, 2048, true, 16, 16384);
        prefill(32, 32, 64, 16384, true, 16, 16384);
        return 0;
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 11; j++)
            decode(shape[i][0], shape[i][1], shape[i][2], size[j][0], size[j][1], 16);
    decode(32, 8, 128, 32, 2048, 64);
    decode(32, 8, 128, 32, 2048, 128);
    decode(16, 4, 256, 32, 2048, 16);
    plan_time();
    for (int32_t length = 512; length <= 16384; length *= 2) {
        prefill(16, 16, 128, length, true, 16, 16384);
        prefill(16, 16, 128, length, false, 16, 16384);
        prefill(32, 8, 128, length, true, 16, 16384);
        prefill(32, 32, 64, length, true, 16, 16384);
        prefill(32, 32, 64, length, false, 16, 16384);
    }
    prefill(16, 16, 128, 4096, true, 128, 16384);
    prefill(16, 4, 256, 4096, true, 16, 16384);
    return 0;
}
