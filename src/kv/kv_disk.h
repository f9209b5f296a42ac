/* kv_disk: cached blocks in a file, so that a warm prefix is warm after a restart.
 *
 * The file is a header and a ring of records of one size; each holds the block of one prefix-tree
 * node, its tokens, its salt and its parent's hash, and ends with a checksum of it all. A record
 * that was cut short or overwritten in part fails its checksum and counts as absent, so the process
 * may be killed at any moment. The header names what the bytes depend on (model, number format,
 * build); a file of something else is emptied. A thread of its own writes; the engine's hands it
 * buffers that exist from the start, and when all are busy the block is not written now. */
#pragma once

#include "kv/kv_radix.h"

typedef struct KvDisk KvDisk;

typedef struct KvDiskOptions {
    const char *dir;
    uint64_t identity[2]; /* of everything that the bytes depend on */
    uint64_t salt_seed;   /* of a new file; an old one keeps its own */
    int32_t block_tokens;
    int64_t payload_bytes; /* of the blocks of all groups of one node */
    int32_t n_records;     /* that the file has room for */
} KvDiskOptions;

enum { KV_DISK_BUFFERS = 32 };

/* What a record says of its block. */
typedef struct KvDiskEntry {
    uint64_t prefix, parent; /* hashes as in KvNode; parent 0: none */
    KvSalt salt;
    int32_t depth;
    uint32_t groups; /* bit g: the payload has group g's block */
} KvDiskEntry;

/* Bytes of memory that open allocates and keeps. */
int64_t kv_disk_bytes(const KvDiskOptions *options);
/* Opens or makes the file in the folder, which is made if it is absent. ERR_IO: not possible, or
 * another process has it. */
MUST_USE Status kv_disk_open(KvDisk **out, const KvDiskOptions *options, Err *err);
/* Writes what is queued, syncs and frees. */
void kv_disk_close(KvDisk *disk);
uint64_t kv_disk_salt_seed(const KvDisk *disk);

/* ---- before the engine runs ---- */

/* The records that are whole, parents before children: entry (borrowed, until the first offer) and
 * number of each. Returns how many. */
MUST_USE Status kv_disk_scan(KvDisk *disk, KvDiskEntry **entries, int32_t **numbers, int32_t *n,
                             Err *err);
/* Reads a record's tokens and payload. False: it is not whole (any more). */
bool kv_disk_read(KvDisk *disk, int32_t number, int32_t *token, void *payload);
/* Starts the thread. */
MUST_USE Status kv_disk_start(KvDisk *disk, Err *err);

/* ---- the engine's thread ---- */

/* Whether the file has, or will have, the node's block. */
bool kv_disk_has(const KvDisk *disk, const KvNode *node);
/* A buffer that is free; -1: none. */
int32_t kv_disk_take(KvDisk *disk);
/* Fills in all but the payload, for which it returns the room, and the record's number. */
void *kv_disk_fill(KvDisk *disk, int32_t buffer, const KvDiskEntry *entry, const int32_t *token,
                   int32_t *number);
/* The payload of every filled buffer is there: the thread writes them. ok false: it is not, and
 * they are dropped. */
void kv_disk_submit(KvDisk *disk, bool ok);
