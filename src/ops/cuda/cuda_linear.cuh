/* cuda_linear: the bf16 matrix product on Hopper, y[t, i] = sum_j x[t, j] * w[i, j].
 *
 * Same bits: k is cut into segments by the shape (n, k) of the weight alone. Each segment is summed
 * from zero by the tensor cores, 16 columns at a time in rising order, and the segment sums are
 * added in rising order. The small kernel gives each segment to one CTA of a cluster and adds
 * through shared memory; the large ones walk all segments with a second set of sums, or give one or
 * two to a CTA and add through global memory. All multiply with the same instruction, weights in
 * its 64 rows and tokens in its columns.
 *
 * Weights are packed: blocks of 64 rows and 64 columns, 8 KiB each, zeros outside the matrix,
 * block rows outermost; within a block the 16-byte piece c of row r stands at r * 128 + ((c ^ r
 * % 8) * 16). Nothing here allocates or waits for the device; launches can be captured in
 * graphs. */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CUDA_LINEAR_BLOCK = 64, /* rows and columns of a packed block */
    CUDA_LINEAR_BLOCK_BYTES = CUDA_LINEAR_BLOCK * CUDA_LINEAR_BLOCK * 2,
    CUDA_LINEAR_PARTS_MAX = 3,
    CUDA_LINEAR_K_MULTIPLE = 8, /* k, the strides of x and its address in elements */
    CUDA_LINEAR_EXPERTS_MAX = 512,
    CUDA_LINEAR_WHOLE_TOKENS = 512, /* at least, of a product whose k may be in one segment */
    CUDA_LINEAR_FEW_TOKENS = 8,     /* at most, of the kernel for few */
    CUDA_LINEAR_NORM_TOKENS = 4,    /* at most, that it normalizes, and their columns */
    CUDA_LINEAR_NORM_K_MAX = 4096,
    CUDA_LINEAR_TOKENS_MAX = 256,   /* of a tile */
    CUDA_LINEAR_CTAS_MAX = 132,     /* of the large kernel */
    CUDA_LINEAR_SUMS_BYTES = CUDA_LINEAR_CTAS_MAX * 128 * 256 * 4,
    CUDA_LINEAR_COUNTERS = 2 * CUDA_LINEAR_CTAS_MAX
};

#ifdef __CUDACC__
#define CUDA_LINEAR_INLINE static inline __host__ __device__
#else
#define CUDA_LINEAR_INLINE static inline
#endif

/* Where element (row, column) of a packed matrix of k columns stands, in bytes. */
CUDA_LINEAR_INLINE size_t cuda_linear_offset(int64_t row, int64_t column, int64_t k) {
    int64_t k_blocks = (k + CUDA_LINEAR_BLOCK - 1) / CUDA_LINEAR_BLOCK;
    int64_t block = row / CUDA_LINEAR_BLOCK * k_blocks + column / CUDA_LINEAR_BLOCK;
    int64_t r = row % CUDA_LINEAR_BLOCK, c = column % CUDA_LINEAR_BLOCK;
    return (size_t)(block * CUDA_LINEAR_BLOCK_BYTES + r * 128 + ((c / 8 ^ r % 8) * 16) + c % 8 * 2);
}

/* Bytes of a packed matrix [n, k]. */
CUDA_LINEAR_INLINE size_t cuda_linear_packed_bytes(int64_t n, int64_t k) {
    int64_t row_blocks = (n + CUDA_LINEAR_BLOCK - 1) / CUDA_LINEAR_BLOCK;
    return cuda_linear_offset(row_blocks * CUDA_LINEAR_BLOCK, 0, k);
}

/* Which rows of the packed matrix the rows of a source become. */
typedef enum CudaLinearRows {
    CUDA_LINEAR_ROWS_PLAIN, /* row r */
    CUDA_LINEAR_ROWS_GATE,  /* row r / 8 * 16 + r % 8 */
    CUDA_LINEAR_ROWS_UP     /* row r / 8 * 16 + 8 + r % 8 */
} CudaLinearRows;

/* Packs src, [n, k] bf16 in device memory with rows `stride` elements apart, into dst, the first
 * byte of a block row of a packed matrix. What a source does not cover must have been set to
 * zero. */
cudaError_t cuda_linear_pack(cudaStream_t stream, const void *src, int64_t stride, int32_t n,
                             int32_t k, CudaLinearRows rows, void *dst);

