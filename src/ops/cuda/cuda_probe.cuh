/* cuda_probe: what this GPU can do, measured: for benchmarks. */
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes a second of reading `bytes` at p, a multiple of 16 and many times what the L2 cache holds:
 * the best of some runs. */
cudaError_t cuda_probe_read(cudaStream_t stream, int32_t n_sms, const void *p, size_t bytes,
                            double *rate);
/* Operations a second of bf16 products on all multiprocessors, sustained: the clock falls under
 * them within milliseconds. On Hopper those of warpgroups, which are faster. */
cudaError_t cuda_probe_products(cudaStream_t stream, int32_t n_sms, double *rate);
cudaError_t cuda_probe_products_sm90(cudaStream_t stream, int32_t n_sms, double *rate);
/* The compute capability that the kernels were compiled for which the device takes: 80, 90. Fails
 * where the plugin has none for it. */
cudaError_t cuda_probe_arch(int *out);
