#include "engine/sluice_build.h"

#include <gnu/libc-version.h>
#include <link.h>
#include <string.h>

#include "base/hash.h"

typedef struct SluiceBuild {
    uintptr_t inside[2]; /* addresses whose objects count */
    uint64_t hash;
} SluiceBuild;

static bool sluice_build_has(const struct dl_phdr_info *info, const ElfW(Phdr) * part,
                             uintptr_t address) {
    const uintptr_t start = info->dlpi_addr + part->p_vaddr;
    return part->p_type == PT_LOAD && address >= start && address - start < part->p_memsz;
}

/* Adds an object's machine code and its notes, of which the linker's build id covers the constants
 * too. (Constants themselves have gaps that a sanitizer guards.) */
static int sluice_build_add(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    SluiceBuild *build = arg;
    bool counts = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        counts = counts || sluice_build_has(info, part, build->inside[0]) ||
                 sluice_build_has(info, part, build->inside[1]);
    }
    for (int i = 0; i < info->dlpi_phnum && counts; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        const bool code = part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0;
        if (!code && part->p_type != PT_NOTE) continue;
        const void *bytes = (const char *)info->dlpi_addr + part->p_vaddr;
        build->hash = hash_bytes(bytes, part->p_memsz, build->hash);
    }
    return 0;
}

uint64_t sluice_build_hash(const Device *device, const char *level, bool fast) {
    SluiceBuild build = {
        .inside = {(uintptr_t)sluice_build_hash, (uintptr_t)device->vtable->alloc}};
    const char *libc = gnu_get_libc_version();
    build.hash = hash_bytes(level, strlen(level), 0);
    build.hash = hash_bytes(libc, strlen(libc), build.hash);
    build.hash = hash_bytes(device->vtable->name, strlen(device->vtable->name), build.hash);
    if (fast) build.hash = hash_bytes("fast", 4, build.hash);
    (void)dl_iterate_phdr(sluice_build_add, &build);
    return build.hash;
}
