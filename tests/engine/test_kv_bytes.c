/* test_kv_bytes: KV memory is 2 * sequences * tokens * KV heads * head dim * layers * bytes, as
 * planned, as asked of the allocator and as the system counts it.
 *
 * The bytes of published models stand here as numbers. A device that only counts is asked for
 * their caches; a sequence grows through a real pool to see how many of its blocks it holds at
 * once, with and without windows; a cache of the host is populated and read off the process. */
#include "../golden/golden.h"

#include <sys/mman.h>

#include "engine/runner.h"
#include "kv/kv_cache.h"

enum { S = 4096, KIB = 1 << 10, MIB = 1 << 20 };

/* Counts; what it hands out cannot be touched. */
typedef struct CountingDevice {
    Device base;
    int64_t live_bytes;
} CountingDevice;

static Status counting_alloc(Device *device, size_t bytes, void **out, Err *err) {
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) FAIL(err, ERR_NOMEM, "no room for %zu bytes of addresses", bytes);
    ((CountingDevice *)device)->live_bytes += (int64_t)bytes;
    *out = p;
    return OK;
}

static void counting_free(Device *device, void *p, size_t bytes) {
    ((CountingDevice *)device)->live_bytes -= (int64_t)bytes;
    assert_int_equal(munmap(p, bytes), 0);
}

static const DeviceVtable counting_vtable = {
    .name = "counting", .alloc = counting_alloc, .free = counting_free};

/* ---- published models -------------------------------------------------------------------- */

static const struct {
    const char *name;
    int32_t n_layers, n_kv_heads, head_dim;
    int64_t token_bytes, one_kib, sixteen_kib; /* in bf16; of 1 and 16 sequences of 4,096 */
} models[] = {
    {"Llama-2-7B, multi-head", 32, 32, 128, 524288, 2 * MIB, 32 * MIB},
    {"70B as if multi-head", 80, 64, 128, 2621440, 10 * MIB, 160 * MIB},
    {"Llama-2/3-70B, grouped", 80, 8, 128, 327680, 1280 * KIB, 20 * MIB},
    {"70B as if multi-query", 80, 1, 128, 40960, 160 * KIB, 2560 * KIB},
    {"Llama-3-8B, Mistral-7B, Mixtral", 32, 8, 128, 131072, 512 * KIB, 8 * MIB},
    {"Falcon-7B, multi-query", 32, 1, 64, 8192, 32 * KIB, 512 * KIB},
};

static int64_t counted_bytes(const ModelConfig *c, DType dtype, int32_t block_tokens,
                             const int32_t *n_blocks) {
    CountingDevice device = {.base = {&counting_vtable, 0}};
    KvStore *store = NULL;
    Err err = {0};
    ASSERT_OK(kv_store_open(&store, c, &device.base, dtype, block_tokens, n_blocks, &err), err);
    const int64_t bytes = device.live_bytes;
    assert_int_equal(kv_store_bytes(store), bytes);
    kv_store_close(store);
    assert_int_equal(device.live_bytes, 0);
    return bytes;
}

static void bytes_of_published_models(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        const ModelConfig c = {.n_layers = models[i].n_layers,
                               .n_kv_heads = models[i].n_kv_heads,
                               .head_dim = models[i].head_dim};
        for (int32_t block = 1; block <= 256; block *= 4) {
            const int32_t one[] = {S / block}, sixteen[] = {16 * S / block};
            assert_int_equal(counted_bytes(&c, DTYPE_BF16, block, one), models[i].one_kib * KIB);
            assert_int_equal(counted_bytes(&c, DTYPE_F16, block, sixteen),
                             models[i].sixteen_kib * KIB);
            assert_int_equal(counted_bytes(&c, DTYPE_F32, block, one),
                             2 * S * models[i].token_bytes);
        }
    }
    /* Llama-3-70B over eight devices, one head on each: 5 GiB for 131,072 tokens. */
    const ModelConfig rank = {.n_layers = 80, .n_kv_heads = 1, .head_dim = 128};
    assert_int_equal(counted_bytes(&rank, DTYPE_BF16, 16, (int32_t[]){131072 / 16}),
                     (int64_t)5120 * MIB);
}

/* ---- what a sequence holds --------------------------------------------------------------- */

/* The most bytes that a sequence of S tokens holds at once while it grows by `chunk`. */
static int64_t peak_bytes(const ModelConfig *c, int32_t block_tokens, int32_t chunk) {
    KvCacheConfig config = {.n_groups = kv_store_groups(c), .block_tokens = block_tokens};
    for (int32_t g = 0; g < config.n_groups; g++) {
        config.window[g] = kv_store_group_window(c, g);
        config.n_blocks[g] = S / block_tokens + 2;
    }
    KvCache cache;
    KvSeq seq;
    Err err = {0};
    ASSERT_OK(kv_cache_init(&cache, &config, &err), err);
    int32_t *memory = mem_alloc(kv_cache_seq_ints(&config, S) * sizeof *memory);
    static int32_t token[S];
    kv_cache_seq_init(&cache, &seq, memory, S);
    KvMatch match;
    kv_cache_match(&cache, (KvSalt){0}, token, S, &match);
    kv_cache_begin(&cache, &seq, (KvSalt){0}, &match, &(KvMoves){0});
    int64_t peak = 0;
    for (int32_t n = 0; n < S;) {
        const int32_t more = MIN(chunk, S - n);
        assert_true(kv_cache_append(&cache, &seq, more, &(KvMoves){0}));
        n += more;
        int64_t held = 0;
        for (int32_t g = 0; g < config.n_groups; g++) {
            held += cache.pool[g].n_used * kv_store_block_bytes(c, g, block_tokens, DTYPE_BF16);
        }
        peak = MAX(peak, held);
        kv_cache_commit(&cache, &seq, token, n);
    }
    kv_cache_end(&cache, &seq);
    kv_cache_free(&cache);
    mem_free(memory);
    return peak;
}

