/* cuda_weight: weights to the device, through page-locked buffers that the pool's threads fill while
 * the copy engine empties others.
 *
 * Their memory comes in large pieces: a model has tens of thousands of matrices. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/cuda_common.cuh"

enum : size_t {
    CUDA_WEIGHT_ALIGN = 256,
    CUDA_WEIGHT_PIECE = (size_t)256 << 20, /* of device memory, or one larger matrix */
    CUDA_WEIGHT_SLICE = (size_t)4 << 20    /* of a page-locked buffer */
};
enum { CUDA_WEIGHT_SLOTS = 16 };

/* A piece of device memory; weights are cut from the newest one. */
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
};

static Status cuda_weight_fail(cudaError_t code, const char *call, Err *err) {
    (void)cudaGetLastError();
    FAIL(err, code == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "cuda: %s: %s", call,
         cudaGetErrorString(code));
}

static Status cuda_weight_alloc(CudaDevice *d, size_t bytes, void **out, Err *err) {
    bytes = ALIGN_UP(bytes, (size_t)CUDA_WEIGHT_ALIGN);
    if (d->arena == NULL || d->arena->bytes - d->arena->used < bytes) {
        CudaArena *arena = (CudaArena *)calloc(1, sizeof *arena);
        if (arena == NULL) FAIL(err, ERR_NOMEM, "no memory for the list of weights");
        arena->bytes = MAX(bytes, (size_t)CUDA_WEIGHT_PIECE);
        void *data = NULL;
        Status status = d->base.vtable->alloc(&d->base, arena->bytes, &data, err);
        if (status != OK) {
            free(arena);
            return status;
        }
        arena->data = (char *)data;
        arena->next = d->arena;
        d->arena = arena;
    }
    *out = d->arena->data + d->arena->used;
    d->arena->used += bytes;
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

Status cuda_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err) {
    TRY(cuda_weight_check(file, err));
    const size_t bytes = (size_t)tensor_bytes(file);
    void *data = NULL;
    TRY(cuda_weight_alloc(cuda_of(ctx), bytes, &data, err));
    TRY(cuda_weight_upload(ctx, data, file->data, bytes, err));
    *out = Weight{};
    out->t = *file;
    out->t.data = data;
    out->owned = data;
    out->owned_bytes = bytes;
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
        out[i] = Weight{};
        out[i].t = file[i];
        out[i].t.data = at;
        out[i].owned = at;
        out[i].owned_bytes = bytes;
    }
    return OK;
}

Status cuda_weight_experts(OpCtx *ctx, const ExpertsFile *file, int32_t n, Weight *gate, Weight *up,
                           Weight *down, Err *err) {
    TRY(cuda_weight_stack(ctx, file->gate, n, gate, err));
    TRY(cuda_weight_stack(ctx, file->up, n, up, err));
    return cuda_weight_stack(ctx, file->down, n, down, err);
}

/* The memory goes with the device. */
void cuda_weight_release(OpCtx *ctx, Weight *weight) {
    (void)ctx;
    *weight = Weight{};
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
