#include "model/kv_store.h"

#include <string.h>

#include "base/mem.h"

typedef struct KvStoreGroup {
    void *data; /* device memory: [layer of the group][K, V][block][head][offset][head_dim] */
    int64_t bytes;
    int64_t part_bytes;       /* K or V of one layer */
    int64_t part_block_bytes; /* K or V of one layer's block */
    int32_t n_layers, n_blocks;
} KvStoreGroup;

struct KvStore {
    Device *device;
    DType dtype;
    int32_t block_tokens, n_kv_heads, head_dim, n_groups;
    KvStoreGroup group[MODEL_KV_GROUPS_MAX];
    int32_t layer_group[MODEL_LAYERS_MAX]; /* of each layer of the model */
    int32_t layer_index[MODEL_LAYERS_MAX]; /* within its group */
};

static int32_t kv_store_count(const ModelConfig *config, int32_t kind) {
    int32_t n = 0;
    for (int32_t i = 0; i < config->n_layers; i++) n += config->layer_kind[i] == kind;
    return n;
}

int32_t kv_store_groups(const ModelConfig *config) {
    int32_t windowed = kv_store_count(config, LAYER_WINDOW);
    return windowed > 0 && windowed < config->n_layers ? 2 : 1;
}

int32_t kv_store_layer_group(const ModelConfig *config, int32_t layer) {
    return kv_store_groups(config) == 2 && config->layer_kind[layer] == LAYER_WINDOW ? 1 : 0;
}

int32_t kv_store_group_window(const ModelConfig *config, int32_t group) {
    for (int32_t i = 0; i < config->n_layers; i++)
        if (kv_store_layer_group(config, i) == group)
            return config->layer_kind[i] == LAYER_WINDOW ? config->window : 0;
    return 0;
}

static int32_t kv_store_group_layers(const ModelConfig *config, int32_t group) {
    int32_t n = 0;
    for (int32_t i = 0; i < config->n_layers; i++) n += kv_store_layer_group(config, i) == group;
    return n;
}

Status kv_store_dtype(const char *name, const ModelConfig *config, const Device *device, DType *out,
                      Err *err) {
    static const DType known[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I8};
    DType dtype = config->weight_dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
    bool found = name == NULL;
    for (size_t i = 0; i < ARRAY_LEN(known) && !found; i++) {
        dtype = known[i];
        found = strcmp(name, kv_store_dtype_name(dtype)) == 0;
    }
    if (!found) FAIL(err, ERR_ARG, "kv_dtype is '%.32s', expected f32, f16, bf16 or int8", name);
    if (dtype == DTYPE_I8 && device->id != DEVICE_HOST)
        FAIL(err, ERR_UNSUPPORTED,
             "kv_dtype is 'int8', which the CPU has; this device keeps f32, f16 or bf16");
    *out = dtype;
    return OK;
}

const char *kv_store_dtype_name(DType dtype) {
    return dtype == DTYPE_I8 ? "int8" : dtype_info(dtype)->name;
}

/* K or V of one layer's block. With the config's limits it stays below 2^38. */
static int64_t kv_store_part_block_bytes(const ModelConfig *config, int32_t block_tokens,
                                         DType dtype) {
    return (int64_t)config->n_kv_heads * block_tokens * ops_kv_bytes(dtype, config->head_dim);
}

int64_t kv_store_block_bytes(const ModelConfig *config, int32_t group, int32_t block_tokens,
                             DType dtype) {
    return 2 * kv_store_group_layers(config, group) *
           kv_store_part_block_bytes(config, block_tokens, dtype);
}

static Status kv_store_alloc(KvStore *store, const ModelConfig *config, int32_t g, int32_t n_blocks,
                             Err *err) {
    KvStoreGroup *group = &store->group[g];
    group->n_layers = kv_store_group_layers(config, g);
    group->n_blocks = n_blocks;
    group->part_block_bytes = kv_store_part_block_bytes(config, store->block_tokens, store->dtype);
    if (__builtin_mul_overflow(group->part_block_bytes, (int64_t)n_blocks, &group->part_bytes) ||
        __builtin_mul_overflow(group->part_bytes, (int64_t)2 * group->n_layers, &group->bytes))
        FAIL(err, ERR_LIMIT, "the KV cache would have %d blocks of %lld bytes in %d layers",
             n_blocks, (long long)group->part_block_bytes, group->n_layers);
    return store->device->vtable->alloc(store->device, (size_t)group->bytes, &group->data, err);
}

Status kv_store_open(KvStore **out, const ModelConfig *config, Device *device, DType dtype,
                     int32_t block_tokens, const int32_t n_blocks[MODEL_KV_GROUPS_MAX], Err *err) {
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16 && dtype != DTYPE_I8)
        FAIL(err, ERR_ARG, "the KV cache cannot hold %s; wanted f32, f16, bf16 or int8",
             dtype_info(dtype)->name);
    if (block_tokens < 1 || block_tokens > 256)
        FAIL(err, ERR_ARG, "KV blocks of %d tokens; wanted 1 to 256", block_tokens);
    KvStore *store = mem_alloc(sizeof *store);
    int32_t n_seen[MODEL_KV_GROUPS_MAX] = {0};
    store->device = device;
    store->dtype = dtype;
    store->block_tokens = block_tokens;
    store->n_kv_heads = config->n_kv_heads;
    store->head_dim = config->head_dim;
    store->n_groups = kv_store_groups(config);
    for (int32_t i = 0; i < config->n_layers; i++) {
        store->layer_group[i] = kv_store_layer_group(config, i);
        store->layer_index[i] = n_seen[store->layer_group[i]]++;
    }
    Status status = OK;
    for (int32_t g = 0; g < store->n_groups && status == OK; g++)
        status = kv_store_alloc(store, config, g, n_blocks[g], err);
    if (status != OK) {
        kv_store_close(store);
        return status;
    }
    *out = store;
    return OK;
}

