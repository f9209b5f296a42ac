/* weights_priv: the binding of one model's tensors, shared by its outer part and its layers. */
#pragma once

#include "model/weights.h"

/* What the binding of one model works with. */
typedef struct WeightsBinder {
    Weights *out;
    const ModelFile *file;
    const ModelConfig *config;
    const ArchNames *names;
    const char *prefix;
    bool transposed; /* matrices are stored [in, out] */
    const Ops *ops;
    OpCtx *ctx;
    Progress *progress;
    Err *err;
} WeightsBinder;

/* A name in the model: role, layer and expert (0 where there is none). */
typedef struct WeightsAt {
    ArchTensor role;
    int32_t layer, expert;
    bool bias;
} WeightsAt;

/* Whether the file has the tensor of this role. */
bool weights_has(const WeightsBinder *b, ArchTensor role, int32_t layer);
/* Finds a tensor and checks its shape: [n0], [n0, n1] or [n0, n1, n2], 0 where there is none. */
MUST_USE Status weights_get(const WeightsBinder *b, WeightsAt at, int64_t n0, int64_t n1,
                            int64_t n2, Tensor *out);
/* A matrix [n, k], the file's own [k, n] where it is transposed (then an owned copy). */
MUST_USE Status weights_matrix_get(WeightsBinder *b, WeightsAt at, int64_t n, int64_t k, Tensor *t);
/* Prepares a matrix for the ops; n that one product reads; both of a gated layer; all of a layer's
 * experts. */
MUST_USE Status weights_prepare(WeightsBinder *b, const Tensor *t, Weight *out);
MUST_USE Status weights_prepare_parts(WeightsBinder *b, const Tensor *t, int32_t n,
                                      Weight *const *out);
MUST_USE Status weights_prepare_gated(WeightsBinder *b, const Tensor *gate, const Tensor *up,
                                      LayerWeights *w);
MUST_USE Status weights_prepare_experts(WeightsBinder *b, const ExpertsFile *file, LayerWeights *w);
/* weights_matrix_get and weights_prepare in one. */
MUST_USE Status weights_matrix(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n,
                               int64_t k, Weight *out);
/* The bias [n] of a matrix, left alone unless wanted. */
MUST_USE Status weights_bias(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n,
                             bool wanted, const float **out);
/* The weights [n] of a norm and, for a LayerNorm and unless bias is NULL, its bias. */
MUST_USE Status weights_norm(WeightsBinder *b, ArchTensor role, int32_t layer, int64_t n,
                             const float **weight, const float **bias);

/* All tensors of a layer. */
MUST_USE Status weights_layer_bind(WeightsBinder *b, int32_t layer, LayerWeights *w);
