#include "ops/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const PLUGIN_FILE = "libsluice_cuda.so";

enum { PLUGIN_PATH_BYTES = 4096 };

/* The folder of the running program, "" when the system does not say. */
static void plugin_program_folder(char folder[PLUGIN_PATH_BYTES]) {
    ssize_t n = readlink("/proc/self/exe", folder, PLUGIN_PATH_BYTES - 1);
    folder[MAX(n, (ssize_t)0)] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL) *slash = '\0';
}

static Status plugin_load(void **library, Err *err) {
    char folder[PLUGIN_PATH_BYTES], path[PLUGIN_PATH_BYTES + 64];
    static const char *const places[] = {"", "../lib/"};
    plugin_program_folder(folder);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        snprintf(path, sizeof path, "%s/%s%s", folder, places[i], PLUGIN_FILE);
        if (access(path, F_OK) != 0) continue;
        *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (*library != NULL) return OK;
        FAIL(err, ERR_UNSUPPORTED, "device cuda: %s", dlerror());
    }
    *library = dlopen(PLUGIN_FILE, RTLD_NOW | RTLD_LOCAL);
    if (*library != NULL) return OK;
    const char *why = dlerror();
    if (strstr(why, PLUGIN_FILE) == NULL || strstr(why, strerror(ENOENT)) == NULL)
        FAIL(err, ERR_UNSUPPORTED, "device cuda: %s", why);
    FAIL(err, ERR_NOT_FOUND,
         "device cuda: there is no %s beside the program or where libraries are; "
         "it is built where nvcc is found",
         PLUGIN_FILE);
}

static Status plugin_find(const Plugin **out, Err *err) {
    void *library = NULL;
    TRY(plugin_load(&library, err));
    void *symbol = dlsym(library, PLUGIN_ENTRY);
    if (symbol == NULL)
        FAIL(err, ERR_UNSUPPORTED, "device cuda: %s is no plugin of this program", PLUGIN_FILE);
    PluginEntry entry;
    memcpy(&entry, &symbol, sizeof entry);
    const Plugin *plugin = entry();
    if (plugin->abi != PLUGIN_ABI || plugin->ops_bytes != sizeof(Ops) ||
        plugin->device_bytes != sizeof(DeviceVtable))
        FAIL(err, ERR_UNSUPPORTED,
             "device cuda: %s is of another version (%d, tables of %zu and %zu bytes; "
             "wanted %d, %zu and %zu)",
             PLUGIN_FILE, plugin->abi, plugin->ops_bytes, plugin->device_bytes, PLUGIN_ABI,
             sizeof(Ops), sizeof(DeviceVtable));
    *out = plugin;
    return OK;
}

/* "cuda" is number 0, and cuda:99 the last. */
static bool plugin_number(const char *device, int32_t *id) {
    static const char name[] = "cuda";
    const size_t n_name = sizeof name - 1;
    if (strncmp(device, name, n_name) != 0) return false;
    *id = 0;
    if (device[n_name] == '\0') return true;
    const char *digits = device + n_name + 1;
    const size_t n_digits = strspn(digits, "0123456789");
    if (device[n_name] != ':' || n_digits < 1 || n_digits > 2 || digits[n_digits] != '\0')
        return false;
    *id = (int32_t)strtol(digits, NULL, 10);
    return true;
}

Status plugin_open(const char *device, const char *level, const Ops **ops, Device **out, Err *err) {
    if (device == NULL || strcmp(device, "cpu") == 0) {
        *out = device_host();
        return ops_cpu(ops, level, err);
    }
    int32_t id = 0;
    if (!plugin_number(device, &id))
        FAIL(err, ERR_ARG, "device is '%.32s', expected cpu, cuda or cuda:N", device);
    const Plugin *plugin = NULL;
    TRY(plugin_find(&plugin, err));
    TRY(plugin->device_open(id, out, err));
    *ops = plugin->ops;
    return OK;
}

void plugin_close(Device *device) {
    device->vtable->close(device);
}
