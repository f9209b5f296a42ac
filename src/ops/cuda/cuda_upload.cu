/* cuda_upload: runners take slices of what goes up from one counter. Each has two page-locked
 * buffers, as much memory on the device, and a stream: it fills one buffer while the other's bytes
 * are on the link, and packs rows behind their copy. No runner waits for another, and each opens
 * itself when it first has something to do: page-locked memory takes 0.6 ms for a MB. */
#include "ops/cuda/cuda_upload.cuh"

#include <stdlib.h>
#include <string.h>

enum : size_t {
    CUDA_UPLOAD_SLICE = (size_t)2 << 20,     /* at most, but for one block row */
    CUDA_UPLOAD_SLICE_MIN = (size_t)256 << 10,
    CUDA_UPLOAD_SMALL = (size_t)64 << 10,
    CUDA_UPLOAD_RING = (size_t)1 << 20          /* page-locked, for small ones */
};
enum { CUDA_UPLOAD_RUNNERS = 16, CUDA_UPLOAD_BUFFERS = 2 };

struct CudaRunner {
    char *buffer[CUDA_UPLOAD_BUFFERS];
    char *rows[CUDA_UPLOAD_BUFFERS]; /* on the device, to be packed */
    cudaEvent_t done[CUDA_UPLOAD_BUFFERS];
    cudaStream_t stream;
    int turn;
    cudaError_t failure;
};

struct CudaUpload {
    int n_runners;
    size_t buffer_bytes;
    CudaRunner runner[CUDA_UPLOAD_RUNNERS];
    cudaEvent_t begin;
    char *ring;
    size_t ring_used;
};

static cudaError_t cuda_upload_open_runner(CudaRunner *r, size_t bytes) {
    cudaError_t code = cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking);
    for (int i = 0; i < CUDA_UPLOAD_BUFFERS && code == cudaSuccess; i++) {
        code = cudaHostAlloc((void **)&r->buffer[i], bytes, 0);
        if (code == cudaSuccess) code = cudaMalloc((void **)&r->rows[i], bytes);
        if (code == cudaSuccess)
            code = cudaEventCreateWithFlags(&r->done[i], cudaEventDisableTiming);
    }
    return code;
}

static void cuda_upload_close_runner(CudaRunner *r) {
    for (int i = 0; i < CUDA_UPLOAD_BUFFERS; i++) {
        if (r->buffer[i] != NULL) (void)cudaFreeHost(r->buffer[i]);
        if (r->rows[i] != NULL) (void)cudaFree(r->rows[i]);
        if (r->done[i] != NULL) (void)cudaEventDestroy(r->done[i]);
    }
    if (r->stream != NULL) (void)cudaStreamDestroy(r->stream);
}

void cuda_upload_close(CudaDevice *d) {
    CudaUpload *u = d->upload;
    if (u == NULL) return;
    for (int i = 0; i < u->n_runners; i++) cuda_upload_close_runner(&u->runner[i]);
    if (u->begin != NULL) (void)cudaEventDestroy(u->begin);
    if (u->ring != NULL) (void)cudaFreeHost(u->ring);
    free(u);
    d->upload = NULL;
}

/* Runners with buffers of so many bytes at least. */
static Status cuda_upload_open(CudaDevice *d, int n_threads, size_t bytes, Err *err) {
    if (d->upload != NULL && d->upload->buffer_bytes >= bytes) return OK;
    if (d->upload != NULL) TRY(d->base.vtable->sync(&d->base, err));
    cuda_upload_close(d);
    CudaUpload *u = (CudaUpload *)calloc(1, sizeof *u);
    if (u == NULL) FAIL(err, ERR_NOMEM, "no memory for upload buffers");
    d->upload = u;
    u->n_runners = MIN(n_threads, (int)CUDA_UPLOAD_RUNNERS);
    u->buffer_bytes = bytes;
    cudaError_t code = cudaSetDevice(d->base.id);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&u->begin, cudaEventDisableTiming);
    if (code == cudaSuccess) code = cudaHostAlloc((void **)&u->ring, CUDA_UPLOAD_RING, 0);
    return code == cudaSuccess ? OK : cuda_fail(code, "upload buffers", err);
}

/* ---- slices ------------------------------------------------------------------------------- */

/* Where the packed rows from `row` on begin. */
static char *cuda_upload_row(const CudaUploadPiece *p, int64_t row) {
    if (p->units) return p->dst + cuda_quant_bytes(p->dtype, row, p->k);
    return p->dst +
           cuda_linear_offset(p->order == CUDA_LINEAR_ROWS_PLAIN ? row : 2 * row, 0, p->k);
}

static cudaError_t cuda_upload_pack(const CudaRunner *r, const void *rows,
                                    const CudaUploadPiece *s) {
    if (s->units)
        return cuda_quant_pack(r->stream, s->dtype, rows, s->n, s->k, s->dst);
    return cuda_linear_pack(r->stream, rows, s->k, s->n, s->k, s->order, s->dst);
}

/* Cuts a piece; out NULL: only counts. Packed rows are cut between blocks, in either order. */
static int64_t cuda_upload_cut(const CudaUploadPiece *p, size_t slice_bytes, CudaUploadPiece *out) {
    const size_t row_bytes = p->n > 0 ? p->bytes / (size_t)p->n : 1;
    size_t step = slice_bytes;
    if (p->n > 0) {
        const size_t block_bytes = row_bytes * CUDA_LINEAR_BLOCK;
        step = MAX(slice_bytes / block_bytes, (size_t)1) * block_bytes;
    }
    int64_t n = 0;
    for (size_t at = 0; at < p->bytes; at += step, n++) {
        if (out == NULL) continue;
        out[n] = *p;
        out[n].src = p->src + at;
        out[n].bytes = MIN(p->bytes - at, step);
        if (p->n == 0) {
            out[n].dst = p->dst + at;
            continue;
        }
        out[n].n = (int32_t)(out[n].bytes / row_bytes);
        out[n].dst = cuda_upload_row(p, (int64_t)(at / row_bytes));
    }
    return n;
}

