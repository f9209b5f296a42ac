/* kv_store: the KV tensors themselves, [layer][K, V][block][head][offset][head_dim].
 *
 * Which block holds which tokens is not its business (kv/ decides); it gives an op the view of a
 * layer and moves blocks. One allocation per group, made at start. */
#pragma once

#include "model/batch.h"

typedef struct KvStore KvStore;

/* The dtype that the cache's name (f32, f16, bf16, int8) stands for; NULL: f32 for f32 models, bf16
 * for the rest. ERR_ARG for another name, ERR_UNSUPPORTED where the device lacks it. */
MUST_USE Status kv_store_dtype(const char *name, const ModelConfig *config, const Device *device,
                               DType *out, Err *err);
const char *kv_store_dtype_name(DType dtype);

/* Bytes of one block of a group over all its layers, K and V: 2 * layers * n_kv_heads *
 * block_tokens * ops_kv_bytes. */
int64_t kv_store_block_bytes(const ModelConfig *config, int32_t group, int32_t block_tokens,
                             DType dtype);
/* KV groups of the model (1 or 2) and the group of a layer. */
int32_t kv_store_groups(const ModelConfig *config);
int32_t kv_store_layer_group(const ModelConfig *config, int32_t layer);
/* The window of a group, 0: none. */
int32_t kv_store_group_window(const ModelConfig *config, int32_t group);

MUST_USE Status kv_store_open(KvStore **out, const ModelConfig *config, Device *device, DType dtype,
                              int32_t block_tokens, const int32_t n_blocks[MODEL_KV_GROUPS_MAX],
                              Err *err);
void kv_store_close(KvStore *store);
KvView kv_store_layer(const KvStore *store, int32_t layer);
int64_t kv_store_bytes(const KvStore *store);
/* Has the host hand out all its pages now (mem_populate), on the pool's threads. */
void kv_store_populate(KvStore *store, ThreadPool *pool);
int32_t kv_store_block_tokens(const KvStore *store);

/* Copies block src to block dst of the group, all layers (copy-on-write). */
MUST_USE Status kv_store_copy_block(KvStore *store, int32_t group, int32_t src, int32_t dst,
                                    Err *err);
/* One block of the group, all layers, to and from kv_store_block_bytes of host memory; queued, as
 * the device's copy_rows. */
MUST_USE Status kv_store_read_block(KvStore *store, int32_t group, int32_t block, void *dst,
                                    Err *err);
MUST_USE Status kv_store_write_block(KvStore *store, int32_t group, int32_t block, const void *src,
                                     Err *err);
