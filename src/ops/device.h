/* device: the memory and the queue of work of one accelerator, or of the host.
 *
 * The host device is always there; a plugin adds others. All calls are made by the thread that owns
 * the device (the engine's). Copies and ops are queued in order; only device_sync and a download
 * wait for them. On the host everything is done when the call returns. */
#pragma once

#include "base/status.h"

typedef struct Device Device;

typedef struct DeviceVtable {
    const char *name; /* "cpu", "cuda" */
    Status (*alloc)(Device *device, size_t bytes, void **out, Err *err);
    void (*free)(Device *device, void *p, size_t bytes);
    Status (*upload)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*download)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*copy)(Device *device, void *dst, const void *src, size_t bytes, Err *err);
    Status (*sync)(Device *device, Err *err);
    /* Bytes in all and free now. */
    void (*memory)(Device *device, int64_t *total_bytes, int64_t *free_bytes);
    void (*close)(Device *device);
} DeviceVtable;

/* Extended by each backend: it is the first member of the backend's own struct. */
struct Device {
    const DeviceVtable *vtable;
    int32_t id; /* DEVICE_HOST or the accelerator's number */
};

/* The host as a device; there is nothing to close. */
Device *device_host(void);