typedef enum CudaLinearOut {
    CUDA_LINEAR_BF16,    /* out = y */
    CUDA_LINEAR_F32,     /* out = y */
    CUDA_LINEAR_F32_ADD, /* out += y */
    CUDA_LINEAR_GATED    /* bf16 out[t, i] = act(gate row i) * (up row i) */
} CudaLinearOut;

typedef enum CudaLinearAct {
    CUDA_LINEAR_SILU,
    CUDA_LINEAR_GELU,
    CUDA_LINEAR_GELU_TANH,
    CUDA_LINEAR_RELU
} CudaLinearAct;

/* Rows of the packed matrix that form one output; each part begins at a block row. */
typedef struct CudaLinearPart {
    void *out;
    int64_t out_stride; /* elements from one token to the next */
    const float *bias;  /* [n], or NULL; for GATED one per packed row */
    int32_t n;          /* outputs per token; for GATED half the rows, which are padded to 16 */
} CudaLinearPart;

/* The RMS-norm of a product's rows. */
typedef struct CudaLinearNorm {
    const float *x, *w; /* [n_tokens, k], [k], 16-byte aligned */
    int64_t stride;     /* of x, a multiple of 4 */
    float eps;
} CudaLinearNorm;

typedef struct CudaLinearArgs {
    const void *x; /* [n_tokens, k] bf16, 16-byte aligned */
    int64_t x_stride;
    int32_t n_tokens, k;
    CudaLinearOut out;
    CudaLinearAct act;
    const void *w; /* packed */
    int32_t n_parts;
    CudaLinearPart part[CUDA_LINEAR_PARTS_MAX];
    /* Mixture of experts: row t of x and out belongs to the expert e with expert_start[e] <= t <
     * expert_start[e + 1]; w is not read, n_tokens is expert_start[n_experts] or more. The
     * number of segments is one. */
    int32_t n_experts;           /* 0: none */
    const void *const *expert_w; /* [n_experts] packed, in device memory */
    const int32_t *expert_start; /* [n_experts + 1] in device memory */
    /* norm.x is not NULL: the rows are those of norm.x, normalized and rounded to bf16, and x is
     * not read. cuda_linear_can_norm says where. The bits are those of a norm of its own. */
    CudaLinearNorm norm;
    /* Where CTAs meet that make a tile together: CUDA_LINEAR_SUMS_BYTES of anything and
     * CUDA_LINEAR_COUNTERS zeros, which every launch leaves as zeros. For one stream at a time.
     * NULL: every CTA makes whole tiles, which is slower for few of them. */
    void *sums;
    uint32_t *n_arrived;
    /* k may be in one segment, which is faster for many tokens and has other bits. */
    bool whole;
    /* Launch as a dependent of the kernel before it in the stream: weights are fetched while that
     * still runs. Right in any stream order. */
    bool dependent;
} CudaLinearArgs;

/* Whether the product can normalize rows of these sizes itself. */
bool cuda_linear_can_norm(int64_t n_tokens, int64_t k);

/* Queues the product. */
cudaError_t cuda_linear(cudaStream_t stream, const CudaLinearArgs *args);

/* How a launch is cut; it shows in the time alone. For tests and benchmarks. */
typedef struct CudaLinearPlan {
    bool large;
    int32_t tile_tokens; /* small: 8, 16, 32, 64, 128; large: 128, 192, 256 */
    int32_t tile_rows;   /* small: 64, 128; large: 128, or 256 (see cuda_linear_tall.cu) */
    int32_t n_stages;    /* 2 or more */
    int32_t n_ctas;      /* of the grid, at most */
    bool split;          /* large: a CTA makes one segment of a tile, all CTAs at once */
    bool few;            /* up to 8 tokens in tiles of 16 or 32 rows, with a norm or without */
    bool halves;         /* large, 256 tokens: the tiles of the last round in halves */
    bool twin;           /* large, 256 tokens: two CTAs make the four segments of a tile */
} CudaLinearPlan;

CudaLinearPlan cuda_linear_plan(const CudaLinearArgs *args);
cudaError_t cuda_linear_run(cudaStream_t stream, const CudaLinearArgs *args,
                            const CudaLinearPlan *plan);
/* The number of segments of k for a matrix of n packed rows. */
int32_t cuda_linear_segments(int64_t n, int64_t k);
