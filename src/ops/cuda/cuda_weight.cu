/* cuda_weight: weights to the device, through page-locked buffers that the pool's threads fill while
 * the copy engine empties others.
 *
 * A large matrix has memory of its own; small ones are cut from pieces, as a model may have tens of
 * thousands of them. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/cuda_matrix.cuh"

enum : size_t {
    CUDA_WEIGHT_ALIGN = 256,
    CUDA_WEIGHT_PIECE = (size_t)64 << 20, /* of device memory */
    CUDA_WEIGHT_LARGE = (size_t)8 << 20,  /* from here on a matrix has a piece of its own */
    CUDA_WEIGHT_SLICE = (size_t)4 << 20,   /* of a page-locked buffer */
    CUDA_WEIGHT_ROWS = (size_t)64 << 20    /* of rows that wait to be packed */
};
enum { CUDA_WEIGHT_SLOTS = 16, CUDA_WEIGHT_STAGES = 2 };

/* A piece of device memory; weights are cut from the first that has room. */
struct CudaArena {
    CudaArena *next;
    char *data;
    size_t bytes, used;
};

/* The page-locked buffers: slot i is thread i's alone. */
struct CudaUpload {
    int n_slots;
    char *slot[CUDA_WEIGHT_SLOTS][2];
    cudaEvent_t done[CUDA_WEIGHT_SLOTS][2];
    int turn[CUDA_WEIGHT_SLOTS];
    cudaStream_t stream[CUDA_WEIGHT_SLOTS];
    /* Rows on the device that wait to be packed. */
    char *rows[CUDA_WEIGHT_STAGES];
    cudaEvent_t packed[CUDA_WEIGHT_STAGES];
    int stage;
};

static Status cuda_weight_fail(cudaError_t code, const char *call, Err *err) {
    (void)cudaGetLastError();
    FAIL(err, code == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "cuda: %s: %s", call,
         cudaGetErrorString(code));
}

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

static void cuda_weight_close_upload(CudaUpload *u) {
    for (int i = 0; i < u->n_slots; i++) {
        for (int j = 0; j < 2; j++) {
            if (u->slot[i][j] != NULL) (void)cudaFreeHost(u->slot[i][j]);
            if (u->done[i][j] != NULL) (void)cudaEventDestroy(u->done[i][j]);
        }
        if (u->stream[i] != NULL) (void)cudaStreamDestroy(u->stream[i]);
    }
    for (int i = 0; i < CUDA_WEIGHT_STAGES; i++) {
        if (u->rows[i] != NULL) (void)cudaFree(u->rows[i]);
        if (u->packed[i] != NULL) (void)cudaEventDestroy(u->packed[i]);
    }
    free(u);
}

static Status cuda_weight_open_upload(CudaDevice *d, int n_threads, Err *err) {
    if (d->upload != NULL) return OK;
    CudaUpload *u = (CudaUpload *)calloc(1, sizeof *u);
    if (u == NULL) FAIL(err, ERR_NOMEM, "no memory for upload buffers");
    u->n_slots = MIN(n_threads, (int)CUDA_WEIGHT_SLOTS);
    cudaError_t code = cudaSetDevice(d->base.id);
    for (int i = 0; i < u->n_slots && code == cudaSuccess; i++) {
        code = cudaStreamCreateWithFlags(&u->stream[i], cudaStreamNonBlocking);
        for (int j = 0; j < 2 && code == cudaSuccess; j++) {
            code = cudaHostAlloc((void **)&u->slot[i][j], CUDA_WEIGHT_SLICE, 0);
            if (code == cudaSuccess)
                code = cudaEventCreateWithFlags(&u->done[i][j], cudaEventDisableTiming);
        }
    }
    for (int i = 0; i < CUDA_WEIGHT_STAGES && code == cudaSuccess; i++) {
        code = cudaMalloc((void **)&u->rows[i], CUDA_WEIGHT_ROWS);
        if (code == cudaSuccess)
            code = cudaEventCreateWithFlags(&u->packed[i], cudaEventDisableTiming);
    }
    d->upload = u;
    return code == cudaSuccess ? OK : cuda_weight_fail(code, "upload buffers", err);
}

/* What the threads share while one tensor goes up. */
struct CudaUploadJob {
    CudaDevice *device;
    char *dst;
    const char *src;
    size_t bytes;
    cudaError_t failure[CUDA_WEIGHT_SLOTS];
};

