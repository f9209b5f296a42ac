/* device: the memory and the queue of work of one accelerator, or of the host.
 *
 * The host device is always there; a plugin (ops/plugin.h) adds others. All calls are made by the
 * thread that owns the device: whoever opens the model, then the engine's. Copies and ops are
 * queued in order; only sync, a download and receive's sync wait for them. On the host everything
 * is done when the call returns. */
#pragma once

#include "base/thread.h"

typedef struct Device Device;

/* n_rows pieces of row_bytes each, so many bytes apart on either side. */
typedef struct DeviceRows {
    void *dst;
    const void *src;
    size_t dst_pitch, src_pitch, row_bytes, n_rows;
} DeviceRows;

/* What a device can do, measured. */
typedef struct DeviceLimits {
    double read_bytes_per_s;
    double products_per_s; /* operations of bf16 matrix products, of which an addition is one */
} DeviceLimits;

typedef struct DeviceVtable {
    const char *name; /* "cpu", "cuda" */
    Status (*alloc)(Device *device, size_t bytes, void **out, Err *err);
    void (*free)(Device *device, void *p, size_t bytes);
    /* src may be changed when it returns. */
    Status (*upload)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*download)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*copy)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    /* Between any two memories, the host's too; queued: what leaves the device is there after sync,
     * and the host's side stays as it is until then. */
    Status (*copy_rows)(Device *device, const DeviceRows *rows, Err *err);
    /* Waits; fails when anything queued before it failed. */
    Status (*sync)(Device *device, Err *err);
    /* Bytes in all and free now. */
    void (*memory)(Device *device, int64_t *total_bytes, int64_t *free_bytes);
    void (*close)(Device *device);

    /* The rest is NULL on the host, whose ops read the caller's memory. */

    /* Host memory that the device copies from and to without the processor. */
    Status (*host_alloc)(Device *device, size_t bytes, void **out, Err *err);
    void (*host_free)(Device *device, void *p);
    /* Queues a copy from, or to, memory of host_alloc, which stays as it is until the next sync. */
    Status (*send)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*receive)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    /* What is queued between begin and end is recorded instead of run; run queues it again, as
     * often as wanted. One recording at a time. */
    Status (*graph_begin)(Device *device, Err *err);
    Status (*graph_end)(Device *device, void **graph, Err *err);
    Status (*graph_run)(Device *device, void *graph, Err *err);
    void (*graph_free)(Device *device, void *graph);
    /* Takes a tenth of a second, and 1 GiB of the device's memory meanwhile. */
    Status (*limits)(Device *device, DeviceLimits *out, Err *err);
    /* After a call that failed: waits, forgets what other calls and ops have failed at, and says
     * whether the device itself is what failed, so that it answers no more. */
    bool (*lost)(Device *device);
} DeviceVtable;

/* Extended by each backend: it is the first member of the backend's own struct. */
struct Device {
    const DeviceVtable *vtable;
    int32_t id; /* DEVICE_HOST or the accelerator's number */
};

/* The host as a device; there is nothing to close. */
Device *device_host(void);
