#include "model/rope_table.h"

#include <math.h>

#include "base/mem.h"

/* base^(2i / dim), each step rounded as in float32. */
static float rope_table_period(const RopeConfig *rope, int32_t i) {
    float exponent = (float)(2 * i) / (float)rope->dim;
    return (float)pow(rope->theta, (double)exponent);
}

/* Long wavelengths are stretched by the factor, short ones are not, those between in part. */
static float rope_table_llama3(const RopeConfig *rope, float inv_freq) {
    double context = rope->original_context;
    double low_wavelength = context / rope->low_freq_factor;
    double high_wavelength = context / rope->high_freq_factor;
    float wavelength = (float)(2 * M_PI) / inv_freq;
    if ((double)wavelength < high_wavelength) return inv_freq;
    float stretched = inv_freq / (float)rope->factor;
    if ((double)wavelength > low_wavelength) return stretched;
    float smooth = ((float)context / wavelength - (float)rope->low_freq_factor) /
                   (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * stretched + smooth * inv_freq;
}

/* The (fractional) pair that turns `turns` times within the original context. */
static double rope_table_yarn_pair(const RopeConfig *rope, double turns) {
    return rope->dim * log(rope->original_context / (turns * 2 * M_PI)) / (2 * log(rope->theta));
}

static void rope_table_yarn(const RopeConfig *rope, float *inv_freq) {
    double low = rope_table_yarn_pair(rope, rope->beta_fast);
    double high = rope_table_yarn_pair(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = MAX(low, 0);
    high = MIN(high, rope->dim - 1);
    if (low == high) high += 0.001;
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        float period = rope_table_period(rope, i);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1 - MIN(MAX(ramp, 0.0f), 1.0f);
        inv_freq[i] = 1 / ((float)rope->factor * period) * (1 - keep) + 1 / period * keep;
    }
}

static double rope_table_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double rope_table_attn_factor(const RopeConfig *rope) {
    bool scaled = rope->scaling == ROPE_SCALING_YARN || rope->scaling == ROPE_SCALING_LONGROPE;
    if (!scaled) return 1;
    if (rope->attn_factor > 0) return rope->attn_factor;
    if (rope->scaling == ROPE_SCALING_LONGROPE) {
        if (rope->factor <= 1) return 1;
        return sqrt(1 + log(rope->factor) / log(rope->original_context));
    }
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return rope_table_mscale(rope->factor, rope->mscale) /
               rope_table_mscale(rope->factor, rope->mscale_all_dim);
    return rope_table_mscale(rope->factor, 1);
}

float rope_table_frequencies(const RopeConfig *rope, int32_t n_pos, float *inv_freq) {
    const double *divisor = NULL;
    if (rope->scaling == ROPE_SCALING_FACTORS) divisor = rope->long_factor;
    if (rope->scaling == ROPE_SCALING_LONGROPE)
        divisor = n_pos > rope->original_context ? rope->long_factor : rope->short_factor;
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        float period = rope_table_period(rope, i);
        inv_freq[i] = 1 / (divisor != NULL ? (float)divisor[i] * period : period);
        if (rope->scaling == ROPE_SCALING_LINEAR) inv_freq[i] /= (float)rope->factor;
        if (rope->scaling == ROPE_SCALING_LLAMA3)
            inv_freq[i] = rope_table_llama3(rope, inv_freq[i]);
    }
    if (rope->scaling == ROPE_SCALING_YARN) rope_table_yarn(rope, inv_freq);
    return (float)rope_table_attn_factor(rope);
}

int64_t rope_table_bytes(const RopeConfig *rope, int32_t n_pos) {
    return rope->style == ROPE_NONE ? 0 : (int64_t)n_pos * rope->dim * (int64_t)sizeof(float);
}

void rope_table_fill(const RopeConfig *rope, int32_t n_pos, float *cos_sin) {
    int32_t n_pairs = rope->dim / 2;
    float *inv_freq = mem_alloc((size_t)n_pairs * sizeof *inv_freq);
    float factor = rope_table_frequencies(rope, n_pos, inv_freq);
    for (int32_t pos = 0; pos < n_pos; pos++) {
        for (int32_t i = 0; i < n_pairs; i++) {
            float angle = (float)pos * inv_freq[i];
            float *out = cos_sin + ((int64_t)pos * n_pairs + i) * 2;
            out[0] = (float)cos((double)angle) * factor;
            out[1] = (float)sin((double)angle) * factor;
        }
    }
    mem_free(inv_freq);
}
