/* sim_disk: the file that keeps a world's prefix cache: how processes end, what that leaves of the
 * file, and what the next one may and must find. */
#pragma once

#include "sim_check.h"

#include <dirent.h>
#include <sys/resource.h>

enum {
    SIM_DISK_HEADER = 4096,
    SIM_DISK_SECTOR = 512,
    SIM_DISK_BYTES_MAX = 1 << 26,
    SIM_DISK_FLIPS = 20
};

static char sim_disk_dir[64]; /* of this run */

static inline KvDiskOptions sim_disk_options(const SimWorld *w) {
    const SimPlan *p = w->plan;
    KvDiskOptions o = {.dir = sim_disk_dir,
                       .identity = {p->seed, 1},
                       .salt_seed = p->seed + (uint64_t)w->file.n_restarts,
                       .block_tokens = p->limits.kv.block_tokens,
                       .payload_bytes = p->limits.block_bytes[0] + p->limits.block_bytes[1],
                       .n_records = p->n_records};
    o.dir_bytes_max = kv_disk_file_bytes(&o, o.n_records); /* files of other worlds leave */
    return o;
}

/* Opens the world's file, for an engine that hashes tenants' names with its seed. */
static inline void sim_disk_open(SimWorld *w, EngineConfig *config) {
    if (w->plan->n_records == 0) return;
    const KvDiskOptions o = sim_disk_options(w);
    Err err = {0};
    if (kv_disk_open(&config->disk, &o, &err) != OK) sim_failed("disk", 0, err.text);
    config->salt_seed = kv_disk_salt_seed(config->disk);
}

/* ---- the bytes --------------------------------------------------------------------------- */

static inline char *sim_disk_path(void) {
    char *path = NULL;
    DIR *dir = opendir(sim_disk_dir);
    SIM_CHECK("disk", dir != NULL);
    for (const struct dirent *d; (d = readdir(dir)) != NULL;) {
        if (d->d_name[0] == '.') continue;
        SIM_CHECK("K7 files of others stay", path == NULL);
        path = file_join(sim_disk_dir, d->d_name);
    }
    closedir(dir);
    SIM_CHECK("disk", path != NULL);
    return path;
}

/* A world begins without a file, whatever the last one left. */
static inline void sim_disk_begin(void) {
    DIR *dir = opendir(sim_disk_dir);
    SIM_CHECK("disk", dir != NULL);
    for (const struct dirent *d; (d = readdir(dir)) != NULL;) {
        if (d->d_name[0] != '.') SIM_CHECK("disk", unlinkat(dirfd(dir), d->d_name, 0) == 0);
    }
    closedir(dir);
}

static inline void sim_disk_read(Buf *out) {
    char *path = sim_disk_path();
    buf_clear(out);
    SIM_CHECK("disk", file_read(out, path, SIM_DISK_BYTES_MAX, NULL) == OK);
    mem_free(path);
}

/* What the file was some turns ago: as much may be lost with a machine that stops. */
static inline void sim_disk_remember(SimWorld *w, const SimItem *item) {
    if (w->plan->n_records > 0 && w->turn == item->at - item->n) sim_disk_read(&w->file.old);
}

static inline uint64_t sim_disk_draw(SimWorld *w, const SimItem *item, uint64_t n) {
    return rng_bits((uint64_t)item->us, 2, w->file.n_drawn++) % n;
}

/* Some sectors hold what they held before. */
static inline void sim_disk_lose(SimWorld *w, const SimItem *item, Buf *file) {
    const Buf *old = &w->file.old;
    for (size_t at = 0; at < file->len; at += SIM_DISK_SECTOR) {
        if (sim_disk_draw(w, item, 2) == 0) continue;
        const size_t n = MIN((size_t)SIM_DISK_SECTOR, file->len - at);
        const size_t n_old = at < old->len ? MIN(n, old->len - at) : 0;
        memset(file->data + at, 0, n);
        if (n_old > 0) memcpy(file->data + at, old->data + at, n_old);
    }
}

/* The process ended as the item says: what is left of its file. */
static inline void sim_disk_spoil(SimWorld *w, const SimItem *item) {
    const KvDiskOptions o = sim_disk_options(w);
    const int64_t record = kv_disk_file_bytes(&o, 1) - kv_disk_file_bytes(&o, 0);
    Buf file = {0};
    sim_disk_read(&file);
    SIM_CHECK("S9 the file is too large", (int64_t)file.len <= kv_disk_file_bytes(&o, o.n_records));
    const size_t n_torn = (size_t)sim_disk_draw(w, item, 3 * (uint64_t)record);
    switch ((SimEnd)item->which) {
        case SIM_END_QUIET: break;
        case SIM_END_TORN: file.len -= MIN(file.len, n_torn); break;
        case SIM_END_LOST: sim_disk_lose(w, item, &file); break;
        default:
            for (uint64_t n = 1 + sim_disk_draw(w, item, SIM_DISK_FLIPS); n > 0; n--) {
                file.data[sim_disk_draw(w, item, file.len)] ^=
                    (char)(1 << sim_disk_draw(w, item, 8));
            }
    }
    char *path = sim_disk_path();
    testing_write(path, file.data, file.len);
    mem_free(path);
    buf_free(&file);
}

