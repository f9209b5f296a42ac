/* plugin_testing: the GPU for tests that need one. */
#pragma once

#include "testing.h"

#include "ops/plugin.h"

/* False, with a line that says which, where there is no plugin, driver or GPU, or too old a one:
 * the test counts as skipped. One that is there and of no use fails it. */
static inline bool plugin_testing_gpu(const Ops **ops, Device **device) {
    Err err = {0};
    const Status status = plugin_open("cuda", NULL, ops, device, &err);
    if (status == ERR_NOT_FOUND) {
        print_message("%s\n", err.text);
        return false;
    }
    ASSERT_OK(status, err);
    return true;
}

/* Whether Hopper's kernels serve the GPU that is there; they alone pack bf16 otherwise than f16. */
static inline bool plugin_testing_is_hopper(void) {
    static uint16_t zeros[64 * 64];
    static const DType dtypes[] = {DTYPE_BF16, DTYPE_F16};
    const Ops *ops = NULL;
    OpCtx ctx = {0};
    Weight weight[2] = {0};
    Err err = {0};
    ASSERT_OK(plugin_open("cuda", NULL, &ops, &ctx.device, &err), err);
    for (size_t i = 0; i < 2; i++) {
        const Tensor file = tensor_2d(zeros, dtypes[i], 64, 64);
        ASSERT_OK(ops->weight_prepare(&ctx, &file, &weight[i], &err), err);
    }
    plugin_close(ctx.device);
    return weight[0].layout != weight[1].layout;
}
