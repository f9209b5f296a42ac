/* cuda_tma: Hopper's asynchronous copies and what orders them: mbarriers, bulk and tensor copies,
 * clusters, dependent launches.
 *
 * Thin functions over single PTX instructions, named after what they do. Addresses of shared memory
 * are the 32-bit ones of cuda_smem_addr. Every wait is bounded: a kernel whose copies never arrive
 * traps after some seconds.
 * source: PTX ISA 9.0, "Data Movement and Conversion", "Parallel Synchronization". */
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t cuda_smem_addr(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* One lane of the warp, the same in every call. */
static __device__ __forceinline__ bool cuda_elect(void) {
    uint32_t pred;
    asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(pred));
    return pred != 0;
}

/* ---- mbarriers ---- */

static __device__ __forceinline__ void cuda_mbar_init(uint32_t bar, uint32_t n_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n_arrivals) : "memory");
}

/* Makes initialized barriers visible to the copy engine and to the cluster. */
static __device__ __forceinline__ void cuda_mbar_init_fence(void) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void cuda_mbar_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Arrives and announces bytes that copies will bring in this phase. */
static __device__ __forceinline__ void cuda_mbar_arrive_expect(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ bool cuda_mbar_try(uint32_t bar, uint32_t parity) {
    uint32_t done;
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
        "selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(bar), "r"(parity)
        : "memory");
    return done != 0;
}

/* Waits until the phase of this parity is complete. The order is the CTA's: one of the cluster
 * would cost an invalidation of the L1 cache each time. */
static __device__ __forceinline__ void cuda_mbar_wait(uint32_t bar, uint32_t parity) {
    uint32_t n_tries = 0;
    while (!cuda_mbar_try(bar, parity)) {
        if (++n_tries > (1u << 22)) __trap();
    }
}

/* ---- copies to shared memory; they complete on an mbarrier ---- */

/* How long the L2 cache should keep what a copy reads. */
static __device__ __forceinline__ uint64_t cuda_l2_evict_first(void) {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ uint64_t cuda_l2_evict_normal(void) {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* A contiguous run of global memory; addresses and bytes are multiples of 16. */
static __device__ __forceinline__ void cuda_bulk_load(uint32_t dst, const void *src, uint32_t bytes,
                                                      uint32_t bar, uint64_t policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1], %2, [%3], %4;" ::"r"(dst),
        "l"(src), "r"(bytes), "r"(bar), "l"(policy)
        : "memory");
}

/* A box of a matrix, its first element at column x of row y; elements outside the matrix are 0. */
static __device__ __forceinline__ void cuda_tma_load(uint32_t dst, const CUtensorMap *map,
                                                     int32_t x, int32_t y, uint32_t bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
        "l"(map), "r"(bar), "r"(x), "r"(y)
        : "memory");
}

static __device__ __forceinline__ void cuda_tma_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Makes this thread's writes to shared memory visible to the copy engine and the tensor cores. */
static __device__ __forceinline__ void cuda_fence_async(void) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- counters in global memory, between CTAs that run at once ---- */

/* Adds one. What the caller's CTA wrote before, in an order that reaches the caller, is done for
 * whoever sees the count. */
static __device__ __forceinline__ void cuda_count(uint32_t *counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

/* Adds one, without an order, and makes it 0 when that is the n-th. */
static __device__ __forceinline__ void cuda_count_off(uint32_t *counter, uint32_t n) {
    asm volatile("red.relaxed.gpu.global.inc.u32 [%0], %1;" ::"l"(counter), "r"(n - 1) : "memory");
}

/* Waits until the count is at least n. */
static __device__ __forceinline__ void cuda_count_wait(const uint32_t *counter, uint32_t n) {
    uint32_t count, n_tries = 0;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(count)
                     : "l"(counter)
                     : "memory");
        if (++n_tries > (1u << 24)) __trap();
    } while (count < n);
}

/* ---- clusters ---- */

static __device__ __forceinline__ uint32_t cuda_cluster_rank(void) {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

static __device__ __forceinline__ void cuda_cluster_arrive(void) {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

static __device__ __forceinline__ void cuda_cluster_wait(void) {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Writes four floats to a 16-byte aligned address of shared memory of a CTA of the cluster; its
 * barrier counts the 16 bytes. */
static __device__ __forceinline__ void cuda_cluster_push(uint32_t addr, uint32_t bar, uint32_t cta,
                                                         float4 v) {
    asm volatile(
        "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 bar, "
        "%1, %2;"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %4, %5, %6}, "
        "[bar];}" ::"r"(addr),
        "r"(bar), "r"(cta), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
        : "memory");
}

/* ---- programmatic dependent launch ---- */

/* Waits until the kernels before this one have ended and their writes are visible. Every kernel
 * of a chain calls it before it reads or writes what another kernel writes or reads. */
static __device__ __forceinline__ void cuda_launch_wait(void) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Allows the next kernel of the stream to start while this one still runs. */
static __device__ __forceinline__ void cuda_launch_next(void) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* ---- register budgets ---- */

/* Changes the register budget of the calling warpgroup. */
template <int n>
static __device__ __forceinline__ void cuda_regs_raise(void) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

template <int n>
static __device__ __forceinline__ void cuda_regs_lower(void) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

/* A barrier of n threads of the CTA, by number (0 is __syncthreads). */
static __device__ __forceinline__ void cuda_bar_sync(uint32_t id, uint32_t n) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* Adds to four floats in global memory, 16-byte aligned. */
static __device__ __forceinline__ void cuda_red_add(float *p, float4 v) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y),
                 "f"(v.z), "f"(v.w)
                 : "memory");
}
