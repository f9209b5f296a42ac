/* rope_table: cosine and sine of every position, for one kind of layer.
 *
 * Computed with the roundings of Hugging Face's float32 code (inverse frequencies and angles are
 * f32), so that far positions turn by the same angle; the attention factor of YaRN and LongRoPE is
 * multiplied in. */
#pragma once

#include "model/model_config.h"

/* Bytes of a table of n_pos positions. */
int64_t rope_table_bytes(const RopeConfig *rope, int32_t n_pos);
/* The inverse frequencies [dim/2] for sequences of at most n_pos positions (LongRoPE takes its long
 * factors when they reach beyond the original context), and the factor on cosine and sine. */
float rope_table_frequencies(const RopeConfig *rope, int32_t n_pos, float *inv_freq);
/* Fills cos_sin [n_pos][dim/2][2]. source: RoFormer 2104.09864; YaRN 2309.00071; LongRoPE
 * 2402.13753; Llama 3's published model code. */
void rope_table_fill(const RopeConfig *rope, int32_t n_pos, float *cos_sin);
