/* cuda_weight: weights on the device.
 *
 * A large matrix has memory of its own; small ones are cut from pieces, as a model may have tens of
 * thousands of them. */
#include <stdlib.h>

#include "ops/cuda/cuda_matrix.cuh"
#include "ops/cuda/cuda_norm.cuh"
#include "ops/cuda/cuda_upload.cuh"

enum : size_t {
    CUDA_WEIGHT_ALIGN = 256,
    CUDA_WEIGHT_PIECE = (size_t)64 << 20, /* of device memory */
    CUDA_WEIGHT_LARGE = (size_t)8 << 20   /* from here on a matrix has a piece of its own */
};

/* A piece of device memory; weights are cut from the first that has room. */
struct CudaArena {
    CudaArena *next;
    char *data;
    size_t bytes, used;
};

static Status cuda_weight_open_arena(CudaDevice *d, size_t bytes, CudaArena **out, Err *err) {
    CudaArena *arena = (CudaArena *)calloc(1, sizeof *arena);
    if (arena == NULL) FAIL(err, ERR_NOMEM, "no memory for the list of weights");
    arena->bytes = bytes;
    void *data = NULL;
    Status status = d->base.vtable->alloc(&d->base, bytes, &data, err);
    if (status != OK) {
        free(arena);
        return status;
    }
    arena->data = (char *)data;
    arena->next = d->arena;
    d->arena = arena;
    *out = arena;
    return OK;
}

static Status cuda_weight_alloc(CudaDevice *d, size_t bytes, void **out, Err *err) {
    bytes = ALIGN_UP(bytes, (size_t)CUDA_WEIGHT_ALIGN);
    const bool large = bytes >= CUDA_WEIGHT_LARGE;
    CudaArena *arena = large ? NULL : d->arena;
    while (arena != NULL && arena->bytes - arena->used < bytes) arena = arena->next;
    if (arena == NULL)
        TRY(cuda_weight_open_arena(d, large ? bytes : (size_t)CUDA_WEIGHT_PIECE, &arena, err));
    *out = arena->data + arena->used;
    arena->used += bytes;
    return OK;
}

static Status cuda_weight_check(const Tensor *file, Err *err) {
    char text[TENSOR_TEXT_BYTES];
    if (dtype_can_read(file->dtype)) return OK;
    FAIL(err, ERR_UNSUPPORTED, "weight %s: this format cannot be multiplied",
         tensor_text(file, text));
}

/* A tensor as it is. */
static CudaUploadPiece cuda_weight_bytes(const Tensor *file, char *dst) {
    CudaUploadPiece piece = {};
    piece.src = (const char *)file->data;
    piece.dst = dst;
    piece.bytes = (size_t)tensor_bytes(file);
    return piece;
}

/* A matrix that goes into packed memory, which was cleared. */
static CudaUploadPiece cuda_weight_packed(const Tensor *file, CudaLinearRows order, char *dst) {
    CudaUploadPiece piece = cuda_weight_bytes(file, dst);
    piece.n = (int32_t)file->shape[0];
    piece.k = (int32_t)file->shape[1];
    piece.dtype = file->dtype;
    piece.order = order;
    return piece;
}

/* Cleared memory for packed rows. */
static Status cuda_weight_alloc_packed(CudaDevice *d, size_t bytes, char **out, Err *err) {
    void *data = NULL;
    TRY(cuda_weight_alloc(d, bytes, &data, err));
    cudaError_t code = cudaMemsetAsync(data, 0, bytes, d->stream);
    if (code != cudaSuccess) return cuda_fail(code, "cudaMemset", err);
    *out = (char *)data;
    return OK;
}

static Weight cuda_weight_of(const Tensor *file, int layout, void *data, size_t bytes) {
    Weight w = {};
    w.t = *file;
    w.t.data = data;
    w.layout = layout;
    w.owned = data;
    w.owned_bytes = bytes;
    return w;
}

/* A tensor that keeps its rows. */
static Status cuda_weight_rows(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    const size_t bytes = (size_t)tensor_bytes(file);
    void *data = NULL;
    TRY(cuda_weight_alloc(cuda_of(ctx), bytes, &data, err));
    const CudaUploadPiece piece = cuda_weight_bytes(file, (char *)data);
    TRY(cuda_upload(ctx, &piece, 1, err));
    *out = cuda_weight_of(file, CUDA_MATRIX_ROWS, data, bytes);
    return OK;
}

/* Its rows are what norms take. */
Status cuda_weight_table(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    char text[TENSOR_TEXT_BYTES];
    const int32_t max = cuda_of(ctx)->norm_dim_max;
    if (file->shape[1] > max)
        FAIL(err, ERR_UNSUPPORTED, "table %s: this GPU normalizes rows of up to %d elements",
             tensor_text(file, text), max);
    return cuda_weight_rows(ctx, file, out, err);
}

