/* bounds: the largest error that each op of a level may have against the reference, in one table.
 *
 * NMSE is the sum of squared differences over the sum of squares of the reference. One f32 rounding
 * of random data gives about 1e-15; a bound leaves room for a few roundings and no more. */
#pragma once

#define BOUND_NORM 6e-14
/* f32 sums of about k terms: an absolute error of the sum of magnitudes, here over little
 * cancelling. */
#define BOUND_LINEAR_PLAIN 1e-12
/* Activations rounded to bf16, 8 significant bits: 2^-16 / 3 on the mean for numbers just above a
 * power of two, a quarter of it just below; twice 2.5e-6. */
#define BOUND_LINEAR_HALF 5e-6
/* Activations as two bf16 numbers, 16 significant bits: 2^-16 of the above, twice. */
#define BOUND_LINEAR_PAIR 2e-10
/* Activations as int8 groups of 32. */
#define BOUND_LINEAR_BLOCK 1e-4
#define BOUND_ROPE         6e-14
#define BOUND_EMBED        4e-15
#define BOUND_ACT          2e-14
#define BOUND_SOFTCAP      4e-14
#define BOUND_ATTN_NMSE    1e-12
/* Largest difference of an attention output with f32 keys and values of unit scale. */
#define BOUND_ATTN_F32 1e-5
/* The same at avx512 with int8 keys: queries and weights as 16-bit integers, an error of half a
 * unit in 32639 of a query's largest number. A hundredth of what rounding to int8 costs. */
#define BOUND_ATTN_I8_NMSE 4e-9
#define BOUND_ATTN_I8      4e-4
/* Relative error of one activation value where it is not subnormal; for GELU_TANH and GELU the
 * argument of the exponential carries x^2's rounding: allowed per unit of |x|^2. */
#define BOUND_ACT_REL    6e-7
#define BOUND_ACT_REL_X2 2e-7
