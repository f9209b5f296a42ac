/* test_plan: how an accelerator's memory is shared out.
 *
 * The device is a stub that has so much memory, of which so much is free; nothing is allocated. All
 * that is in use when the engine is open stays within the bound, and one block more would not. */
#include "../testing.h"

#include "engine/sluice_plan.h"

static const char MODEL[] = "models/fable-28m.gguf";

typedef struct Stub {
    Device base;
    int64_t all, left;
} Stub;

static void stub_memory(Device *device, int64_t *all, int64_t *left) {
    *all = ((Stub *)device)->all;
    *left = ((Stub *)device)->left;
}

static const DeviceVtable stub_vtable = {.name = "stub", .memory = stub_memory};

static sluice_status plan_of(sluice_model *model, double gpu_memory, int64_t kv_bytes,
                             sluice_engine_plan *plan, sluice_error *err) {
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.gpu_memory = gpu_memory;
    options.kv_bytes = kv_bytes;
    *plan = (sluice_engine_plan){.size = sizeof *plan};
    return sluice_engine_dry_run(model, &options, plan, err);
}

static void kv_gets_the_rest(void **state) {
    sluice_model *model = *state;
    static const int64_t GB = 1000000000;
    static const struct {
        int64_t all, left;
        double gpu_memory;
        int64_t bound; /* 0: refused */
    } rows[] = {{140 * GB, 130 * GB, 0.9, 126 * GB}, {140 * GB, 130 * GB, 0.5, 70 * GB},
                {80 * GB, 80 * GB, 1, 80 * GB},      {80 * GB, 60 * GB, 40e9, 40 * GB},
                {80 * GB, 60 * GB, 500e9, 80 * GB},  {80 * GB, 60 * GB, 0.2, 0},
                {80 * GB, 60 * GB, 19e9, 0}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Stub stub = {{&stub_vtable, 0}, rows[i].all, rows[i].left};
        Device *host = model->ctx.device;
        sluice_engine_plan plan;
        sluice_error err = {0};
        model->ctx.device = &stub.base;
        const sluice_status status = plan_of(model, rows[i].gpu_memory, 0, &plan, &err);
        model->ctx.device = host;
        if (rows[i].bound == 0) {
            assert_int_equal(status, SLUICE_ERR_LIMIT);
            assert_non_null(strstr(err.text, "gpu_memory"));
            continue;
        }
        assert_int_equal(status, SLUICE_OK);
        const int64_t block = plan.kv_bytes / plan.n_blocks;
        assert_true(plan.device_bytes <= rows[i].bound);
        assert_true(plan.device_bytes + block > rows[i].bound);
        assert_true(plan.device_bytes >= rows[i].all - rows[i].left + plan.kv_bytes);
        assert_int_equal(plan.device_bytes_all, rows[i].all);
    }
}

/* What --kv-mb says holds; a host has no such memory. */
static void kv_as_asked(void **state) {
    sluice_model *model = *state;
    Stub stub = {{&stub_vtable, 0}, 1 << 30, 1 << 29};
    Device *host = model->ctx.device;
    sluice_engine_plan plan;
    model->ctx.device = &stub.base;
    assert_int_equal(plan_of(model, 0.9, 64 << 20, &plan, NULL), SLUICE_OK);
    model->ctx.device = host;
    assert_true(plan.kv_bytes <= 64 << 20 && plan.kv_bytes > 60 << 20);
    assert_int_equal(plan.max_seqs, 256);
    assert_int_equal(plan_of(model, 0.9, 0, &plan, NULL), SLUICE_OK);
    assert_int_equal(plan.device_bytes, 0);
    assert_int_equal(plan.max_seqs, 64);
    assert_int_equal(plan_of(model, -1, 0, &plan, NULL), SLUICE_ERR_ARG);
}

/* An accelerator may give up the order of sums; a host has one only and says so. */
static void fast_is_for_accelerators(void **state) {
    sluice_model *model = *state;
    Stub stub = {{&stub_vtable, 0}, 1 << 30, 1 << 29};
    Device *host = model->ctx.device;
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    sluice_engine_plan plan = {.size = sizeof plan};
    sluice_error err = {0};
    options.fast = true;
    assert_int_equal(sluice_engine_dry_run(model, &options, &plan, &err), SLUICE_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "fast"));
    model->ctx.device = &stub.base;
    assert_int_equal(sluice_engine_dry_run(model, &options, &plan, &err), SLUICE_OK);
    assert_true(plan.fast);
    options.fast = false;
    assert_int_equal(sluice_engine_dry_run(model, &options, &plan, &err), SLUICE_OK);
    assert_false(plan.fast);
    model->ctx.device = host;
}

/* A second engine is refused before it touches the device, and the first keeps the model. */
static void an_accelerator_has_one_engine(void **state) {
    sluice_model *model = *state;
    Stub stub = {{&stub_vtable, 0}, 1 << 30, 1 << 29};
    Device *host = model->ctx.device;
    sluice_engine *engine = NULL;
    sluice_error err = {0};
    model->ctx.device = &stub.base;
    model->taken = true;
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(sluice_engine_open(&engine, model, NULL, &err), SLUICE_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, "an engine has the model already"));
    }
    model->taken = false;
    model->ctx.device = host;
}

static int model_open_once(void **state) {
    sluice_model_options options = SLUICE_MODEL_OPTIONS_INIT;
    options.quiet = true;
    return sluice_model_open((sluice_model **)state, MODEL, &options, NULL) != SLUICE_OK;
}

static int model_close_once(void **state) {
    sluice_model_close(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(kv_gets_the_rest),
                                       cmocka_unit_test(kv_as_asked),
                                       cmocka_unit_test(fast_is_for_accelerators),
                                       cmocka_unit_test(an_accelerator_has_one_engine)};
    return cmocka_run_group_tests(tests, model_open_once, model_close_once);
}
