/* cuda_act: the activation functions in f32, for the kernels that end in one. */
#pragma once

#include "ops/cuda/cuda_common.cuh"

static __device__ __forceinline__ float cuda_act_value(ActKind kind, float x) {
    const float sqrt_half = 0.70710678118654752440f, sqrt_2_pi = 0.79788456080286535588f;
    switch (kind) {
        case ACT_SILU: return x / (1 + expf(-x));
        case ACT_GELU: return 0.5f * x * erfcf(-x * sqrt_half);
        case ACT_GELU_TANH: return x / (1 + expf(-2 * sqrt_2_pi * (x + 0.044715f * x * x * x)));
        default: return x < 0 ? 0 : x;
    }
}