/* The disk is full while the engine steps: writes behind some place fail, or arrive in part. */
static inline void sim_disk_limit(const SimWorld *w, bool full) {
    const struct rlimit limit = {full ? (rlim_t)w->file.full_bytes : RLIM_INFINITY, RLIM_INFINITY};
    if (w->turn < w->file.full_until) SIM_CHECK("disk", setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static inline void sim_disk_full(SimWorld *w, const SimItem *item) {
    const KvDiskOptions o = sim_disk_options(w);
    if (o.n_records == 0) return;
    w->file.full_until = w->turn + item->n;
    w->file.full_bytes = SIM_DISK_HEADER + item->us % kv_disk_file_bytes(&o, o.n_records);
    w->file.may_be_damaged = true;
}

static inline void sim_disk_clear(SimWorld *w) {
    SIM_CHECK("K7 clearing", engine_clear_cache(w->engine, NULL) == OK);
    w->file.n_handed = 0;
    buf_clear(&w->file.old);
    if (w->plan->n_records == 0) return;
    Buf file = {0};
    sim_disk_read(&file);
    SIM_CHECK("K7 a cleared file is empty", file.len <= SIM_DISK_HEADER);
    buf_free(&file);
}

/* ---- what comes back --------------------------------------------------------------------- */

/* A world whose every written path has room again. */
static inline bool sim_disk_has_room(const SimPlan *p) {
    return p->limits.kv.n_groups == 1 && p->limits.kv.window[0] == 0;
}

/* Notes the nodes that are in the file with all their parents: they must come back. */
static inline void sim_disk_note_warm(SimWorld *w) {
    const KvRadix *radix = &w->engine->cache.radix;
    KvDisk *disk = w->engine->config.disk;
    w->file.n_warm = 0;
    kv_disk_settle(disk);
    for (int32_t i = 0; i < radix->n_nodes_max && sim_disk_has_room(w->plan); i++) {
        if (radix->node[i].parent == KV_NODE_FREE) continue;
        int32_t at = i;
        while (at >= 0 && kv_disk_has(disk, &radix->node[at])) at = radix->node[at].parent;
        if (at < 0) w->file.warm[w->file.n_warm++] = radix->node[i].prefix;
    }
}

/* K5, K8: a block that came back holds what its path says. Returns how many there are. */
static inline int32_t sim_disk_check_node(const SimWorld *w, int32_t node) {
    const KvRadix *radix = &w->engine->cache.radix;
    const int32_t size = w->plan->limits.kv.block_tokens, depth = radix->node[node].depth;
    int32_t path[SIM_PROMPT_MAX + SIM_OUTPUT_MAX], n = 0;
    SIM_CHECK("K5 a path that nobody asked for", depth <= (int32_t)ARRAY_LEN(path));
    for (int32_t at = node; at >= 0; at = radix->node[at].parent) path[depth - ++n] = at;
    SIM_CHECK("K5 depth", n == depth);
    uint64_t tag = 0;
    for (int32_t p = 0; p < depth * size; p++) {
        const int32_t token = kv_radix_tokens(radix, path[p / size])[p % size];
        tag = fake_tag(tag, token, p);
        for (int32_t g = 0; g < w->plan->limits.kv.n_groups && p / size == depth - 1; g++) {
            const int32_t block = radix->node[node].block[g];
            if (block < 0) continue;
            const FakeSlot *slot = &w->model.slot[g][(int64_t)block * size + p % size];
            SIM_CHECK("K8 a block that came back", slot->tag == tag && slot->token == token);
        }
    }
    n = 0;
    for (int32_t g = 0; g < w->plan->limits.kv.n_groups; g++) n += radix->node[node].block[g] >= 0;
    return n;
}

static inline void sim_disk_check_restored(SimWorld *w, SimEnd end) {
    const KvRadix *radix = &w->engine->cache.radix;
    const KvDiskCounts *counts = kv_disk_counts(w->engine->config.disk);
    int32_t n = 0;
    for (int32_t i = 0; i < radix->n_nodes_max; i++) {
        if (radix->node[i].parent != KV_NODE_FREE) n += sim_disk_check_node(w, i);
    }
    SIM_CHECK("K7 what was cleared comes back", n <= w->file.n_handed);
    SIM_CHECK("K5 damage without a cause", w->file.may_be_damaged || counts->n_damaged == 0);
    for (int32_t i = 0; i < w->file.n_warm && end == SIM_END_QUIET; i++) {
        int32_t k = 0;
        while (k < radix->n_nodes_max && (radix->node[k].parent == KV_NODE_FREE ||
                                          radix->node[k].prefix != w->file.warm[i])) {
            k++;
        }
        SIM_CHECK("K9 a written prefix is cold", k < radix->n_nodes_max);
    }
    for (int32_t g = 0; g < w->plan->limits.kv.n_groups; g++) {
        SIM_CHECK("K7 a restored block is held", w->engine->cache.pool[g].n_used == 0);
    }
    sim_told->n_restored += n;
    sim_told->n_damaged += counts->n_damaged;
    sim_told->n_restarts++;
}
