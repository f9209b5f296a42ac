/* cuda_mask: which keys a query sees. */
#pragma once

#include <stdint.h>

/* Positions [lo, hi) of the keys. */
typedef struct MaskRange {
    int32_t lo, hi;
} MaskRange;

/* What the query at position pos sees of kv_len keys. */
static __device__ __forceinline__ MaskRange cuda_mask_range(int32_t pos, int32_t kv_len,
                                                            int32_t window, bool causal) {
    MaskRange range;
    range.lo = window > 0 && pos >= window ? pos - window + 1 : 0;
    range.hi = causal ? pos + 1 : kv_len;
    return range;
}

/* Sets the logits of keys outside a row's range to -inf. s: accumulators of a warpgroup's tile (see
 * cuda_mma.cuh), whose first column is the key at `key` for the calling thread; of its two rows the
 * first n_rows are done. */
template <int n_rows = 2, int n>
static __device__ __forceinline__ void cuda_mask_tile(float (&s)[n], int32_t key,
                                                      const MaskRange (&row)[2]) {
#pragma unroll
    for (int i = 0; i < n; i++) {
        int32_t at = key + i / 4 * 8 + i % 2;
        int h = i / 2 % 2;
        if (h < n_rows && (at < row[h].lo || at >= row[h].hi)) s[i] = -INFINITY;
    }
}
