/* cuda_common: what every file of the CUDA plugin starts from: the device, launches, conversions
 * and sums in a fixed order.
 *
 * Every kernel is launched so that on Hopper it may start before the one in front of it has ended
 * (programmatic dependent launch): it calls cuda_wait() before it touches anything that another
 * kernel writes.
 *
 * cuda_linear*, cuda_attn* and cuda_probe_sm90 are for Hopper alone and compiled for nothing else;
 * all other files need compute capability 8.0. Which of them serve a GPU is known when it is opened
 * (is_hopper): it decides how weights are packed, and what is packed for Hopper goes to Hopper's
 * kernels. */
#pragma once

/* C headers are read as C++ here. */
#define _Static_assert static_assert
#define _Alignof alignof

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math_constants.h>

#include "ops/plugin.h"

enum { CUDA_WARP = 32 };

/* One GPU. The first failure of a call or launch is kept until somebody can be told. */
struct CudaDevice {
    Device base;
    cudaStream_t stream;
    int n_sms;
    bool is_hopper;       /* the kernels for compute capability 9.0 run here */
    int32_t norm_dim_max; /* a row that is normalized stands in shared memory */
    cudaError_t failure;
    const char *failed_call;
    struct CudaArena *arena; /* weights; see cuda_weight.cu */
    struct CudaUpload *upload; /* while a model is loaded; see cuda_upload.cuh */
    void *sums; /* where the CTAs of Hopper's products meet, else NULL; see cuda_linear.cuh */
    uint32_t *n_arrived;
};

static inline CudaDevice *cuda_of(const OpCtx *ctx) {
    return (CudaDevice *)ctx->device;
}

/* Remembers a failure of `call`. */
static inline bool cuda_note(CudaDevice *device, cudaError_t code, const char *call) {
    if (code == cudaSuccess) return true;
    if (device->failure == cudaSuccess) {
        device->failure = code;
        device->failed_call = call;
    }
    (void)cudaGetLastError();
    return false;
}

/* The error of a call that takes memory or fills it. */
static inline Status cuda_fail(cudaError_t code, const char *call, Err *err) {
    (void)cudaGetLastError();
    FAIL(err, code == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "cuda: %s: %s", call,
         cudaGetErrorString(code));
}

template <typename... P, typename... A>
static inline void cuda_launch(const OpCtx *ctx, const char *name, void (*kernel)(P...), dim3 grid,
                               dim3 block, size_t shared_bytes, A... args) {
    CudaDevice *device = cuda_of(ctx);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    cudaLaunchAttribute early;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = device->stream;
    config.attrs = &early;
    config.numAttrs = device->is_hopper ? 1 : 0;
    cuda_note(device, cudaLaunchKernelEx(&config, kernel, P(args)...), name);
}

/* Lets the next kernel start, then waits for the end of the one before. */
static __device__ __forceinline__ void cuda_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Asks for n floats that no kernel writes, before cuda_wait: they come while that one waits. */
static __device__ __forceinline__ void cuda_prefetch(const float *x, int n) {
    if (x == NULL) return;
    for (int i = threadIdx.x * 32; i < n; i += blockDim.x * 32)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(x + i));
}

/* ---- numbers ------------------------------------------------------------------------------ */

static __device__ __forceinline__ float cuda_to_f32(float x) {
    return x;
}
static __device__ __forceinline__ float cuda_to_f32(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
static __device__ __forceinline__ float cuda_to_f32(__half x) {
    return __half2float(x);
}
static __device__ __forceinline__ void cuda_put(float *to, float x) {
    *to = x;
}
static __device__ __forceinline__ void cuda_put(__nv_bfloat16 *to, float x) {
    *to = __float2bfloat16_rn(x);
}
static __device__ __forceinline__ void cuda_put(__half *to, float x) {
    *to = __float2half_rn(x);
}

/* Calls f with a value of the type that a plain dtype stands for. */
template <typename F> static inline void cuda_by_dtype(DType dtype, F f) {
    if (dtype == DTYPE_F32) {
        f(float());
    } else if (dtype == DTYPE_BF16) {
        f(__nv_bfloat16());
    } else {
        CHECK(dtype == DTYPE_F16);
        f(__half());
    }
}

/* ---- sums in a fixed order ---------------------------------------------------------------- */

static __device__ __forceinline__ float cuda_warp_sum(float x) {
    for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

static __device__ __forceinline__ float cuda_warp_max(float x) {
    for (int i = 16; i > 0; i >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

/* The sum over a block of whole warps; every thread gets it. */
static __device__ __forceinline__ float cuda_block_sum(float x) {
    __shared__ float part[32];
    int lane = threadIdx.x % CUDA_WARP, n_warps = blockDim.x / CUDA_WARP;
    x = cuda_warp_sum(x);
    __syncthreads();
    if (lane == 0) part[threadIdx.x / CUDA_WARP] = x;
    __syncthreads();
    return cuda_warp_sum(lane < n_warps ? part[lane] : 0.0f);
}

static __device__ __forceinline__ float cuda_block_max(float x) {
    __shared__ float part[32];
    int lane = threadIdx.x % CUDA_WARP, n_warps = blockDim.x / CUDA_WARP;
    x = cuda_warp_max(x);
    __syncthreads();
    if (lane == 0) part[threadIdx.x / CUDA_WARP] = x;
    __syncthreads();
    return cuda_warp_max(lane < n_warps ? part[lane] : -CUDART_INF_F);
}

/* ---- the ops of the table, one file each -------------------------------------------------- */

void cuda_embed(OpCtx *ctx, const EmbedArgs *args);
void cuda_embed_gather(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                       Tensor *out);
void cuda_norm(OpCtx *ctx, const NormArgs *args);
void cuda_product(OpCtx *ctx, const LinearArgs *args);
void cuda_product_gated(OpCtx *ctx, const GatedArgs *args);
size_t cuda_product_scratch_bytes(const OpsLimits *limits);
void cuda_rope(OpCtx *ctx, const RopeKvArgs *args);
void cuda_attend(OpCtx *ctx, const AttnArgs *args);
size_t cuda_attend_plan_bytes(const OpsLimits *limits);
void cuda_attend_plan_open(OpCtx *ctx, AttnPlan *plan);
void cuda_attend_plan(OpCtx *ctx, const AttnArgs *args);
void cuda_act(OpCtx *ctx, const ActArgs *args);
void cuda_act_softcap(OpCtx *ctx, Tensor x, float cap);
void cuda_moe_route(OpCtx *ctx, const MoeRouteArgs *args);
void cuda_moe(OpCtx *ctx, const MoeArgs *args);
size_t cuda_moe_scratch_bytes(const OpsLimits *limits);
void cuda_sample(OpCtx *ctx, const SampleArgs *args);
size_t cuda_sample_scratch_bytes(const OpsLimits *limits);
Status cuda_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
Status cuda_weight_table(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
Status cuda_weight_experts(OpCtx *ctx, const ExpertsFile *file, int32_t n, Weight *gate, Weight *up,
                           Weight *down, Err *err);
Status cuda_weight_gated(OpCtx *ctx, const Tensor *gate, const Tensor *up, Weight *out_gate,
                         Weight *out_up, Err *err);
Status cuda_weight_parts(OpCtx *ctx, const Tensor *file, int32_t n, Weight *const *out, Err *err);
void cuda_weight_release(OpCtx *ctx, Weight *weight);
Status cuda_weight_ready(OpCtx *ctx, Err *err);
void cuda_weight_close(CudaDevice *device);
