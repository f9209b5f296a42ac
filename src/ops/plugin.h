/* plugin: the ops and the device of an accelerator, from a shared library loaded at run time.
 *
 * libsluice_cuda.so exports one symbol, sluice_plugin, that gives this face. Binary and plugin come
 * from one build: PLUGIN_ABI is raised whenever ops.h or device.h change what they share, and the
 * sizes of the tables are compared too. A plugin is never unloaded. */
#pragma once

#include "ops/ops.h"

enum { PLUGIN_ABI = 4 };

typedef struct Plugin {
    int32_t abi;
    size_t ops_bytes, device_bytes; /* sizeof(Ops), sizeof(DeviceVtable) */
    const Ops *ops;
    /* Opens accelerator number id; ERR_NOT_FOUND where there is no driver or no chip, or one that
     * is too old, ERR_UNSUPPORTED where they are of no use otherwise, with a sentence. Closed
     * through its vtable. */
    Status (*device_open)(int32_t id, Device **out, Err *err);
} Plugin;

typedef const Plugin *(*PluginEntry)(void);
#define PLUGIN_ENTRY "sluice_plugin"

/* A device by its name: "cpu" or NULL, "cuda", "cuda:1". For the CPU *ops is the table of the level
 * (see ops_cpu). The plugin is looked for beside the running program, in ../lib from there, then
 * where the system looks for libraries. ERR_ARG for an unknown name, ERR_NOT_FOUND where plugin,
 * driver or accelerator are missing or too old, ERR_UNSUPPORTED where one of them is of no use
 * otherwise.
 * plugin_close takes any device, also the host. */
MUST_USE Status plugin_open(const char *device, const char *level, const Ops **ops, Device **out,
                            Err *err);
void plugin_close(Device *device);