static void bytes_of_a_sequence(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        const ModelConfig c = {.n_layers = models[i].n_layers,
                               .n_kv_heads = models[i].n_kv_heads,
                               .head_dim = models[i].head_dim};
        for (int32_t block = 1; block <= 256; block *= 16) {
            assert_int_equal(peak_bytes(&c, block, 100), models[i].one_kib * KIB);
        }
    }
}

/* With a window, the smaller of it and the length counts, and what a block's size adds. */
static void bytes_of_a_window(void **state) {
    (void)state;
    ModelConfig c = {.n_layers = 32, .n_kv_heads = 8, .head_dim = 128, .window = 1024};
    memset(c.layer_kind, LAYER_WINDOW, 32);
    assert_int_equal(peak_bytes(&c, 1, 1), (int64_t)131072 * 1024);
    assert_int_equal(peak_bytes(&c, 16, 1), (int64_t)131072 * (1024 + 16));
    assert_int_equal(peak_bytes(&c, 1, 64), (int64_t)131072 * (1024 + 63)); /* the chunk's own */
    c.window = 2 * S;
    assert_int_equal(peak_bytes(&c, 16, 1), (int64_t)131072 * S);
    /* One full layer after each five windowed ones. */
    c.n_layers = 30;
    c.window = 1024;
    for (int32_t i = 5; i < 30; i += 6) c.layer_kind[i] = LAYER_FULL;
    assert_int_equal(peak_bytes(&c, 1, 1), (int64_t)4096 * (5 * S + 25 * 1024));
    const int32_t n_blocks[] = {S, 1024};
    assert_int_equal(counted_bytes(&c, DTYPE_BF16, 1, n_blocks), peak_bytes(&c, 1, 1));
}

/* ---- what the system counts -------------------------------------------------------------- */

static int64_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    long all, resident;
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &all, &resident), 2);
    assert_int_equal(fclose(file), 0);
    return resident * sysconf(_SC_PAGESIZE);
}

/* Falcon-7B's 4,096 tokens, and a mixed model's: whole huge pages at most are added. */
static void bytes_of_the_process(void **state) {
    (void)state;
    ModelConfig models_here[] = {{.n_layers = 32, .n_kv_heads = 1, .head_dim = 64},
                                 {.n_layers = 6, .n_kv_heads = 4, .head_dim = 64, .window = 512}};
    models_here[1].layer_kind[1] = models_here[1].layer_kind[4] = LAYER_WINDOW;
    const int64_t want[] = {32 * MIB, (int64_t)1024 * (4 * S + 2 * 512)};
    const int32_t n_blocks[] = {S / 16, 512 / 16};
    ThreadPool *pool = NULL;
    Err err = {0};
    ASSERT_OK(pool_open(&pool, 1, &err), err);
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        KvStore *store = NULL;
        const int64_t before = resident_bytes();
        ASSERT_OK(
            kv_store_open(&store, &models_here[i], device_host(), DTYPE_BF16, 16, n_blocks, &err),
            err);
        kv_store_populate(store, pool);
        const int64_t grew = resident_bytes() - before;
        kv_store_close(store);
        assert_in_range(grew, want[i] - 64 * KIB, want[i] + 4 * MIB);
    }
    pool_close(pool);
}

/* The plan of an engine and its store, for each family: multi-head, grouped, windows. */
static void bytes_of_plans(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(golden_families); i++) {
        GoldenModel m;
        char path[96];
        (void)snprintf(path, sizeof path, "tests/golden/%s", golden_families[i]);
        golden_open_model(&m, path, OPS_REF, 1);
        const ModelConfig *c = model_config(m.model);
        RunnerOptions options = {.model = m.model,
                                 .device = device_host(),
                                 .n_threads = 1,
                                 .kv_dtype = DTYPE_F16,
                                 .limits = {.vocab = c->vocab,
                                            .dim = c->dim,
                                            .max_context = 64,
                                            .max_seqs = 2,
                                            .max_step_tokens = 8,
                                            .max_logits = 8}};
        KvCacheConfig *kv = &options.limits.kv;
        *kv = (KvCacheConfig){.n_groups = kv_store_groups(c), .block_tokens = 8};
        int64_t want = 0;
        for (int32_t g = 0; g < kv->n_groups; g++) kv->n_blocks[g] = 20 + 11 * g;
        for (int32_t k = 0; k < c->n_layers; k++) {
            const int32_t n_slots = 8 * kv->n_blocks[kv_store_layer_group(c, k)];
            want += (int64_t)2 * n_slots * c->n_kv_heads * c->head_dim * 2;
        }
        assert_int_equal(runner_bytes(&options).kv, want);
        assert_int_equal(counted_bytes(c, DTYPE_F16, 8, kv->n_blocks), want);
        golden_close_model(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_published_models),
        cmocka_unit_test(bytes_of_a_sequence),
        cmocka_unit_test(bytes_of_a_window),
        cmocka_unit_test(bytes_of_the_process),
        cmocka_unit_test(bytes_of_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
