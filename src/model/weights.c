#include "model/weights.h"

#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/weights_priv.h"

/* Memory of a device that holds a vector, a table or a transposed matrix. */
typedef struct WeightsBlock {
    struct WeightsBlock *next;
    Device *device;
    void *data;
    size_t bytes;
} WeightsBlock;

enum { WEIGHTS_ALTERNATIVES = 4 };

static bool weights_name(const WeightsBinder *b, WeightsAt at, const char *prefix, int32_t index,
                         char buf[ARCH_NAME_BYTES]) {
    const char *pattern = (*b->names)[at.role];
    if (pattern == NULL || !arch_tensor_name(buf, prefix, pattern, index, at.layer, at.expert))
        return false;
    char *suffix = strstr(buf, ".weight");
    if (at.bias && suffix != NULL) memcpy(suffix, ".bias", sizeof ".bias");
    return true;
}

/* The tensor under any of its names; name gets the one found, or the first when none is. */
static bool weights_find(const WeightsBinder *b, WeightsAt at, Tensor *t,
                         char name[ARCH_NAME_BYTES]) {
    char other[ARCH_NAME_BYTES];
    for (int32_t i = 0; i < WEIGHTS_ALTERNATIVES && weights_name(b, at, b->prefix, i, other); i++) {
        memcpy(name, other, ARCH_NAME_BYTES);
        if (model_file_find(b->file, name, t)) return true;
        /* lm_head stands outside of what the prefix names. */
        if (at.role != ARCH_OUTPUT || !weights_name(b, at, "", i, other)) continue;
        memcpy(name, other, ARCH_NAME_BYTES);
        if (model_file_find(b->file, name, t)) return true;
    }
    if (!weights_name(b, at, b->prefix, 0, name)) snprintf(name, ARCH_NAME_BYTES, "(no name)");
    return false;
}

bool weights_has(const WeightsBinder *b, ArchTensor role, int32_t layer) {
    char name[ARCH_NAME_BYTES];
    Tensor t;
    return weights_find(b, (WeightsAt){.role = role, .layer = layer}, &t, name);
}

Status weights_get(const WeightsBinder *b, WeightsAt at, int64_t n0, int64_t n1, int64_t n2,
                   Tensor *out) {
    char name[ARCH_NAME_BYTES], text[TENSOR_TEXT_BYTES];
    const int64_t want[3] = {n0, n1, n2};
    int32_t n_dims = n2 > 0 ? 3 : n1 > 0 ? 2 : 1;
    if (!weights_find(b, at, out, name))
        FAIL(b->err, ERR_FORMAT, "%s: the tensor '%s' is missing", model_file_path(b->file), name);
    bool same = out->n_dims == n_dims;
    for (int32_t i = 0; i < n_dims; i++) same = same && out->shape[i] == want[i];
    if (!same && n_dims == 1)
        FAIL(b->err, ERR_FORMAT, "%s: tensor '%s' is %s, the config wants [%lld]",
             model_file_path(b->file), name, tensor_text(out, text), (long long)n0);
    if (!same)
        FAIL(b->err, ERR_FORMAT, "%s: tensor '%s' is %s, the config wants [%s%lld, %lld]",
             model_file_path(b->file), name, tensor_text(out, text), n_dims == 3 ? "experts, " : "",
             (long long)want[n_dims - 2], (long long)want[n_dims - 1]);
    if (!dtype_can_read(out->dtype))
        FAIL(b->err, ERR_UNSUPPORTED, "%s: tensor '%s' is of dtype %s, which is no weight format",
             model_file_path(b->file), name, dtype_info(out->dtype)->name);
    b->out->stored_bytes += tensor_bytes(out);
    progress_add(b->progress, tensor_bytes(out));
    return OK;
}