Status cuda_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    TRY(cuda_weight_check(file, err));
    const int layout = cuda_matrix_layout(cuda_of(ctx), file);
    if (layout != CUDA_MATRIX_ROWS) {
        const int64_t n = file->shape[0], k = file->shape[1];
        const size_t bytes = layout == CUDA_MATRIX_PACKED ? cuda_linear_packed_bytes(n, k)
                                                          : cuda_quant_bytes(file->dtype, n, k);
        char *packed = NULL;
        TRY(cuda_weight_alloc_packed(cuda_of(ctx), bytes, &packed, err));
        CudaUploadPiece rows = cuda_weight_packed(file, CUDA_LINEAR_ROWS_PLAIN, packed);
        rows.units = layout == CUDA_MATRIX_UNITS;
        TRY(cuda_upload(ctx, &rows, 1, err));
        *out = cuda_weight_of(file, layout, packed, bytes);
        return OK;
    }
    return cuda_weight_rows(ctx, file, out, err);
}

/* Behind each other, so that one product makes them all (cuda_product_follows). */
Status cuda_weight_parts(OpCtx *ctx, const Tensor *file, int32_t n, Weight *const *out, Err *err) {
    CHECK(n >= 1 && n <= LINEAR_PARTS_MAX);
    CudaDevice *d = cuda_of(ctx);
    bool pack = true;
    size_t bytes[LINEAR_PARTS_MAX], all = 0;
    for (int32_t i = 0; i < n; i++) {
        pack = pack && cuda_matrix_can_pack(d, &file[i]) && file[i].shape[1] == file->shape[1];
        bytes[i] = cuda_linear_packed_bytes(file[i].shape[0], file[i].shape[1]);
        all += bytes[i];
    }
    for (int32_t i = 0; i < n && !pack; i++) TRY(cuda_weight_prepare(ctx, &file[i], out[i], err));
    if (!pack) return OK;
    CudaUploadPiece rows[LINEAR_PARTS_MAX];
    char *packed = NULL;
    TRY(cuda_weight_alloc_packed(d, all, &packed, err));
    for (int32_t i = 0; i < n; i++) {
        rows[i] = cuda_weight_packed(&file[i], CUDA_LINEAR_ROWS_PLAIN, packed);
        *out[i] = cuda_weight_of(&file[i], CUDA_MATRIX_PACKED, packed, bytes[i]);
        packed += bytes[i];
    }
    return cuda_upload(ctx, rows, n, err);
}

/* Bytes of gate and up in one. */
static size_t cuda_weight_gated_bytes(const Tensor *t) {
    return cuda_linear_packed_bytes(2 * ALIGN_UP(t->shape[0], (int64_t)8), t->shape[1]);
}

Status cuda_weight_gated(OpCtx *ctx, const Tensor *gate, const Tensor *up, Weight *out_gate,
                         Weight *out_up, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    if (!cuda_matrix_can_pack(d, gate) || !cuda_matrix_can_pack(d, up)) {
        TRY(cuda_weight_prepare(ctx, gate, out_gate, err));
        return cuda_weight_prepare(ctx, up, out_up, err);
    }
    const size_t bytes = cuda_weight_gated_bytes(gate);
    char *packed = NULL;
    TRY(cuda_weight_alloc_packed(d, bytes, &packed, err));
    const CudaUploadPiece rows[2] = {cuda_weight_packed(gate, CUDA_LINEAR_ROWS_GATE, packed),
                                     cuda_weight_packed(up, CUDA_LINEAR_ROWS_UP, packed)};
    TRY(cuda_upload(ctx, rows, 2, err));
    *out_gate = cuda_weight_of(gate, CUDA_MATRIX_GATE, packed, bytes / 2);
    *out_up = cuda_weight_of(up, CUDA_MATRIX_UP, packed, bytes - bytes / 2);
    return OK;
}

/* Pieces of the experts of a layer, three matrices each. */
static Status cuda_weight_open_pieces(int32_t n, CudaUploadPiece **out, Err *err) {
    *out = (CudaUploadPiece *)calloc((size_t)n * 3, sizeof **out);
    return *out != NULL ? OK : err_set(err, ERR_NOMEM, "no memory for the list of experts");
}

