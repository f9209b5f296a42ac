#include "app/machine.h"

#include <stdio.h>
#include <string.h>

#include "ops/plugin.h"
#include "ops/probe.h"

enum { MACHINE_ROUNDS = 9, MACHINE_ROUNDS_SHORT = 3 };

static OpsLevel machine_level(const char *name) {
    for (int32_t i = 0; i < OPS_LEVEL_COUNT; i++)
        if (strcmp(ops_level_name((OpsLevel)i), name) == 0) return (OpsLevel)i;
    return OPS_REF;
}

/* A device's tensor cores multiply bf16 for products and attention; what is wider than that has no
 * limit measured. */
static Status machine_of_device(const Compute *compute, MachineLimits *out, Err *err) {
    Device *device = compute->ctx.device;
    const DType weights = model_config(compute->model)->weight_dtype;
    DeviceLimits limits;
    Err failure = {0}; /* of what may pass, err is to know nothing */
    const Status status = device->vtable->limits(device, &limits, &failure);
    *out = (MachineLimits){0};
    if (status == ERR_NOMEM) return OK; /* the test has it all */
    if (status != OK) FAIL(err, status, "%s", failure.text);
    const double products = compute->ops->feed(weights) == DTYPE_BF16 ? limits.products_per_s : 0;
    *out = (MachineLimits){.read_bytes_per_s = limits.read_bytes_per_s,
                           .matrix_flops_per_s = products,
                           .attend_flops_per_s = products};
    return OK;
}

Status machine_of(const Compute *compute, MachineLimits *out, Err *err) {
    if (compute->ctx.device->id != DEVICE_HOST) return machine_of_device(compute, out, err);
    OpsLevel level = machine_level(compute->ops->level);
    DType weights = model_config(compute->model)->weight_dtype;
    ThreadPool *pool = compute->pool;
    /* One machine reads faster along one line, another along several. */
    double one = probe_read_bandwidth(pool, PROBE_ONE_STREAM, MACHINE_ROUNDS_SHORT);
    double four = probe_read_bandwidth(pool, PROBE_FOUR_PREFETCHED, MACHINE_ROUNDS_SHORT);
    *out = (MachineLimits){
        .read_bytes_per_s = MAX(one, four),
        .matrix_flops_per_s = probe_products(pool, level, weights, MACHINE_ROUNDS_SHORT),
        .attend_flops_per_s = probe_products(pool, level, DTYPE_F32, MACHINE_ROUNDS_SHORT),
        .run_s = probe_pool_run(pool, MACHINE_ROUNDS_SHORT)};
    return OK;
}

MachineLimits machine_mean(MachineLimits a, MachineLimits b) {
    /* One that could not be measured leaves the mean unknown. */
    if (a.read_bytes_per_s == 0 || b.read_bytes_per_s == 0) return (MachineLimits){0};
    return (MachineLimits){(a.read_bytes_per_s + b.read_bytes_per_s) / 2,
                           (a.matrix_flops_per_s + b.matrix_flops_per_s) / 2,
                           (a.attend_flops_per_s + b.attend_flops_per_s) / 2,
                           (a.run_s + b.run_s) / 2};
}

static void machine_print_caches(void) {
    ProbeCache cache[PROBE_CACHES_MAX];
    int32_t n = probe_caches(cache);
    for (int32_t i = 0; i < n; i++)
        printf("%sL%d %lld KiB for %d cores", i > 0 ? ", " : "data caches: ", cache[i].level,
               (long long)cache[i].bytes >> 10, cache[i].n_cpus);
    if (n > 0) printf("\n\n");
}

static void machine_print_row(ThreadPool *pool) {
    printf("| %d ", pool_threads(pool));
    for (ProbeWalk walk = 0; walk < PROBE_WALK_COUNT; walk++)
        printf("| %.1f ", probe_read_bandwidth(pool, walk, MACHINE_ROUNDS) / 1e9);
    printf("| %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.2f |\n",
           probe_f32_fma(pool, OPS_AVX2, MACHINE_ROUNDS) / 1e9,
           probe_f32_fma(pool, OPS_AVX512, MACHINE_ROUNDS) / 1e9,
           probe_bf16_dot(pool, OPS_AVX512BF16, MACHINE_ROUNDS) / 1e9,
           probe_bf16_dot(pool, OPS_AMX, MACHINE_ROUNDS) / 1e9,
           probe_bf16_fed(pool, MACHINE_ROUNDS) / 1e9,
           probe_int8_dot(pool, OPS_AVX2, MACHINE_ROUNDS) / 1e9,
           probe_int8_dot(pool, OPS_AVX512, MACHINE_ROUNDS) / 1e9,
           probe_int8_dot(pool, OPS_AMX, MACHINE_ROUNDS) / 1e9,
           probe_int8_fed(pool, MACHINE_ROUNDS) / 1e9, probe_pool_run(pool, MACHINE_ROUNDS) * 1e6);
}

static Status machine_print_device(Device *device, Err *err) {
    DeviceLimits limits;
    TRY(device->vtable->limits(device, &limits, err));
    printf("| device | read GB/s | bf16 products GFLOP/s |\n| --- | ---: | ---: |\n");
    printf("| %s:%d | %.1f | %.0f |\n", device->vtable->name, device->id,
           limits.read_bytes_per_s / 1e9, limits.products_per_s / 1e9);
    return OK;
}

static Status machine_print_host(const Config *config, Err *err) {
    int32_t n_max = config->threads > 0 ? (int32_t)config->threads : thread_cores();
    machine_print_caches();
    printf(
        "| threads | read GB/s, one stream | four | four, prefetched | f32 GFLOP/s avx2 | avx512 | "
        "bf16 avx512 | amx | amx from L2 | int8 GOP/s avx2 | avx512 | amx | amx from L2 | run us "
        "|\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: | "
        "---: |\n");
    for (int32_t n = 1; n <= n_max; n = n < n_max ? MIN(n * 2, n_max) : n + 1) {
        ThreadPool *pool;
        TRY(pool_open(&pool, n, err));
        machine_print_row(pool);
        pool_close(pool);
    }
    return OK;
}

Status machine_print(const Config *config, Err *err) {
    const Ops *ops;
    Device *device;
    TRY(plugin_open(config->device, config->level, &ops, &device, err));
    const Status status = device->id == DEVICE_HOST ? machine_print_host(config, err)
                                                    : machine_print_device(device, err);
    plugin_close(device);
    return status;
}
