/* device_host: the host's own memory behind the device face; every call is done when it returns. */
#include "ops/device.h"

#include <string.h>
#include <unistd.h>

#include "base/available.h"
#include "base/mem.h"
#include "tensor/tensor.h"

static Status device_host_alloc(Device *device, size_t bytes, void **out, Err *err) {
    (void)device;
    void *p = mem_try_alloc_large(bytes);
    if (p == NULL) FAIL(err, ERR_NOMEM, "host: no memory for %zu bytes", bytes);
    *out = p;
    return OK;
}

static void device_host_free(Device *device, void *p, size_t bytes) {
    (void)device;
    if (p != NULL) mem_free_large(p, bytes);
}

static Status device_host_copy(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    (void)device;
    (void)err;
    if (bytes > 0) memmove(dst, src, bytes);
    return OK;
}

static Status device_host_copy_rows(Device *device, const DeviceRows *rows, Err *err) {
    for (size_t i = 0; i < rows->n_rows; i++)
        TRY(device_host_copy(device, (char *)rows->dst + i * rows->dst_pitch,
                             (const char *)rows->src + i * rows->src_pitch, rows->row_bytes, err));
    return OK;
}

static Status device_host_sync(Device *device, Err *err) {
    (void)device;
    (void)err;
    return OK;
}

static void device_host_memory(Device *device, int64_t *total_bytes, int64_t *free_bytes) {
    (void)device;
    int64_t pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    *total_bytes = pages > 0 && page_bytes > 0 ? pages * page_bytes : 0;
    *free_bytes = MIN(available_memory(""), *total_bytes);
}

static void device_host_close(Device *device) {
    (void)device;
}

static const DeviceVtable DEVICE_HOST_VTABLE = {
    .name = "cpu",
    .alloc = device_host_alloc,
    .free = device_host_free,
    .upload = device_host_copy,
    .download = device_host_copy,
    .copy = device_host_copy,
    .copy_rows = device_host_copy_rows,
    .sync = device_host_sync,
    .memory = device_host_memory,
    .close = device_host_close,
};

static const Device DEVICE_HOST_DEVICE = {&DEVICE_HOST_VTABLE, DEVICE_HOST};

Device *device_host(void) {
    /* Nothing writes through it: the host has no state. */
    return (Device *)(uintptr_t)&DEVICE_HOST_DEVICE;
}