static void cuda_weight_upload_task(void *context, int64_t task, int32_t thread) {
    CudaUploadJob *job = (CudaUploadJob *)context;
    CudaUpload *u = job->device->upload;
    const int i = thread % u->n_slots, j = u->turn[i] ^= 1;
    const size_t at = (size_t)task * CUDA_WEIGHT_SLICE;
    const size_t bytes = MIN(job->bytes - at, (size_t)CUDA_WEIGHT_SLICE);
    cudaError_t code = cudaSetDevice(job->device->base.id);
    if (code == cudaSuccess) code = cudaEventSynchronize(u->done[i][j]);
    if (code == cudaSuccess) {
        memcpy(u->slot[i][j], job->src + at, bytes);
        code = cudaMemcpyAsync(job->dst + at, u->slot[i][j], bytes, cudaMemcpyHostToDevice,
                               u->stream[i]);
    }
    if (code == cudaSuccess) code = cudaEventRecord(u->done[i][j], u->stream[i]);
    if (code != cudaSuccess) job->failure[i] = code;
}

/* Queued when it returns: src is free again, and the device's stream waits for the copies. */
static Status cuda_weight_upload(OpCtx *ctx, void *dst, const void *src, size_t bytes, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    const int n_threads = ctx->pool != NULL ? pool_threads(ctx->pool) : 1;
    TRY(cuda_weight_open_upload(d, n_threads, err));
    CudaUploadJob job = {d, (char *)dst, (const char *)src, bytes, {}};
    /* More threads than slots would share one. */
    ThreadPool *pool = n_threads <= d->upload->n_slots ? ctx->pool : NULL;
    pool_run(pool, (int64_t)DIV_UP(bytes, (size_t)CUDA_WEIGHT_SLICE), cuda_weight_upload_task,
             &job);
    for (int i = 0; i < d->upload->n_slots; i++) {
        cudaError_t code = job.failure[i];
        for (int j = 0; j < 2 && code == cudaSuccess; j++)
            code = cudaStreamWaitEvent(d->stream, d->upload->done[i][j], 0);
        if (code != cudaSuccess) return cuda_weight_fail(code, "upload of weights", err);
    }
    return OK;
}

static Status cuda_weight_check(const Tensor *file, Err *err) {
    char text[TENSOR_TEXT_BYTES];
    if (dtype_can_read(file->dtype)) return OK;
    FAIL(err, ERR_UNSUPPORTED, "weight %s: this format cannot be multiplied",
         tensor_text(file, text));
}

/* Rows that go to packed rows of dst, from row `first` on. */
static Status cuda_weight_pack_rows(OpCtx *ctx, const Tensor *rows, CudaLinearRows order,
                                    int64_t first, char *dst, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    TRY(cuda_weight_open_upload(d, ctx->pool != NULL ? pool_threads(ctx->pool) : 1, err));
    CudaUpload *u = d->upload;
    const int64_t n = rows->shape[0], k = rows->shape[1];
    const int stage = u->stage ^= 1;
    for (int i = 0; i < u->n_slots; i++) {
        cudaError_t code = cudaStreamWaitEvent(u->stream[i], u->packed[stage], 0);
        if (code != cudaSuccess) return cuda_weight_fail(code, "upload of weights", err);
    }
    TRY(cuda_weight_upload(ctx, u->rows[stage], rows->data, (size_t)(n * k) * 2, err));
    const int64_t row = order == CUDA_LINEAR_ROWS_PLAIN ? first : 2 * first;
    cudaError_t code = cuda_linear_pack(d->stream, u->rows[stage], k, (int32_t)n, (int32_t)k, order,
                                        dst + cuda_linear_offset(row, 0, k));
    if (code == cudaSuccess) code = cudaEventRecord(u->packed[stage], d->stream);
    return code == cudaSuccess ? OK : cuda_weight_fail(code, "packing of weights", err);
}

/* A bf16 matrix [n, k] into packed memory that was cleared. */
static Status cuda_weight_pack(OpCtx *ctx, const Tensor *file, CudaLinearRows order, char *dst,
                               Err *err) {
    const int64_t row_bytes = file->shape[1] * 2;
    /* Whole blocks of packed rows, in either order. */
    int64_t step = (int64_t)CUDA_WEIGHT_ROWS / row_bytes / CUDA_LINEAR_BLOCK * CUDA_LINEAR_BLOCK;
    CHECK(step > 0);
    for (int64_t i = 0; i < file->shape[0]; i += step) {
        const Tensor rows = tensor_rows(file, i, MIN(step, file->shape[0] - i));
        TRY(cuda_weight_pack_rows(ctx, &rows, order, i, dst, err));
    }
    return OK;
}

/* Cleared memory for packed rows. */
static Status cuda_weight_alloc_packed(CudaDevice *d, size_t bytes, char **out, Err *err) {
    void *data = NULL;
    TRY(cuda_weight_alloc(d, bytes, &data, err));
    cudaError_t code = cudaMemsetAsync(data, 0, bytes, d->stream);
    if (code != cudaSuccess) return cuda_weight_fail(code, "cudaMemset", err);
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

Status cuda_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    TRY(cuda_weight_check(file, err));
    CudaDevice *d = cuda_of(ctx);
    if (cuda_matrix_can_pack(file)) {
        const size_t bytes = cuda_linear_packed_bytes(file->shape[0], file->shape[1]);
        char *packed = NULL;
        TRY(cuda_weight_alloc_packed(d, bytes, &packed, err));
        TRY(cuda_weight_pack(ctx, file, CUDA_LINEAR_ROWS_PLAIN, packed, err));
        *out = cuda_weight_of(file, CUDA_MATRIX_PACKED, packed, bytes);
        return OK;
    }
    const size_t bytes = (size_t)tensor_bytes(file);
    void *data = NULL;
    TRY(cuda_weight_alloc(d, bytes, &data, err));
    TRY(cuda_weight_upload(ctx, data, file->data, bytes, err));
    *out = cuda_weight_of(file, CUDA_MATRIX_ROWS, data, bytes);
    return OK;
}