void kv_store_close(KvStore *store) {
    if (store == NULL) return;
    for (int32_t g = 0; g < store->n_groups; g++)
        if (store->group[g].data != NULL)
            store->device->vtable->free(store->device, store->group[g].data,
                                        (size_t)store->group[g].bytes);
    mem_free(store);
}

enum { KV_STORE_PIECE_BYTES = 32 << 20 }; /* that one thread populates at a time */

static void kv_store_populate_piece(void *context, int64_t i, int32_t thread) {
    (void)thread;
    const KvStoreGroup *group = context;
    const int64_t first = i * KV_STORE_PIECE_BYTES;
    mem_populate((char *)group->data + first,
                 (size_t)MIN((int64_t)KV_STORE_PIECE_BYTES, group->bytes - first));
}

void kv_store_populate(KvStore *store, ThreadPool *pool) {
    if (store->device->id != DEVICE_HOST) return;
    for (int32_t g = 0; g < store->n_groups; g++)
        pool_run(pool, DIV_UP(store->group[g].bytes, (int64_t)KV_STORE_PIECE_BYTES),
                 kv_store_populate_piece, &store->group[g]);
}

/* K (part 0) or V (part 1) of a layer of the group, from the block on. */
static char *kv_store_at(const KvStoreGroup *group, int32_t layer, int32_t part, int32_t block) {
    return (char *)group->data + ((int64_t)layer * 2 + part) * group->part_bytes +
           block * group->part_block_bytes;
}

KvView kv_store_layer(const KvStore *store, int32_t layer) {
    const KvStoreGroup *group = &store->group[store->layer_group[layer]];
    int32_t index = store->layer_index[layer];
    return (KvView){.k = kv_store_at(group, index, 0, 0),
                    .v = kv_store_at(group, index, 1, 0),
                    .dtype = store->dtype,
                    .n_blocks = group->n_blocks,
                    .block_tokens = store->block_tokens,
                    .n_kv_heads = store->n_kv_heads,
                    .head_dim = store->head_dim};
}

int64_t kv_store_bytes(const KvStore *store) {
    int64_t bytes = 0;
    for (int32_t g = 0; g < store->n_groups; g++) bytes += store->group[g].bytes;
    return bytes;
}

int32_t kv_store_block_tokens(const KvStore *store) {
    return store->block_tokens;
}

static const KvStoreGroup *kv_store_group(const KvStore *store, int32_t group, int32_t block) {
    CHECK(group >= 0 && group < store->n_groups);
    CHECK(block >= 0 && block < store->group[group].n_blocks);
    return &store->group[group];
}

Status kv_store_copy_block(KvStore *store, int32_t group, int32_t src, int32_t dst, Err *err) {
    const KvStoreGroup *g = kv_store_group(store, group, src);
    CHECK(dst >= 0 && dst < g->n_blocks);
    const DeviceRows rows = {.dst = kv_store_at(g, 0, 0, dst),
                             .src = kv_store_at(g, 0, 0, src),
                             .dst_pitch = (size_t)g->part_bytes,
                             .src_pitch = (size_t)g->part_bytes,
                             .row_bytes = (size_t)g->part_block_bytes,
                             .n_rows = 2 * (size_t)g->n_layers};
    return store->device->vtable->copy_rows(store->device, &rows, err);
}

Status kv_store_read_block(KvStore *store, int32_t group, int32_t block, void *dst, Err *err) {
    const KvStoreGroup *g = kv_store_group(store, group, block);
    const DeviceRows rows = {.dst = dst,
                             .src = kv_store_at(g, 0, 0, block),
                             .dst_pitch = (size_t)g->part_block_bytes,
                             .src_pitch = (size_t)g->part_bytes,
                             .row_bytes = (size_t)g->part_block_bytes,
                             .n_rows = 2 * (size_t)g->n_layers};
    return store->device->vtable->copy_rows(store->device, &rows, err);
}

Status kv_store_write_block(KvStore *store, int32_t group, int32_t block, const void *src,
                            Err *err) {
    const KvStoreGroup *g = kv_store_group(store, group, block);
    const DeviceRows rows = {.dst = kv_store_at(g, 0, 0, block),
                             .src = src,
                             .dst_pitch = (size_t)g->part_bytes,
                             .src_pitch = (size_t)g->part_block_bytes,
                             .row_bytes = (size_t)g->part_block_bytes,
                             .n_rows = 2 * (size_t)g->n_layers};
    return store->device->vtable->copy_rows(store->device, &rows, err);
}