static Status weights_block(WeightsBinder *b, Device *device, size_t bytes, const void *src,
                            void **out) {
    WeightsBlock *block = mem_try_alloc(1, sizeof *block);
    if (block == NULL) FAIL(b->err, ERR_NOMEM, "no memory for the list of weights");
    Status status = device->vtable->alloc(device, bytes, &block->data, b->err);
    if (status != OK) {
        mem_free(block);
        return status;
    }
    block->device = device;
    block->bytes = bytes;
    block->next = b->out->blocks;
    b->out->blocks = block;
    b->out->owned_bytes += (int64_t)bytes;
    *out = block->data;
    return device->vtable->upload(device, block->data, src, bytes, b->err);
}

/* A vector of n as f32, one added to each element of Gemma's norms. NaN and infinities are refused:
 * they would spread to every logit. */
static Status weights_vector(WeightsBinder *b, WeightsAt at, int64_t n, const float **out) {
    Tensor t;
    TRY(weights_get(b, at, n, 0, 0, &t));
    float *values = mem_try_alloc((size_t)n, sizeof *values);
    if (values == NULL) FAIL(b->err, ERR_NOMEM, "no memory for a vector of the model");
    dtype_to_f32(t.dtype, t.data, values, n);
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        if (b->config->norm_plus_one && !at.bias) values[i] += 1;
        finite = finite && isfinite(values[i]);
    }
    Status status = OK;
    void *data = NULL;
    if (finite) {
        status = weights_block(b, b->ctx->device, (size_t)n * sizeof *values, values, &data);
    } else {
        char name[ARCH_NAME_BYTES];
        (void)weights_find(b, at, &t, name);
        status = err_set(b->err, ERR_FORMAT, "%s: tensor '%s' holds a number that is not finite",
                         model_file_path(b->file), name);
    }
    mem_free(values);
    *out = data;
    b->out->n_params += n;
    b->out->n_params_active += n;
    return status;
}

Status weights_norm(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n,
                    const float **weight, const float **bias) {
    WeightsAt at = {.role = role, .layer = layer};
    TRY(weights_vector(b, at, n, weight));
    if (b->config->norm != NORM_LAYER || bias == NULL) return OK;
    at.bias = true;
    return weights_vector(b, at, n, bias);
}

/* Books a prepared matrix that `used` in `of` tokens read. */
static void weights_book(WeightsBinder *b, const Tensor *t, const Weight *out, int32_t used,
                         int32_t of) {
    /* Grouped formats are never transposed, so t is the file's: its pages would lie idle beside the
     * packed copy. */
    if (out->owned_bytes > 0 && dtype_is_grouped(t->dtype)) {
        file_map_forget(t->data, (size_t)tensor_bytes(t));
        b->out->forgotten_bytes += tensor_bytes(t);
    }
    int64_t bytes = out->owned_bytes > 0 ? (int64_t)out->owned_bytes : tensor_bytes(t);
    b->out->owned_bytes += (int64_t)out->owned_bytes;
    b->out->token_bytes += bytes * used / of;
    b->out->n_params += tensor_len(t);
    b->out->n_params_active += tensor_len(t) * used / of;
}

Status weights_prepare(WeightsBinder *b, const Tensor *t, Weight *out) {
    TRY(b->ops->weight_prepare(b->ctx, t, out, b->err));
    weights_book(b, t, out, 1, 1);
    return OK;
}

Status weights_prepare_parts(WeightsBinder *b, const Tensor *t, int32_t n, Weight *const *out) {
    if (b->ops->parts_prepare != NULL) TRY(b->ops->parts_prepare(b->ctx, t, n, out, b->err));
    for (int32_t i = 0; i < n; i++) {
        if (b->ops->parts_prepare == NULL)
            TRY(b->ops->weight_prepare(b->ctx, &t[i], out[i], b->err));
        weights_book(b, &t[i], out[i], 1, 1);
    }
    return OK;
}

Status weights_prepare_gated(WeightsBinder *b, const Tensor *gate, const Tensor *up,
                             LayerWeights *w) {
    if (b->ops->gated_prepare == NULL) {
        TRY(weights_prepare(b, gate, &w->gate));
        return weights_prepare(b, up, &w->up);
    }
    TRY(b->ops->gated_prepare(b->ctx, gate, up, &w->gate, &w->up, b->err));
    weights_book(b, gate, &w->gate, 1, 1);
    weights_book(b, up, &w->up, 1, 1);
    return OK;
}