/* What the runners share while one call's pieces go up. */
struct CudaUploadJob {
    CudaDevice *device;
    const CudaUploadPiece *slice;
    int64_t n, next;
};

static cudaError_t cuda_upload_slice(CudaRunner *r, const CudaUploadPiece *s) {
    const int i = r->turn ^= 1;
    cudaError_t code = cudaEventSynchronize(r->done[i]);
    if (code != cudaSuccess) return code;
    memcpy(r->buffer[i], s->src, s->bytes);
    code = cudaMemcpyAsync(s->n > 0 ? r->rows[i] : s->dst, r->buffer[i], s->bytes,
                           cudaMemcpyHostToDevice, r->stream);
    if (code == cudaSuccess && s->n > 0)
        code = cuda_upload_pack(r, r->rows[i], s);
    return code == cudaSuccess ? cudaEventRecord(r->done[i], r->stream) : code;
}

/* Before a call's first slice. */
static cudaError_t cuda_upload_begin(const CudaUploadJob *job, CudaRunner *r) {
    const CudaUpload *u = job->device->upload;
    cudaError_t code = cudaSetDevice(job->device->base.id);
    if (code == cudaSuccess && r->stream == NULL)
        code = cuda_upload_open_runner(r, u->buffer_bytes);
    return code == cudaSuccess ? cudaStreamWaitEvent(r->stream, u->begin, 0) : code;
}

static void cuda_upload_run(void *context, int64_t task, int32_t thread) {
    CudaUploadJob *job = (CudaUploadJob *)context;
    CudaRunner *r = &job->device->upload->runner[task];
    (void)thread;
    r->failure = cudaSuccess;
    for (bool first = true; r->failure == cudaSuccess; first = false) {
        const int64_t i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (i >= job->n) return;
        if (first) r->failure = cuda_upload_begin(job, r);
        if (r->failure == cudaSuccess) r->failure = cuda_upload_slice(r, &job->slice[i]);
    }
}

static Status cuda_upload_slices(OpCtx *ctx, const CudaUploadPiece *slice, int64_t n, Err *err) {
    CudaDevice *d = cuda_of(ctx);
    size_t bytes = CUDA_UPLOAD_SLICE;
    for (int64_t i = 0; i < n; i++) bytes = MAX(bytes, slice[i].bytes);
    TRY(cuda_upload_open(d, ctx->pool != NULL ? pool_threads(ctx->pool) : 1, bytes, err));
    CudaUpload *u = d->upload;
    CudaUploadJob job = {d, slice, n, 0};
    cudaError_t code = cudaEventRecord(u->begin, d->stream);
    if (code == cudaSuccess) pool_run(ctx->pool, u->n_runners, cuda_upload_run, &job);
    for (int i = 0; i < u->n_runners && code == cudaSuccess; i++) {
        CudaRunner *r = &u->runner[i];
        code = r->failure;
        if (code == cudaSuccess && r->stream != NULL)
            code = cudaStreamWaitEvent(d->stream, r->done[r->turn], 0);
    }
    return code == cudaSuccess ? OK : cuda_fail(code, "upload of weights", err);
}

Status cuda_upload(OpCtx *ctx, const CudaUploadPiece *piece, int32_t n, Err *err) {
    size_t bytes = 0;
    int64_t n_slices = 0;
    for (int32_t i = 0; i < n; i++) bytes += piece[i].bytes;
    /* So that there is something for every runner. */
    const size_t share = bytes / CUDA_UPLOAD_RUNNERS / CUDA_UPLOAD_BUFFERS;
    const size_t size =
        MIN(MAX(share, (size_t)CUDA_UPLOAD_SLICE_MIN), (size_t)CUDA_UPLOAD_SLICE);
    for (int32_t i = 0; i < n; i++) n_slices += cuda_upload_cut(&piece[i], size, NULL);
    CudaUploadPiece *slice = (CudaUploadPiece *)calloc((size_t)n_slices + 1, sizeof *slice);
    if (slice == NULL) FAIL(err, ERR_NOMEM, "no memory for the list of uploads");
    int64_t at = 0;
    for (int32_t i = 0; i < n; i++) at += cuda_upload_cut(&piece[i], size, slice + at);
    const Status status = cuda_upload_slices(ctx, slice, n_slices, err);
    free(slice);
    return status;
}

/* ---- small ones --------------------------------------------------------------------------- */

bool cuda_upload_is_small(const CudaDevice *d, size_t bytes) {
    return d->upload != NULL && bytes <= CUDA_UPLOAD_SMALL;
}

Status cuda_upload_small(CudaDevice *d, void *dst, const void *src, size_t bytes, Err *err) {
    CudaUpload *u = d->upload;
    if (u->ring_used + bytes > CUDA_UPLOAD_RING) {
        TRY(d->base.vtable->sync(&d->base, err));
        u->ring_used = 0;
    }
    char *from = u->ring + u->ring_used;
    memcpy(from, src, bytes);
    u->ring_used += ALIGN_UP(bytes, (size_t)16);
    return d->base.vtable->send(&d->base, dst, from, bytes, err);
}
