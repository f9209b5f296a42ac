/* test_cuda_engine: the engine on the GPU's fast kernels: a request's tokens and logprobs are the
 * same alone, among others, in chunks, warm, swapped and computed again (see same_bits.h), for bf16
 * models of each kind; and after opening no step allocates on the GPU. */
#include "cuda/cuda_shapes.h"
#include "engine/same_bits.h"

enum { PROMPT = 200, VOCAB = 1000, N_REQUESTS = 12 };

static void same_bits_on_the_gpu(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        GoldenModel m;
        Golden g = {.vocab = VOCAB};
        for (int32_t k = 0; k < PROMPT; k++)
            ints_push(&g.prompt, (int32_t)(rng_bits(3, i, (uint64_t)k) % VOCAB));
        open_shape(&m, &shapes[i], GOLDEN_CUDA);
        print_message("%s\n", shapes[i].name);
        same_bits_of(&(Subject){&m, &g.prompt, DTYPE_BF16, N_REQUESTS}, NULL);
        golden_close_model(&m);
        golden_free(&g);
    }
}

/* ---- allocations -------------------------------------------------------------------------- */

/* The GPU's own face, but for those that take memory, which are counted. */
typedef struct Counted {
    DeviceVtable vtable;
    const DeviceVtable *real;
} Counted;

static Counted counted;
static int32_t n_taken;

static Status count_alloc(Device *device, size_t bytes, void **out, Err *err) {
    n_taken++;
    return counted.real->alloc(device, bytes, out, err);
}

static Status count_host_alloc(Device *device, size_t bytes, void **out, Err *err) {
    n_taken++;
    return counted.real->host_alloc(device, bytes, out, err);
}

static void takes_no_memory_when_ready(void **state) {
    (void)state;
    if (!golden_has_gpu()) skip();
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        static Answer answer[N_REQUESTS];
        GoldenModel m;
        Golden g = {.vocab = VOCAB};
        const Setting setting = {8,    100,  16, 460, 1, true, 1, true, SLUICE_PREEMPT_SWAP,
                                 4096, false};
        const Subject subject = {&m, &g.prompt, DTYPE_BF16, N_REQUESTS};
        for (int32_t k = 0; k < PROMPT; k++) ints_push(&g.prompt, k);
        open_shape(&m, &shapes[i], GOLDEN_CUDA);
        counted = (Counted){*m.ctx.device->vtable, m.ctx.device->vtable};
        counted.vtable.alloc = count_alloc;
        counted.vtable.host_alloc = count_host_alloc;
        m.ctx.device->vtable = &counted.vtable;
        Engine *engine = open_engine(&subject, &setting, NULL);
        assert_true(n_taken > 0);
        n_taken = 0;
        int64_t total, before, after;
        counted.real->memory(m.ctx.device, &total, &before);
        for (int32_t k = 0; k < N_REQUESTS; k++) submit(engine, &subject, k, &answer[k]);
        run_all(engine);
        counted.real->memory(m.ctx.device, &total, &after);
        assert_int_equal(n_taken, 0);
        /* The driver, too, loaded everything before. */
        assert_true(after == before);
        memset(answer, 0, sizeof answer);
        engine_close(engine);
        m.ctx.device->vtable = counted.real;
        golden_close_model(&m);
        golden_free(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits_on_the_gpu),
                                       cmocka_unit_test(takes_no_memory_when_ready)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
