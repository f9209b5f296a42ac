/* cpu_expand_tmpl: subgroups of a packed panel in their expanded form (cpu_linear_priv.h).
 *
 * The includer defines the rest of cpu_unpack_tmpl.h and
 *
 *   UNPACK_LANES    16, or 8: then a panel is expanded in two halves
 *   EXPAND_SIGNED   whether a format's offset is taken from the bytes, which then are signed */
#pragma once

#include "ops/cpu/cpu_linear_priv.h"
#include "ops/cpu/cpu_unpack_tmpl.h"
#include "ops/cpu/cpu_unroll.h"

enum { EXPAND_HALVES = 16 / UNPACK_LANES };

typedef uint8_t UnpackB __attribute__((vector_size(4 * UNPACK_LANES)));
typedef void Unpack(const uint8_t *group, int s, int half, UnpackGroup *out);
/* Of the n subgroups of a panel from the first-th. ahead: the distance from a group's bytes to what
 * is asked for with it, or 0. */
typedef void Expand(const uint8_t *panel, int64_t first, int64_t n, int64_t ahead, uint8_t *out);

/* Part i of n of the group's bytes at `ahead` from it: spread over the work, since a burst of
 * requests fills the core's line buffers and stalls it. */
static UNPACK_INLINE void expand_prefetch(const uint8_t *group, int64_t ahead,
                                          const LinearFormat *f, int i, int n) {
    int n_lines = DIV_UP(f->group_bytes * PACK_ROWS, CACHE_LINE);
    int first = n_lines * i / n, count = n_lines * (i + 1) / n - first; /* at most Q8_0's 9 */
    CPU_UNROLL(9)
    for (int line = 0; line < 9; line++)
        if (line < count) __builtin_prefetch(group + ahead + (first + line) * CACHE_LINE);
}

static UNPACK_INLINE void expand_store(const UnpackGroup *w, const LinearFormat *f, uint8_t *out) {
    const int n_scales = f->has_scale_16 ? 2 : 1;
    CPU_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        UnpackB bytes = (UnpackB)w->u[i] - (uint8_t)(EXPAND_SIGNED ? f->offset : 0);
        memcpy(out + 64 * i, &bytes, sizeof bytes);
    }
    CPU_UNROLL(2)
    for (int i = 0; i < n_scales; i++) {
        memcpy(out + 64 * (8 + i), &w->scale[i], sizeof w->scale[i]);
        if (f->has_min) memcpy(out + 64 * (8 + n_scales + i), &w->min[i], sizeof w->min[i]);
    }
}

/* The expanded form (cpu_linear_priv.h) of subgroups s and, if there are several, s + 1 of a group;
 * s is a constant. Both are unpacked before the first store, so that they share loads. */
static UNPACK_INLINE void expand_some(const uint8_t *group, int s, int64_t ahead, Unpack *unpack,
                                      const LinearFormat *f, uint8_t *out) {
    const int n = f->n_subgroups > 1 ? 2 : 1;
    CPU_UNROLL(2)
    for (int i = 0; i < n && ahead != 0; i++)
        expand_prefetch(group, ahead, f, s + i, f->n_subgroups);
    CPU_UNROLL(2)
    for (int half = 0; half < EXPAND_HALVES; half++, out += 32) {
        UnpackGroup w[2];
        CPU_UNROLL(2)
        for (int i = 0; i < n; i++) unpack(group, s + i, half, &w[i]);
        CPU_UNROLL(2)
        for (int i = 0; i < n; i++) expand_store(&w[i], f, out + i * cpu_linear_expanded_bytes(f));
    }
}

/* first and n are even where groups have several subgroups. */
static UNPACK_INLINE void expand_panel(const uint8_t *panel, int64_t first, int64_t n,
                                       int64_t ahead, Unpack *unpack, const LinearFormat *f,
                                       uint8_t *out) {
    const int step = f->n_subgroups > 1 ? 2 : 1;
    for (int64_t i = first; i < first + n; i += step, out += step * cpu_linear_expanded_bytes(f)) {
        const uint8_t *group = panel + i / f->n_subgroups * f->group_bytes * PACK_ROWS;
        switch (i % f->n_subgroups) {
            case 0: expand_some(group, 0, ahead, unpack, f, out); break;
            case 2: expand_some(group, 2, ahead, unpack, f, out); break;
            case 4: expand_some(group, 4, ahead, unpack, f, out); break;
            case 6: expand_some(group, 6, ahead, unpack, f, out); break;
        }
    }
}

#define EXPAND(name, dtype)                                                                  \
    static void expand_##name(const uint8_t *panel, int64_t first, int64_t n, int64_t ahead, \
                              uint8_t *out) {                                                \
        expand_panel(panel, first, n, ahead, unpack_##name, &LINEAR_FORMAT[dtype], out);     \
    }

EXPAND(q4_0, DTYPE_Q4_0)
EXPAND(q4_1, DTYPE_Q4_1)
EXPAND(q5_0, DTYPE_Q5_0)
EXPAND(q5_1, DTYPE_Q5_1)
EXPAND(q8_0, DTYPE_Q8_0)
EXPAND(q2_k, DTYPE_Q2_K)
EXPAND(q3_k, DTYPE_Q3_K)
EXPAND(q4_k, DTYPE_Q4_K)
EXPAND(q5_k, DTYPE_Q5_K)
EXPAND(q6_k, DTYPE_Q6_K)
EXPAND(iq4_nl, DTYPE_IQ4_NL)
EXPAND(iq4_xs, DTYPE_IQ4_XS)
EXPAND(mxfp4, DTYPE_MXFP4)
#undef EXPAND

static Expand *const EXPAND[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = expand_q4_0,   [DTYPE_Q4_1] = expand_q4_1,     [DTYPE_Q5_0] = expand_q5_0,
    [DTYPE_Q5_1] = expand_q5_1,   [DTYPE_Q8_0] = expand_q8_0,     [DTYPE_Q2_K] = expand_q2_k,
    [DTYPE_Q3_K] = expand_q3_k,   [DTYPE_Q4_K] = expand_q4_k,     [DTYPE_Q5_K] = expand_q5_k,
    [DTYPE_Q6_K] = expand_q6_k,   [DTYPE_IQ4_NL] = expand_iq4_nl, [DTYPE_IQ4_XS] = expand_iq4_xs,
    [DTYPE_MXFP4] = expand_mxfp4,
};
