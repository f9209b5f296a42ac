/* kv_disk: cached blocks in a file, so that a warm prefix is warm after a restart.
 *
 * The file is a header and a ring of records of one size; each holds the block of one prefix-tree
 * node, its tokens, its salt and its parent's hash, and ends with a checksum of it all. A record
 * that was cut short or overwritten in part fails its checksum and counts as absent, so the process
 * may be killed at any moment. The header names what the bytes depend on (model, number format,
 * build), and so does the file's name: each configuration has a file of its own. A thread of its
 * own writes; the engine's hands it buffers that exist from the start, and when all are busy the
 * block is not written now. What failed to be written is not there, and is written again when its
 * prefix is used again. Before the thread is started, whoever submits writes. */
#pragma once

#include "kv/kv_radix.h"

typedef struct KvDisk KvDisk;

typedef struct KvDiskOptions {
    const char *dir;
    int64_t dir_bytes_max; /* of the files of all configurations */
    uint64_t identity[2];  /* of everything that the bytes depend on */
    uint64_t salt_seed;    /* of a new file; an old one keeps its own */
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

/* A record that was found whole. */
typedef struct KvDiskFound {
    KvDiskEntry entry;
    int32_t number;
} KvDiskFound;

/* Since the file was opened. */
typedef struct KvDiskCounts {
    int64_t n_written;
    int64_t n_failed;  /* writes */
    int64_t n_damaged; /* records that were not whole, or the header */
} KvDiskCounts;

/* Bytes of memory that open allocates and keeps, and those of the index that a scan takes. */
int64_t kv_disk_bytes(const KvDiskOptions *options);
/* What the file takes at most with so many records. */
int64_t kv_disk_file_bytes(const KvDiskOptions *options, int64_t n_records);
/* Opens or makes the configuration's file in the folder, which is made if it is absent; where there
 * is no room for it, files of others leave. ERR_IO: not possible, or another process has it. */
MUST_USE Status kv_disk_open(KvDisk **out, const KvDiskOptions *options, Err *err);
/* Writes what is queued, syncs and frees. */
void kv_disk_close(KvDisk *disk);
uint64_t kv_disk_salt_seed(const KvDisk *disk);

/* ---- before the engine runs ---- */

/* The records that are whole, parents before children; free *found with mem_free. */
MUST_USE Status kv_disk_scan(KvDisk *disk, KvDiskFound **found, int32_t *n, Err *err);
/* Reads a record into one of the KV_DISK_BUFFERS: its tokens, and *payload (both borrowed until
 * something else is read there). NULL: it is not whole (any more). */
const int32_t *kv_disk_read(KvDisk *disk, int32_t number, int32_t buffer, void **payload);
/* Starts the thread. */
MUST_USE Status kv_disk_start(KvDisk *disk, Err *err);

/* ---- the engine's thread ---- */

/* Takes in what became of the writes so far. */
void kv_disk_settle(KvDisk *disk);
const KvDiskCounts *kv_disk_counts(const KvDisk *disk);
/* Whether the file has, or will have, the node's block. */
bool kv_disk_has(const KvDisk *disk, const KvNode *node);
/* A buffer that is free; -1: none. */
int32_t kv_disk_take(KvDisk *disk);
/* Fills in all but the payload, for which it returns the room, and the record's number. */
void *kv_disk_fill(KvDisk *disk, int32_t buffer, const KvDiskEntry *entry, const int32_t *token,
                   int32_t *number);
/* The payload of every filled buffer is there: they are written. ok false: it is not, and they are
 * dropped. */
void kv_disk_submit(KvDisk *disk, bool ok);
/* Takes every record of that prefix out of the file, at once. */
void kv_disk_erase(KvDisk *disk, uint64_t prefix);
/* Empties the file, at once. */
MUST_USE Status kv_disk_clear(KvDisk *disk, Err *err);
