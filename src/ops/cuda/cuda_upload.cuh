/* cuda_upload: bytes and rows of weights from the host's memory to the device, at the speed of the
 * link and by several threads. Used by the thread that loads a model, until its weights are there.
 */
#pragma once

#include "ops/cuda/cuda_common.cuh"
#include "ops/cuda/cuda_linear.cuh"
#include "ops/cuda/cuda_quant.cuh"

/* What goes up in one piece. */
struct CudaUploadPiece {
    const char *src; /* of the host */
    char *dst;       /* of the device; of packed rows the first byte of a block row */
    size_t bytes;    /* of src */
    int32_t n, k;    /* rows of dtype to pack; n 0: bytes as they are */
    DType dtype;
    bool units; /* by cuda_quant_pack; else by cuda_linear_pack */
    CudaLinearRows order;
};

/* Queues all pieces. When it returns src is free again; the device's stream waits for them, and
 * they for what it had before. */
Status cuda_upload(OpCtx *ctx, const CudaUploadPiece *piece, int32_t n, Err *err);

/* Whether so few bytes can go up without a wait for all that was queued before. */
bool cuda_upload_is_small(const CudaDevice *device, size_t bytes);
/* Queues them; src is free again. */
Status cuda_upload_small(CudaDevice *device, void *dst, const void *src, size_t bytes, Err *err);

/* Gives back what uploads took; nothing may be queued any more. */
void cuda_upload_close(CudaDevice *device);
