/* cpu_pack: how weights lie in memory for the matrix kernels of the CPU levels.
 *
 * F32, F16 and BF16 stay where they are, in the file's mapping (CPU_LAYOUT_FILE). Block formats are
 * repacked to panels of 16 rows (CPU_LAYOUT_PANEL), so that lane r of a vector is row r: a group's
 * integer dot products end in one vector without sums across lanes, its 16 scales are one load, and
 * a panel is one run of memory. A group of 16 rows takes the bytes that it takes in the file:
 *
 *   word 0 of rows 0..15 | word 1 of rows 0..15 | ... | half 0 of rows 0..15 | ... | byte of rows
 *   `-- 64 bytes, aligned like the group ------'        `-- 32 bytes -------'
 *
 * The words are the file's little-endian 32-bit words of quants, masks and small scales in their
 * order (Q3_K, Q6_K: in the order of their use); halves are the f16 scales (and IQ4_XS's
 * scales_h), the byte is MXFP4's exponent. Two changes of bits: Q8_0's quants have their sign bit
 * flipped (unsigned, 128 more), and the word qh of Q5_0 and Q5_1 has bit 4 i + b moved to bit
 * 8 b + i, so that one shift gives four elements their high bit. Rows past the last are zero
 * groups. */
#pragma once

#include "ops/ops.h"

enum { CPU_LAYOUT_FILE = 0, CPU_LAYOUT_PANEL = 1 };
enum { PACK_ROWS = 16 };

/* Where the parts of a group stand in the file. */
typedef struct PackFormat {
    int32_t word_at, n_words;
    int32_t half_at, n_halves;
    int32_t byte_at, n_bytes;
    uint32_t flip;        /* xor for every word */
    bool spread_word_0;   /* qh of Q5_0 and Q5_1 */
    const uint8_t *order; /* the file's word at each place, or NULL: as they are */
} PackFormat;

/* NULL for formats that are not packed. */
const PackFormat *cpu_pack_format(DType dtype);
/* Bytes of a panel of a matrix with rows of k elements. */
int64_t cpu_pack_panel_bytes(DType dtype, int64_t k);

/* ops->weight_prepare and weight_release of the CPU levels. Packing runs on all threads.
 * ERR_UNSUPPORTED: a format without kernels; ERR_NOMEM. */
Status cpu_pack_weight_prepare(OpCtx *ctx, const Tensor *file, Weight *out, Err *err);
void cpu_pack_weight_release(OpCtx *ctx, Weight *weight);
