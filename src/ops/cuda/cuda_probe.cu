/* cuda_probe: reading and multiplying at full speed, timed on the device. */
#include "ops/cuda/cuda_probe_priv.cuh"

enum {
    PROBE_READS = 12,
    PROBE_TILES = 8, /* of 16 x 8 sums, by one warp */
    PROBE_WARPS = 8,
    PROBE_LOOPS = 40000
};

/* out is NULL, which the compiler does not know: no read can be left out. */
static __global__ void probe_read(const uint4 *p, int64_t n, uint32_t *out) {
    uint32_t sum = 0;
#pragma unroll 8
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        uint4 v = __ldcs(&p[i]);
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (out != NULL) atomicAdd(out, sum);
}

/* Products of a warp, out of registers. */
static __global__ void __launch_bounds__(PROBE_WARPS * 32)
    probe_products(int32_t n_loops, float *out) {
    uint32_t a[4], b[2];
    for (uint32_t i = 0; i < 4; i++) a[i] = probe_pair(threadIdx.x * 6 + i);
    for (uint32_t i = 0; i < 2; i++) b[i] = probe_pair(threadIdx.x * 6 + 4 + i);
    float d[PROBE_TILES][4] = {};
    for (int32_t loop = 0; loop < n_loops; loop++) {
#pragma unroll
        for (int32_t t = 0; t < PROBE_TILES; t++)
            cuda_mma_warp(d[t][0], d[t][1], d[t][2], d[t][3], a, b[0], b[1]);
    }
    float sum = 0;
    for (int32_t i = 0; i < PROBE_TILES * 4; i++) sum += d[i / 4][i % 4];
    if (out != NULL) atomicAdd(out, sum);
}

cudaError_t cuda_probe_read(cudaStream_t stream, int32_t n_sms, const void *p, size_t bytes,
                            double *rate) {
    *rate = 0;
    for (int32_t i = 0; i < PROBE_READS; i++) {
        double seconds;
        cudaError_t code = probe_time(
            stream,
            [&] {
                probe_read<<<n_sms * 8, 512, 0, stream>>>((const uint4 *)p, (int64_t)(bytes / 16),
                                                        NULL);
            },
            &seconds);
        if (code != cudaSuccess) return code;
        if ((double)bytes / seconds > *rate) *rate = (double)bytes / seconds;
    }
    return cudaSuccess;
}

cudaError_t cuda_probe_products(cudaStream_t stream, int32_t n_sms, double *rate) {
    const int32_t n_ctas = n_sms * 2;
    double seconds = 0;
    cudaError_t code = cudaSuccess;
    for (int32_t i = 0; i < 2 && code == cudaSuccess; i++) { /* the first warms up */
        code = probe_time(
            stream,
            [&] { probe_products<<<n_ctas, PROBE_WARPS * 32, 0, stream>>>(PROBE_LOOPS, NULL); },
            &seconds);
    }
    const double operations =
        2.0 * n_ctas * PROBE_WARPS * PROBE_LOOPS * PROBE_TILES * 16 * 8 * 16;
    *rate = code == cudaSuccess ? operations / seconds : 0;
    return code;
}

cudaError_t cuda_probe_arch(int *out) {
    cudaFuncAttributes attributes = {};
    const cudaError_t code = cudaFuncGetAttributes(&attributes, probe_read);
    *out = attributes.ptxVersion;
    return code;
}
