/* model_priv: what an opened model consists of, for the forward pass. */
#pragma once

#include "model/model.h"
#include "model/weights.h"

struct Model {
    ModelFile *file; /* owned */
    ModelConfig config;
    Weights weights;
    const Ops *ops;
    OpCtx *ctx; /* borrowed */
};
