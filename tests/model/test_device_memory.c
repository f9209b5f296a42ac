/* test_device_memory: a model on a device of its own: what is uploaded, computed and fetched is
 * what the host computes; every byte is given back; every allocation failed in turn is an error
 * and no leak.
 *
 * The device is a face over host memory that counts, and that calls itself accelerator 0, so that
 * the paths of a device run with the ops of the host. */
#include "../golden/golden.h"

typedef struct FakeDevice {
    Device base;
    int64_t live_bytes, n_allocs, n_downloads, n_host, n_sent;
    int64_t fail_at; /* the allocation that fails, -1: none */
} FakeDevice;

static Status fake_alloc(Device *device, size_t bytes, void **out, Err *err) {
    FakeDevice *fake = (FakeDevice *)device;
    if (fake->n_allocs++ == fake->fail_at) FAIL(err, ERR_NOMEM, "fake: no memory");
    fake->live_bytes += (int64_t)bytes;
    *out = mem_alloc(bytes);
    return OK;
}

static void fake_free(Device *device, void *p, size_t bytes) {
    ((FakeDevice *)device)->live_bytes -= (int64_t)bytes;
    mem_free(p);
}

static Status fake_copy(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    (void)device, (void)err;
    memmove(dst, src, bytes);
    return OK;
}

static Status fake_download(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    ((FakeDevice *)device)->n_downloads++;
    return fake_copy(device, dst, src, bytes, err);
}

static Status fake_host_alloc(Device *device, size_t bytes, void **out, Err *err) {
    FakeDevice *fake = (FakeDevice *)device;
    if (fake->n_allocs++ == fake->fail_at) FAIL(err, ERR_NOMEM, "fake: no memory");
    fake->n_host++;
    *out = mem_alloc(bytes);
    return OK;
}

static void fake_host_free(Device *device, void *p) {
    ((FakeDevice *)device)->n_host--;
    mem_free(p);
}

static Status fake_send(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    ((FakeDevice *)device)->n_sent++;
    return fake_copy(device, dst, src, bytes, err);
}

static const DeviceVtable fake_vtable = {.name = "fake",
                                         .alloc = fake_alloc,
                                         .free = fake_free,
                                         .upload = fake_copy,
                                         .download = fake_download,
                                         .copy = fake_copy,
                                         .host_alloc = fake_host_alloc,
                                         .host_free = fake_host_free,
                                         .send = fake_send};

static FakeDevice fake_device(int64_t fail_at) {
    return (FakeDevice){.base = {&fake_vtable, 0}, .fail_at = fail_at};
}

static void device_same(const char *family) {
    Golden g;
    GoldenModel host, other = {0};
    Err err = {0};
    const float *want = NULL, *got = NULL;
    FakeDevice fake = fake_device(-1);
    ModelFile *file = NULL;
    golden_load(&g, family);
    golden_open_model(&host, g.folder, OPS_REF, 1);
    other.ctx = (OpCtx){.device = &fake.base};
    ASSERT_OK(model_file_open(&file, g.folder, &err), err);
    ModelOptions options = {.ops = host.ops, .ctx = &other.ctx, .quiet = true};
    ASSERT_OK(model_open(&other.model, file, &options, &err), err);
    SingleOptions limits = {.context_max = 64, .n_logits_max = 4};
    Single *a = golden_single(&host, &limits), *b = golden_single(&other, &limits);
    ASSERT_OK(single_feed(a, g.prompt.data, 50, 4, &want, &err), err);
    ASSERT_OK(single_feed(b, g.prompt.data, 50, 4, &got, &err), err);
    assert_memory_equal(want, got, 4 * (size_t)g.vocab * sizeof(float));
    assert_int_equal(fake.n_downloads, 1);
    assert_int_equal(fake.n_sent, 1); /* a step's arrays go up in one copy */
    single_close(a);
    single_close(b);
    model_close(other.model);
    golden_close_model(&host);
    golden_free(&g);
    assert_int_equal(fake.live_bytes, 0);
    assert_int_equal(fake.n_host, 0);
}

static void device_computes(void **state) {
    (void)state;
    device_same("llama");
    device_same("gpt2");
    device_same("gemma3");
    device_same("mixtral");
}

/* Opens a model and a sequence; false when memory ran out on the way. Nothing may stay behind. */
static bool device_try(const char *family, int64_t fail_at) {
    char path[64];
    const Ops *ops = NULL;
    ModelFile *file = NULL;
    Model *model = NULL;
    Single *single = NULL;
    Err err = {0}, other = {0};
    FakeDevice fake = fake_device(fail_at);
    OpCtx ctx = {.device = &fake.base};
    snprintf(path, sizeof path, "tests/golden/%s", family);
    ASSERT_OK(ops_cpu(&ops, "ref", &other), other);
    ASSERT_OK(model_file_open(&file, path, &other), other);
    ModelOptions options = {.ops = ops, .ctx = &ctx, .quiet = true};
    Status status = model_open(&model, file, &options, &err);
    if (status == OK) {
        SingleOptions limits = {.context_max = 64};
        status = single_open(&single, model, &ctx, &limits, &err);
        single_close(single);
        model_close(model);
    }
    assert_true(status == OK || (status == ERR_NOMEM && strcmp(err.text, "fake: no memory") == 0));
    assert_int_equal(fake.live_bytes, 0);
    assert_int_equal(fake.n_host, 0);
    return status == OK;
}

static void device_fails_in_turn(void **state) {
    (void)state;
    const char *const families[] = {"gpt2", "gemma3", "mixtral"};
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        int64_t n = 0;
        while (!device_try(families[i], n)) n++;
        print_message("%s: %lld allocations\n", families[i], (long long)n);
        assert_true(n >= 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(device_computes),
                                       cmocka_unit_test(device_fails_in_turn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
