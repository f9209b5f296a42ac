/* test_kv_store: groups of layers, the layout that ops see, blocks copied and moved. The bytes of
 * known models are in engine/test_kv_bytes. */
#include "testing.h"

#include "model/kv_store.h"

static void kv_config(ModelConfig *c, int32_t n_layers, int32_t n_kv_heads, int32_t head_dim) {
    memset(c, 0, sizeof *c);
    c->n_layers = n_layers;
    c->n_kv_heads = n_kv_heads;
    c->head_dim = head_dim;
}

static void kv_store_window_groups(void **state) {
    (void)state;
    ModelConfig c;
    kv_config(&c, 6, 2, 16);
    c.window = 32;
    memset(c.layer_kind, LAYER_WINDOW, 6);
    assert_int_equal(kv_store_groups(&c), 1);
    assert_int_equal(kv_store_group_window(&c, 0), 32);
    c.layer_kind[2] = LAYER_FULL;
    c.layer_kind[5] = LAYER_FULL;
    assert_int_equal(kv_store_groups(&c), 2);
    assert_int_equal(kv_store_group_window(&c, 0), 0);
    assert_int_equal(kv_store_group_window(&c, 1), 32);
    assert_int_equal(kv_store_layer_group(&c, 2), 0);
    assert_int_equal(kv_store_layer_group(&c, 3), 1);
    assert_int_equal(kv_store_block_bytes(&c, 0, 8, DTYPE_F32), 2 * 2 * 2 * 16 * 8 * 4);
    assert_int_equal(kv_store_block_bytes(&c, 1, 8, DTYPE_F32), 2 * 4 * 2 * 16 * 8 * 4);
    assert_int_equal(kv_store_block_bytes(&c, 1, 8, DTYPE_I8), 2 * 4 * 2 * 8 * (16 + 4));
}

static void kv_store_names_dtypes(void **state) {
    (void)state;
    ModelConfig c;
    Device device = {.id = DEVICE_HOST}, accelerator = {.id = DEVICE_HOST + 1};
    kv_config(&c, 1, 1, 8);
    static const struct {
        const char *name;
        DType weights, want;
    } cases[] = {{NULL, DTYPE_F32, DTYPE_F32},    {NULL, DTYPE_Q4_0, DTYPE_BF16},
                 {"f32", DTYPE_BF16, DTYPE_F32},  {"f16", DTYPE_F32, DTYPE_F16},
                 {"bf16", DTYPE_F32, DTYPE_BF16}, {"int8", DTYPE_BF16, DTYPE_I8}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        Err err = {0};
        DType got;
        c.weight_dtype = cases[i].weights;
        ASSERT_OK(kv_store_dtype(cases[i].name, &c, &device, &got, &err), err);
        assert_int_equal(got, cases[i].want);
        if (cases[i].name) assert_string_equal(kv_store_dtype_name(got), cases[i].name);
    }
    static const char *const unknown[] = {"", "i8", "q8_0", "INT8", "bf16 "};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        DType got = DTYPE_COUNT;
        assert_int_equal(kv_store_dtype(unknown[i], &c, &device, &got, NULL), ERR_ARG);
        assert_int_equal(got, DTYPE_COUNT);
    }
    Err err = {0};
    DType got;
    assert_int_equal(kv_store_dtype("int8", &c, &accelerator, &got, &err), ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "int8"));
    ASSERT_OK(kv_store_dtype("f16", &c, &accelerator, &got, &err), err);
}

/* Fills every element with a number of its own through the views. */
static void kv_fill(KvStore *store, int32_t n_layers) {
    float value = 1;
    for (int32_t layer = 0; layer < n_layers; layer++) {
        KvView view = kv_store_layer(store, layer);
        size_t n = (size_t)view.n_blocks * (size_t)view.n_kv_heads * (size_t)view.block_tokens *
                   (size_t)view.head_dim;
        for (size_t i = 0; i < n; i++) ((float *)view.k)[i] = value++;
        for (size_t i = 0; i < n; i++) ((float *)view.v)[i] = value++;
    }
}

static void kv_store_moves_blocks(void **state) {
    (void)state;
    Err err = {0};
    ModelConfig c;
    KvStore *store = NULL;
    const int32_t n_blocks[] = {5, 3};
    kv_config(&c, 3, 2, 4);
    c.window = 8;
    c.layer_kind[1] = LAYER_WINDOW;
    ASSERT_OK(kv_store_open(&store, &c, device_host(), DTYPE_F32, 4, n_blocks, &err), err);
    int64_t bytes = kv_store_block_bytes(&c, 0, 4, DTYPE_F32);
    assert_int_equal(kv_store_bytes(store),
                     5 * bytes + 3 * kv_store_block_bytes(&c, 1, 4, DTYPE_F32));
    assert_int_equal(kv_store_layer(store, 0).n_blocks, 5);
    assert_int_equal(kv_store_layer(store, 1).n_blocks, 3);
    kv_fill(store, 3);
    float *one = mem_alloc((size_t)bytes), *two = mem_alloc((size_t)bytes);
    ASSERT_OK(kv_store_read_block(store, 0, 1, one, &err), err);
    /* Layer 0, K, block 1: 32 elements from 32 on; then V; then layer 2, the group's second. */
    assert_true(one[0] == 33 && one[31] == 64 && one[32] == 193);
    assert_true(one[64] == 160 * 2 + 96 * 2 + 33);
    ASSERT_OK(kv_store_copy_block(store, 0, 1, 4, &err), err);
    ASSERT_OK(kv_store_read_block(store, 0, 4, two, &err), err);
    assert_memory_equal(one, two, (size_t)bytes);
    ASSERT_OK(kv_store_read_block(store, 0, 0, two, &err), err);
    assert_true(two[0] == 1); /* neighbours stay */
    ASSERT_OK(kv_store_write_block(store, 0, 2, one, &err), err);
    memset(two, 0, (size_t)bytes);
    ASSERT_OK(kv_store_read_block(store, 0, 2, two, &err), err);
    assert_memory_equal(one, two, (size_t)bytes);
    mem_free(one);
    mem_free(two);
    kv_store_close(store);
}

static void kv_store_refuses(void **state) {
    (void)state;
    ModelConfig c;
    KvStore *store = NULL;
    const int32_t n_blocks[] = {INT32_MAX, 1};
    Err err = {0}, dtype = {0}, block = {0};
    kv_config(&c, 512, 1024, 1024);
    assert_int_equal(kv_store_open(&store, &c, device_host(), DTYPE_F32, 256, n_blocks, &err),
                     ERR_LIMIT);
    assert_int_equal(kv_store_open(&store, &c, device_host(), DTYPE_Q8_0, 16, n_blocks, &dtype),
                     ERR_ARG);
    assert_non_null(strstr(dtype.text, "q8_0"));
    assert_int_equal(kv_store_open(&store, &c, device_host(), DTYPE_F16, 0, n_blocks, &block),
                     ERR_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kv_store_window_groups),
        cmocka_unit_test(kv_store_names_dtypes),
        cmocka_unit_test(kv_store_moves_blocks),
        cmocka_unit_test(kv_store_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