/* n matrices of one shape behind each other. */
static Status cuda_weight_stack(OpCtx *ctx, const Tensor *file, int32_t n, Weight *out, Err *err) {
    char text[TENSOR_TEXT_BYTES], other[TENSOR_TEXT_BYTES];
    for (int32_t i = 1; i < n; i++)
        if (file[i].dtype != file->dtype)
            FAIL(err, ERR_UNSUPPORTED, "experts of a layer are %s and %s; a GPU takes one format",
                 tensor_text(file, text), tensor_text(&file[i], other));
    const size_t bytes = ALIGN_UP((size_t)tensor_bytes(file), (size_t)CUDA_WEIGHT_ALIGN);
    void *data = NULL;
    CudaUploadPiece *piece = NULL;
    TRY(cuda_weight_check(file, err));
    TRY(cuda_weight_alloc(cuda_of(ctx), bytes * (size_t)n, &data, err));
    TRY(cuda_weight_open_pieces(n, &piece, err));
    for (int32_t i = 0; i < n; i++) {
        char *at = (char *)data + (size_t)i * bytes;
        CHECK(tensor_bytes(&file[i]) == tensor_bytes(file));
        piece[i] = cuda_weight_bytes(&file[i], at);
        out[i] = cuda_weight_of(&file[i], CUDA_MATRIX_ROWS, at, bytes);
    }
    const Status status = cuda_upload(ctx, piece, n, err);
    free(piece);
    return status;
}

/* n packed matrices of `bytes` behind the table of their addresses (cuda_matrix_table). */
static Status cuda_weight_alloc_experts(CudaDevice *d, int32_t n, size_t bytes, char **out,
                                        Err *err) {
    const size_t table_bytes = cuda_matrix_table_bytes(n);
    char *data = NULL;
    TRY(cuda_weight_alloc_packed(d, table_bytes + bytes * (size_t)n, &data, err));
    char **table = (char **)calloc((size_t)n, sizeof *table);
    if (table == NULL) FAIL(err, ERR_NOMEM, "no memory for a table of experts");
    for (int32_t i = 0; i < n; i++) table[i] = data + table_bytes + (size_t)i * bytes;
    Status status =
        d->base.vtable->upload(&d->base, data, table, (size_t)n * sizeof *table, err);
    free(table);
    *out = data + table_bytes;
    return status;
}

static Status cuda_weight_experts_packed(OpCtx *ctx, const ExpertsFile *file, int32_t n,
                                         Weight *gate, Weight *up, Weight *down, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    const size_t first = cuda_weight_gated_bytes(file->gate);
    const size_t second = cuda_linear_packed_bytes(file->down->shape[0], file->down->shape[1]);
    char *gated = NULL, *last = NULL;
    TRY(cuda_weight_alloc_experts(d, n, first, &gated, err));
    TRY(cuda_weight_alloc_experts(d, n, second, &last, err));
    CudaUploadPiece *piece = NULL;
    TRY(cuda_weight_open_pieces(n, &piece, err));
    for (int32_t i = 0; i < n; i++) {
        char *pair = gated + i * first, *own = last + i * second;
        piece[3 * i] = cuda_weight_packed(&file->gate[i], CUDA_LINEAR_ROWS_GATE, pair);
        piece[3 * i + 1] = cuda_weight_packed(&file->up[i], CUDA_LINEAR_ROWS_UP, pair);
        piece[3 * i + 2] = cuda_weight_packed(&file->down[i], CUDA_LINEAR_ROWS_PLAIN, own);
        gate[i] = cuda_weight_of(&file->gate[i], CUDA_MATRIX_GATE, pair, first / 2);
        up[i] = cuda_weight_of(&file->up[i], CUDA_MATRIX_UP, pair, first - first / 2);
        down[i] = cuda_weight_of(&file->down[i], CUDA_MATRIX_PACKED, own, second);
    }
    const Status status = cuda_upload(ctx, piece, 3 * n, err);
    free(piece);
    return status;
}

Status cuda_weight_experts(OpCtx *ctx, const ExpertsFile *file, int32_t n, Weight *gate, Weight *up,
                           Weight *down, Err *err) {
    const CudaDevice *d = cuda_of(ctx);
    bool pack = n <= CUDA_LINEAR_EXPERTS_MAX;
    for (int32_t i = 0; i < n; i++)
        pack = pack && cuda_matrix_can_pack(d, &file->gate[i]) &&
               cuda_matrix_can_pack(d, &file->up[i]) && cuda_matrix_can_pack(d, &file->down[i]);
    if (pack) return cuda_weight_experts_packed(ctx, file, n, gate, up, down, err);
    TRY(cuda_weight_stack(ctx, file->gate, n, gate, err));
    TRY(cuda_weight_stack(ctx, file->up, n, up, err));
    return cuda_weight_stack(ctx, file->down, n, down, err);
}

/* The memory goes with the device. */
void cuda_weight_release(OpCtx *ctx, Weight *weight) {
    (void)ctx;
    *weight = Weight{};
}

Status cuda_weight_ready(OpCtx *ctx, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    if (d->upload == NULL) return OK;
    TRY(d->base.vtable->sync(&d->base, err));
    cuda_upload_close(d);
    return OK;
}

void cuda_weight_close(CudaDevice *device) {
    cuda_upload_close(device);
    for (CudaArena *arena = device->arena, *next; arena != NULL; arena = next) {
        next = arena->next;
        (void)cudaFree(arena->data);
        free(arena);
    }
    device->arena = NULL;
}
