/* plain_disk: the file of a prefix cache, for an engine that a test opens from its parts. */
#pragma once

#include "../testing.h"
#include "engine/engine_priv.h"

static inline KvDisk *plain_disk_open(const char *dir, const EngineLimits *limits) {
    const KvDiskOptions options = {.dir = dir,
                                   .dir_bytes_max = (int64_t)1 << 32,
                                   .identity = {1, 2},
                                   .salt_seed = 1,
                                   .block_tokens = limits->kv.block_tokens,
                                   .payload_bytes = limits->block_bytes[0] + limits->block_bytes[1],
                                   .n_records = limits->kv.n_blocks[0]};
    KvDisk *disk = NULL;
    Err err = {0};
    ASSERT_OK(kv_disk_open(&disk, &options, &err), err);
    return disk;
}
