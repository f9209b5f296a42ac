/* cuda_probe_sm90: multiplying at full speed on Hopper. */
#include "ops/cuda/cuda_probe_priv.cuh"
#include "ops/cuda/cuda_tma.cuh"

enum {
    PROBE_COLUMNS = 256, /* of a product, by 64 rows of each of two warpgroups */
    PROBE_GROUPS = 2,
    PROBE_THREADS = PROBE_GROUPS * 128,
    PROBE_BLOCKS = 4, /* of 64 columns of k, so that operands differ from one to the next */
    PROBE_TILE_BYTES = 64 * 128,
    PROBE_ROWS = PROBE_GROUPS * 64 + PROBE_COLUMNS,
    PROBE_SMEM_BYTES = PROBE_BLOCKS * PROBE_ROWS * 128,
    PROBE_LOOPS = 5000 /* some 30 ms */
};

static __global__ void __launch_bounds__(PROBE_THREADS, 1)
    probe_products(int32_t n_loops, float *out) {
    extern __shared__ char dynamic[];
    char *stages = dynamic + (-cuda_smem_addr(dynamic) & 1023);
    const int32_t group = (int32_t)threadIdx.x / 128;
    __nv_bfloat16 *number = (__nv_bfloat16 *)stages;
    for (int32_t i = threadIdx.x; i < PROBE_SMEM_BYTES / 2; i += PROBE_THREADS) {
        number[i] = __float2bfloat16_rn(probe_number((uint32_t)i));
    }
    cuda_fence_async();
    __syncthreads();
    const uint32_t smem = cuda_smem_addr(stages);
    float d[PROBE_COLUMNS / 2] = {};
    for (int32_t loop = 0; loop < n_loops; loop++) {
        cuda_mma_fence();
#pragma unroll
        for (int32_t b = 0; b < PROBE_BLOCKS; b++) {
            const uint32_t block = smem + b * PROBE_ROWS * 128;
            const uint64_t rows = cuda_mma_desc(block + group * PROBE_TILE_BYTES);
            const uint64_t columns = cuda_mma_desc(block + PROBE_GROUPS * PROBE_TILE_BYTES);
#pragma unroll
            for (int32_t j = 0; j < 4; j++) {
                cuda_mma<PROBE_COLUMNS>(d, rows + j * 2, columns + j * 2, 1);
            }
        }
        cuda_mma_commit();
        cuda_mma_wait<0>();
        cuda_mma_pin(d);
    }
    float sum = 0;
    for (int32_t i = 0; i < PROBE_COLUMNS / 2; i++) sum += d[i];
    if (out != NULL) atomicAdd(out, sum);
}

cudaError_t cuda_probe_products_sm90(cudaStream_t stream, int32_t n_sms, double *rate) {
    const int32_t bytes = PROBE_SMEM_BYTES + 1024;
    double seconds = 0;
    cudaError_t code =
        cudaFuncSetAttribute(probe_products, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    for (int32_t i = 0; i < 2 && code == cudaSuccess; i++) { /* the first warms up */
        code = probe_time(
            stream,
            [&] { probe_products<<<n_sms, PROBE_THREADS, bytes, stream>>>(PROBE_LOOPS, NULL); },
            &seconds);
    }
    const double operations =
        2.0 * n_sms * PROBE_LOOPS * PROBE_BLOCKS * 64 * PROBE_GROUPS * 64 * PROBE_COLUMNS;
    *rate = code == cudaSuccess ? operations / seconds : 0;
    return code;
}
