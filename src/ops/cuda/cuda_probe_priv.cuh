/* cuda_probe_priv: what the probes share: operands, and the time of a launch. */
#pragma once

#include <cuda_bf16.h>

#include "ops/cuda/cuda_mma.cuh"
#include "ops/cuda/cuda_probe.cuh"

/* Numbers of [-1, 1) as operands: the power that a product takes depends on its bits. */
static __device__ __forceinline__ float probe_number(uint32_t i) {
    i = (i ^ i >> 16) * 0x7feb352du;
    i = (i ^ i >> 15) * 0x846ca68bu;
    return (float)(int32_t)(i ^ i >> 16) / 2147483648.0f;
}

/* Two of them. */
static __device__ __forceinline__ uint32_t probe_pair(uint32_t i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(probe_number(2 * i), probe_number(2 * i + 1));
    return *(const uint32_t *)&pair;
}

/* Seconds of one launch. */
template <typename Launch>
static cudaError_t probe_time(cudaStream_t stream, Launch launch, double *seconds) {
    cudaEvent_t begin = NULL, end = NULL;
    float ms = 0;
    cudaError_t code = cudaEventCreate(&begin);
    if (code == cudaSuccess) code = cudaEventCreate(&end);
    if (code == cudaSuccess) code = cudaEventRecord(begin, stream);
    if (code == cudaSuccess) {
        launch();
        code = cudaGetLastError();
    }
    if (code == cudaSuccess) code = cudaEventRecord(end, stream);
    if (code == cudaSuccess) code = cudaEventSynchronize(end);
    if (code == cudaSuccess) code = cudaEventElapsedTime(&ms, begin, end);
    if (begin != NULL) (void)cudaEventDestroy(begin);
    if (end != NULL) (void)cudaEventDestroy(end);
    *seconds = ms * 1e-3;
    return code;
}
