/* kv_move: what a step does to whole blocks before its pass, and what became of it.
 *
 * Moves are made in the order of their list, as if each were done before the next begins; the pass
 * comes after all of them. On a device they are queued and told of later. */
#pragma once

#include "base/status.h"

typedef enum KvMoveKind {
    KV_MOVE_COPY, /* block src to block dst */
    KV_MOVE_SAVE, /* block src to host slot dst; the checksum of its bytes is told */
    KV_MOVE_LOAD, /* host slot src to block dst; its bytes must have the checksum */
    KV_MOVE_READ, /* block src to `bytes` */
    KV_MOVE_WRITE /* `bytes` to block dst */
} KvMoveKind;

typedef struct KvMove {
    KvMoveKind kind;
    int32_t group, src, dst;
    int64_t ticket; /* of a save or load: under which it is told of */
    uint64_t checksum;
    void *bytes; /* of one block of the group, in this process's memory */
} KvMove;

typedef struct KvMoves {
    KvMove *move; /* [n_max] */
    int32_t n, n_max;
} KvMoves;

/* A save or load is over. ERR_FORMAT: the bytes had another checksum; any other failure: they did
 * not arrive. */
typedef struct KvMoved {
    int64_t ticket;
    Status status;
    uint64_t checksum; /* of what was saved */
} KvMoved;
