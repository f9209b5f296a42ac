/* plugin_testing: the GPU for tests that need one. */
#pragma once

#include "testing.h"

#include "ops/plugin.h"

/* False, with a line that says which, where there is no plugin, driver or GPU: the test counts as
 * skipped. One that is there and of no use fails it. */
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