/* Bytes of gate and up in one. */
static size_t cuda_weight_gated_bytes(const Tensor *t) {
    return cuda_linear_packed_bytes(2 * ALIGN_UP(t->shape[0], (int64_t)8), t->shape[1]);
}

static Status cuda_weight_pack_gated(OpCtx *ctx, const Tensor *gate, const Tensor *up, char *dst,
                                     Err *err) {
    TRY(cuda_weight_pack(ctx, gate, CUDA_LINEAR_ROWS_GATE, dst, err));
    return cuda_weight_pack(ctx, up, CUDA_LINEAR_ROWS_UP, dst, err);
}

Status cuda_weight_gated(OpCtx *ctx, const Tensor *gate, const Tensor *up, Weight *out_gate,
                         Weight *out_up, Err *err) {
    if (!cuda_matrix_can_pack(gate) || !cuda_matrix_can_pack(up)) {
        TRY(cuda_weight_prepare(ctx, gate, out_gate, err));
        return cuda_weight_prepare(ctx, up, out_up, err);
    }
    const size_t bytes = cuda_weight_gated_bytes(gate);
    char *packed = NULL;
    TRY(cuda_weight_alloc_packed(cuda_of(ctx), bytes, &packed, err));
    TRY(cuda_weight_pack_gated(ctx, gate, up, packed, err));
    *out_gate = cuda_weight_of(gate, CUDA_MATRIX_GATE, packed, bytes / 2);
    *out_up = cuda_weight_of(up, CUDA_MATRIX_UP, packed, bytes - bytes / 2);
    return OK;
}

/* n matrices of one shape behind each other. */
static Status cuda_weight_stack(OpCtx *ctx, const Tensor *file, int32_t n, Weight *out, Err *err) {
    const size_t bytes = ALIGN_UP((size_t)tensor_bytes(file), (size_t)CUDA_WEIGHT_ALIGN);
    void *data = NULL;
    TRY(cuda_weight_check(file, err));
    TRY(cuda_weight_alloc(cuda_of(ctx), bytes * (size_t)n, &data, err));
    for (int32_t i = 0; i < n; i++) {
        char *at = (char *)data + (size_t)i * bytes;
        CHECK(tensor_bytes(&file[i]) == tensor_bytes(file) && file[i].dtype == file->dtype);
        TRY(cuda_weight_upload(ctx, at, file[i].data, (size_t)tensor_bytes(file), err));
        out[i] = cuda_weight_of(&file[i], CUDA_MATRIX_ROWS, at, bytes);
    }
    return OK;
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
    for (int32_t i = 0; i < n; i++) {
        TRY(cuda_weight_pack_gated(ctx, &file->gate[i], &file->up[i], gated + i * first, err));
        TRY(cuda_weight_pack(ctx, &file->down[i], CUDA_LINEAR_ROWS_PLAIN, last + i * second, err));
        gate[i] = cuda_weight_of(&file->gate[i], CUDA_MATRIX_GATE, gated + i * first, first / 2);
        up[i] = cuda_weight_of(&file->up[i], CUDA_MATRIX_UP, gated + i * first, first - first / 2);
        down[i] =
            cuda_weight_of(&file->down[i], CUDA_MATRIX_PACKED, last + i * second, second);
    }
    return OK;
}

Status cuda_weight_experts(OpCtx *ctx, const ExpertsFile *file, int32_t n, Weight *gate, Weight *up,
                           Weight *down, Err *err) {
    bool pack = n <= CUDA_LINEAR_EXPERTS_MAX;
    for (int32_t i = 0; i < n; i++)
        pack = pack && cuda_matrix_can_pack(&file->gate[i]) && cuda_matrix_can_pack(&file->up[i]) &&
               cuda_matrix_can_pack(&file->down[i]);
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
    cuda_weight_close_upload(d->upload);
    d->upload = NULL;
    return OK;
}

void cuda_weight_close(CudaDevice *device) {
    if (device->upload != NULL) cuda_weight_close_upload(device->upload);
    device->upload = NULL;
    for (CudaArena *arena = device->arena, *next; arena != NULL; arena = next) {
        next = arena->next;
        (void)cudaFree(arena->data);
        free(arena);
    }
    device->arena = NULL;
}