Status weights_prepare_experts(WeightsBinder *b, const ExpertsFile *file, LayerWeights *w) {
    const int32_t n = b->config->n_experts, used = b->config->n_experts_used;
    const Tensor *const from[] = {file->gate, file->up, file->down};
    Weight *const to[] = {w->expert_gate, w->expert_up, w->expert_down};
    if (b->ops->experts_prepare != NULL)
        TRY(b->ops->experts_prepare(b->ctx, file, n, to[0], to[1], to[2], b->err));
    for (int32_t e = 0; e < n; e++) {
        for (size_t i = 0; i < ARRAY_LEN(from); i++) {
            if (b->ops->experts_prepare == NULL)
                TRY(b->ops->weight_prepare(b->ctx, &from[i][e], &to[i][e], b->err));
            weights_book(b, &from[i][e], &to[i][e], used, n);
        }
    }
    return OK;
}

/* [in, out] of any plain dtype to an owned [out, in]. */
static Status weights_transpose(WeightsBinder *b, Tensor *t) {
    int64_t n_in = t->shape[0], n_out = t->shape[1];
    size_t size = (size_t)dtype_info(t->dtype)->group_bytes;
    if (dtype_is_grouped(t->dtype))
        FAIL(b->err, ERR_UNSUPPORTED, "%s: a %s matrix cannot be transposed",
             model_file_path(b->file), dtype_info(t->dtype)->name);
    char *copy = mem_try_alloc((size_t)n_in * (size_t)n_out, size);
    if (copy == NULL) FAIL(b->err, ERR_NOMEM, "no memory to transpose a matrix of the model");
    const char *src = t->data;
    for (int64_t i = 0; i < n_in; i++)
        for (int64_t o = 0; o < n_out; o++)
            memcpy(copy + (size_t)(o * n_in + i) * size, src + (size_t)(i * n_out + o) * size,
                   size);
    /* For weight_prepare, which takes the host's memory. */
    void *data = NULL;
    Status status =
        weights_block(b, device_host(), (size_t)n_in * (size_t)n_out * size, copy, &data);
    mem_free(copy);
    *t = tensor_2d(data, t->dtype, n_out, n_in);
    return status;
}

Status weights_matrix_get(WeightsBinder *b, WeightsAt at, int64_t n, int64_t k, Tensor *t) {
    if (!b->transposed) return weights_get(b, at, n, k, 0, t);
    TRY(weights_get(b, at, k, n, 0, t));
    return weights_transpose(b, t);
}

Status weights_matrix(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n, int64_t k,
                      Weight *out) {
    Tensor t;
    TRY(weights_matrix_get(b, (WeightsAt){.role = role, .layer = layer}, n, k, &t));
    return weights_prepare(b, &t, out);
}

Status weights_bias(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n, bool wanted,
                    const float **out) {
    if (!wanted) return OK;
    return weights_vector(b, (WeightsAt){.role = role, .layer = layer, .bias = true}, n, out);
}

/* A table that ops->embed gathers rows of. */
static Status weights_table(WeightsBinder *b, ArchTensor role, int64_t n, Weight *out, Tensor *t) {
    TRY(weights_get(b, (WeightsAt){.role = role}, n, b->config->dim, 0, t));
    out->t = *t;
    if (b->ops->table_prepare != NULL) TRY(b->ops->table_prepare(b->ctx, t, out, b->err));
    b->out->owned_bytes += (int64_t)out->owned_bytes;
    b->out->token_bytes += tensor_row_bytes(t);
    return OK;
}

