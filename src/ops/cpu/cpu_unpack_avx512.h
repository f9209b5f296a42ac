/* cpu_unpack_avx512: what cpu_unpack_tmpl.h wants of its includer, for 16 rows at a time. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define UNPACK_LANES 16
#include "ops/cpu/cpu_unpack_tmpl.h"

static inline UnpackF unpack_f16(const void *p) {
    return (UnpackF)_mm512_cvtph_ps(_mm256_loadu_si256(p));
}

static inline UnpackU unpack_u8(const void *p) {
    return (UnpackU)_mm512_cvtepu8_epi32(_mm_loadu_si128(p));
}

static inline UnpackU unpack_table(const uint8_t table[16], UnpackU index) {
    __m512i wide = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
    return (UnpackU)_mm512_shuffle_epi8(wide, (__m512i)index);
}
