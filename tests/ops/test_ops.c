/* test_ops: levels by name and by default, the host device, and that every level's table is
 * complete. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "ops/ops.h"

static void ops_levels(void **state) {
    (void)state;
    const Ops *ops = NULL;
    Err err = {0};
    assert_int_equal(ops_cpu(&ops, "ref", &err), OK);
    assert_string_equal(ops->level, "ref");
    assert_true(ops_cpu_has(OPS_REF));
    assert_int_equal(ops_cpu(&ops, NULL, &err), OK);
    const Ops *before = ops;
    assert_int_equal(ops_cpu(&ops, "sse9", &err), ERR_ARG);
    assert_non_null(strstr(err.text, "sse9"));
    assert_ptr_equal(ops, before);
    for (int32_t i = 0; i < OPS_LEVEL_COUNT; i++) {
        const char *name = ops_level_name((OpsLevel)i);
        Status expected = ops_cpu_has((OpsLevel)i) ? OK : ERR_UNSUPPORTED;
        assert_int_equal(ops_cpu(&ops, name, NULL), expected);
        if (expected == OK) assert_string_equal(ops->level, name);
    }
    /* A better level is never there without the ones below it. */
    assert_true(ops_cpu_has(OPS_AVX2) || !ops_cpu_has(OPS_AVX512));
}

static void ops_tables_complete(void **state) {
    (void)state;
    for (int32_t i = 0; i < OPS_LEVEL_COUNT; i++) {
        const Ops *ops;
        if (ops_cpu(&ops, ops_level_name((OpsLevel)i), NULL) != OK) continue;
        assert_true(ops->scratch_bytes && ops->weight_prepare && ops->weight_release);
        assert_true(ops->embed && ops->norm && ops->linear && ops->rope_kv && ops->attn);
        assert_true(ops->gated && ops->feed);
        assert_true(ops->act && ops->moe_route && ops->moe && ops->softcap && ops->gather_rows);
    }
}

static void device_host_memory(void **state) {
    (void)state;
    Device *host = device_host();
    Err err = {0};
    void *p = NULL;
    assert_int_equal(host->id, DEVICE_HOST);
    assert_int_equal(host->vtable->alloc(host, 1000, &p, &err), OK);
    assert_int_equal((uintptr_t)p % CACHE_LINE, 0);
    char bytes[1000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7);
    assert_int_equal(host->vtable->upload(host, p, bytes, sizeof bytes, &err), OK);
    char back[1000] = {0};
    assert_int_equal(host->vtable->download(host, back, p, sizeof back, &err), OK);
    assert_memory_equal(bytes, back, sizeof back);
    assert_int_equal(host->vtable->sync(host, &err), OK);
    host->vtable->free(host, p, 1000);
    void *too_large = NULL;
    assert_int_equal(host->vtable->alloc(host, SIZE_MAX / 2, &too_large, &err), ERR_NOMEM);
    assert_null(too_large);
    int64_t total = 0, available = 0;
    host->vtable->memory(host, &total, &available);
    assert_true(total > 0 && available > 0 && available <= total);
    host->vtable->close(host);
}

/* The last level that the processor has; vdpbf16ps only where it is faster than FMA, on AMD from
 * Zen 5, the first with VP2INTERSECT. */
static void ops_default_is_fastest(void **state) {
    (void)state;
    const bool zen5 = __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512vp2intersect") != 0;
    OpsLevel fastest = OPS_REF;
    for (int32_t i = 0; i < OPS_LEVEL_COUNT; i++)
        if (ops_cpu_has((OpsLevel)i) && (i != OPS_AVX512BF16 || zen5)) fastest = (OpsLevel)i;
    const Ops *ops = NULL;
    assert_int_equal(ops_cpu(&ops, NULL, NULL), OK);
    assert_string_equal(ops->level, ops_level_name(fastest));
}

/* One decode step of a one-layer toy by hand: linear, then act, on every level. */
static void ops_smoke(void **state) {
    (void)state;
    for (int32_t i = 0; i < OPS_LEVEL_COUNT; i++) {
        const Ops *ops;
        if (ops_cpu(&ops, ops_level_name((OpsLevel)i), NULL) != OK) continue;
        _Alignas(CACHE_LINE) static char scratch[1 << 20];
        OpCtx ctx = {.device = device_host(), .scratch = scratch, .scratch_bytes = sizeof scratch};
        float w[2 * 3] = {1, 2, 3, -1, 0, 1}, x[3] = {1, 1, 2}, bias[2] = {0.5f, 0}, out[2];
        Tensor file = tensor_2d(w, DTYPE_F32, 2, 3);
        Weight weight;
        assert_int_equal(ops->weight_prepare(&ctx, &file, &weight, NULL), OK);
        LinearArgs linear = {.x = tensor_2d(x, DTYPE_F32, 1, 3), .n_parts = 1};
        linear.part[0] = (LinearPart){&weight, bias, tensor_2d(out, DTYPE_F32, 1, 2)};
        ops->linear(&ctx, &linear);
        assert_true(out[0] == 9.5f && out[1] == 1.0f);
        ActArgs act = {.kind = ACT_RELU, .gate = linear.part[0].out, .out = linear.part[0].out};
        out[1] = -3;
        ops->act(&ctx, &act);
        assert_true(out[0] == 9.5f && out[1] == 0.0f);
        ops->weight_release(&ctx, &weight);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_levels),          cmocka_unit_test(ops_default_is_fastest),
        cmocka_unit_test(ops_tables_complete), cmocka_unit_test(device_host_memory),
        cmocka_unit_test(ops_smoke),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