static Status weights_outer(WeightsBinder *b) {
    const ModelConfig *c = b->config;
    Weights *w = b->out;
    Tensor t;
    TRY(weights_table(b, ARCH_EMBED, c->vocab, &w->embed, &t));
    if (c->tied_embeddings) {
        TRY(weights_prepare(b, &t, &w->output));
    } else {
        w->n_params += tensor_len(&t);
        w->n_params_active += tensor_len(&t);
        TRY(weights_matrix_get(b, (WeightsAt){.role = ARCH_OUTPUT}, c->vocab, c->dim, &t));
        TRY(weights_prepare(b, &t, &w->output));
    }
    if (c->learned_pos) {
        TRY(weights_table(b, ARCH_POS_EMBED, c->context, &w->pos_embed, &t));
        w->n_params += tensor_len(&t);
        w->n_params_active += tensor_len(&t);
    }
    return weights_norm(b, ARCH_OUT_NORM, 0, c->dim, &w->out_norm, &w->out_norm_bias);
}

/* The prefix under which the file has the embedding, the family's first one when it has none. */
static const char *weights_prefix(WeightsBinder *b, const char *const *prefixes) {
    char name[ARCH_NAME_BYTES];
    Tensor t;
    for (const char *const *p = prefixes; *p != NULL; p++)
        if (weights_name(b, (WeightsAt){.role = ARCH_EMBED}, *p, 0, name) &&
            model_file_find(b->file, name, &t))
            return *p;
    return prefixes[0];
}

static Status weights_bind_all(WeightsBinder *b) {
    const ModelConfig *c = b->config;
    const Arch *arch = arch_find(str_from(c->arch));
    CHECK(arch != NULL);
    bool gguf = model_file_format(b->file) == MODEL_GGUF;
    b->names = gguf ? &ARCH_GGUF_NAMES : arch->hf_names;
    b->prefix = gguf ? "" : weights_prefix(b, arch->hf_prefixes);
    TRY(weights_outer(b));
    /* GPT-2's output matrix is its embedding: only the layers' matrices are [in, out]. */
    b->transposed = !gguf && arch->transposed;
    b->out->layer = mem_alloc((size_t)c->n_layers * sizeof(LayerWeights));
    b->out->n_layers = c->n_layers;
    b->out->n_experts = c->n_experts;
    for (int32_t i = 0; i < c->n_layers; i++) TRY(weights_layer_bind(b, i, &b->out->layer[i]));
    return OK;
}

Status weights_bind(Weights *out, const ModelFile *file, const ModelConfig *config, const Ops *ops,
                    OpCtx *ctx, Progress *progress, Err *err) {
    memset(out, 0, sizeof *out);
    OpCtx own = *ctx;
    own.weights = &out->packed;
    WeightsBinder b = {.out = out,
                       .file = file,
                       .config = config,
                       .ops = ops,
                       .ctx = &own,
                       .progress = progress,
                       .err = err};
    Status status = weights_bind_all(&b);
    if (status != OK) weights_free(out, ops, ctx);
    return status;
}

static void weights_free_layer(LayerWeights *w, int32_t n_experts, const Ops *ops, OpCtx *ctx) {
    Weight *const single[] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down, &w->router};
    for (size_t i = 0; i < ARRAY_LEN(single); i++) ops->weight_release(ctx, single[i]);
    Weight *const experts[] = {w->expert_gate, w->expert_up, w->expert_down};
    for (size_t i = 0; i < ARRAY_LEN(experts); i++) {
        for (int32_t e = 0; experts[i] != NULL && e < n_experts; e++)
            ops->weight_release(ctx, &experts[i][e]);
        mem_free(experts[i]);
    }
}

void weights_free(Weights *weights, const Ops *ops, OpCtx *ctx) {
    if (ops != NULL) ops->weight_release(ctx, &weights->output);
    for (int32_t i = 0; i < weights->n_layers; i++)
        weights_free_layer(&weights->layer[i], weights->n_experts, ops, ctx);
    mem_free(weights->layer);
    arena_large_free(&weights->packed);
    for (WeightsBlock *block = weights->blocks, *next; block != NULL; block = next) {
        next = block->next;
        block->device->vtable->free(block->device, block->data, block->bytes);
        mem_free(block);
    }
    memset(weights, 0, sizeof *weights);
}
