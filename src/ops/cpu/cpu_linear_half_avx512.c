/* cpu_linear_half_avx512: BF16 weights times activations rounded to bf16, with vdpbf16ps.
 *
 * Lane l of an accumulator adds the products of the elements 2 l and 2 l + 1 of each run of 32
 * along k, in order; the last run is filled with zeros. The instruction takes subnormal numbers for
 * zero and rounds to nearest even. Twice the products an FMA does, from half the bytes, and the
 * file's bytes are an operand as they are. */
#include "ops/cpu/cpu_linear_rows_avx512.h"

enum { HALF_RUN = 32 };

/* 32 activations of one token. */
typedef struct HalfRun {
    _Alignas(CACHE_LINE) uint16_t x[HALF_RUN];
} HalfRun;

#define ROWS_STEP  HALF_RUN
#define ROWS_BLOCK 2048 /* of 6 tokens 24 KB; 36 are too many beside the rows */

static inline RowsV rows_fma(RowsV x, RowsV w, RowsV sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

/* A tile's tokens lie run by run. */
static inline const void *rows_x_at(const LinearUnit *unit, int64_t token, int32_t n_tokens,
                                    int64_t from) {
    const HalfRun *half = (const HalfRun *)unit->half;
    return half + token * DIV_UP(unit->k, HALF_RUN) + from / HALF_RUN * n_tokens;
}

/* Zeros after the last element were written by half_round. */
static inline RowsV rows_x(const void *x, int64_t stride, int n_tokens, int t, int64_t i, int n) {
    (void)stride, (void)n;
    return _mm512_load_ps((const HalfRun *)x + i / HALF_RUN * n_tokens + t);
}

static inline RowsV half_load(const uint8_t *w, int64_t i, int n) {
    __mmask32 mask = (__mmask32)((1ull << n) - 1);
    __m512i v =
        n == HALF_RUN ? _mm512_loadu_si512(w + 2 * i) : _mm512_maskz_loadu_epi16(mask, w + 2 * i);
    return _mm512_castsi512_ps(v);
}

#include "ops/cpu/cpu_linear_rows_tmpl.h"

static void half_kernel(const RowsTile *tile, int32_t n_tokens, int32_t n_rows) {
    rows_kernel(tile, half_load, 2, n_tokens, n_rows);
}

static void half_unit(const LinearUnit *unit) {
    rows_unit(unit, half_kernel, 2);
}

/* Tokens are rounded 12 at a time, as two tiles. */
static int32_t half_round_tokens(int64_t tokens_left) {
    return tokens_left >= 2 * ROWS_TOKENS ? 2 * ROWS_TOKENS : rows_tokens(tokens_left);
}

/* As half.h rounds, without a detour for subnormals: the products take them for zero anyway. */
static void half_round(const float *const *x, int32_t n_tokens, int64_t k, bool f16, uint8_t *out) {
    CHECK(!f16);
    for (int32_t first = 0, last; first < n_tokens; first = last) {
        last = first + rows_tokens(n_tokens - first);
        for (int64_t i = 0; i < k; i += HALF_RUN) {
            int64_t n = MIN(k - i, (int64_t)HALF_RUN);
            __mmask32 mask = (__mmask32)((1ull << n) - 1);
            for (int32_t t = first; t < last; t++, out += sizeof(HalfRun)) {
                __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x[t] + i);
                __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x[t] + i + 16);
                _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
        }
    }
}

const LinearHalf CPU_LINEAR_HALF_AVX512 = {.token_bytes = sizeof(HalfRun),
                                           .unit_rows = LINEAR_PLAIN_MANY_ROWS,
                                           .unit_bytes = LINEAR_PLAIN_BYTES,
                                           .few_tokens = LINEAR_PLAIN_FEW_TOKENS,
                                           .tile = half_round_tokens,
                                           .round = half_round,
                                           .unit = half_unit};
