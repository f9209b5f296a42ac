#include "model/forward.h"

#include "base/mem.h"
#include "model/forward_priv.h"

Tensor forward_rows(const ForwardStep *step, float *data, int64_t n) {
    return tensor_2d(data, DTYPE_F32, step->n_rows, n);
}

void forward_norm(ForwardStep *step, const float *w, const float *bias) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    Tensor add = forward_rows(step, f->scratch.add, c->dim);
    NormArgs args = {.kind = c->norm,
                     .x = forward_rows(step, step->x, c->dim),
                     .add = step->add ? &add : NULL,
                     .w = w,
                     .bias = bias,
                     .eps = c->norm_eps,
                     .out = forward_rows(step, step->h, c->dim)};
    f->ops->norm(&f->ctx, &args);
    step->add = false;
}

void forward_residual(ForwardStep *step, float *input, int64_t k, const Weight *w,
                      const float *bias, const float *post_norm) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    Tensor out = forward_rows(step, post_norm != NULL ? f->scratch.add : step->x, c->dim);
    LinearArgs linear = {.x = forward_rows(step, input, k),
                         .n_parts = 1,
                         .part = {{w, bias, out}},
                         .accumulate = post_norm == NULL};
    f->ops->linear(&f->ctx, &linear);
    if (post_norm == NULL) return;
    NormArgs norm = {.kind = c->norm, .x = out, .w = post_norm, .eps = c->norm_eps, .out = out};
    f->ops->norm(&f->ctx, &norm);
    step->add = true;
}

static void forward_embed(ForwardStep *step) {
    Forward *f = step->forward;
    const Weights *w = &f->model->weights;
    EmbedArgs args = {.table = &w->embed,
                      .pos_table = f->config->learned_pos ? &w->pos_embed : NULL,
                      .token = step->batch->token,
                      .pos = step->batch->pos,
                      .scale = f->config->embed_scale,
                      .out = forward_rows(step, step->x, f->config->dim)};
    f->ops->embed(&f->ctx, &args);
}

static void forward_logits(ForwardStep *step) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    Tensor logits = forward_rows(step, f->scratch.logits, c->vocab);
    LinearArgs args = {.x = forward_rows(step, step->h, c->dim),
                       .n_parts = 1,
                       .part = {{&f->model->weights.output, NULL, logits}}};
    f->ops->linear(&f->ctx, &args);
    if (c->logit_softcap > 0) f->ops->softcap(&f->ctx, logits, c->logit_softcap);
}

/* A batch is made by us: what does not fit the limits is a bug. */
static void forward_check(const Forward *f, const Batch *batch) {
    CHECK(batch->n_tokens > 0 && batch->n_tokens <= f->limits.n_tokens_max);
    CHECK(batch->n_seqs > 0 && batch->n_seqs <= f->limits.n_seqs_max);
    CHECK(batch->n_logits >= 0 && batch->n_logits <= f->limits.n_logits_max);
    CHECK(batch->n_logits <= batch->n_tokens);
    for (int32_t i = 0; i < batch->n_tokens; i++)
        CHECK(batch->pos[i] >= 0 && batch->pos[i] < f->limits.context_max);
    for (int32_t i = 0; i < batch->n_logits; i++)
        CHECK(batch->logits_row[i] >= 0 && batch->logits_row[i] < batch->n_tokens);
}

/* From tokens to the final norm of the wanted rows, in step->h. */
static void forward_layers(ForwardStep *step) {
    const Forward *f = step->forward;
    forward_check(f, step->batch);
    forward_embed(step);
    for (int32_t i = 0; i < f->config->n_layers; i++) {
        layer_attn(step, i);
        if (step->n_rows == 0) return;
        if (f->config->layer_moe[i])
            layer_moe(step, i);
        else
            layer_ffn(step, i);
    }
    forward_norm(step, f->model->weights.out_norm, f->model->weights.out_norm_bias);
}

/* n values of the device's memory on the host. */
static Status forward_fetch(Forward *f, const float *data, int64_t n, const float **out, Err *err) {
    if (f->ctx.device->id == DEVICE_HOST) {
        *out = data;
        return OK;
    }
    *out = f->host_logits;
    return f->ctx.device->vtable->download(f->ctx.device, f->host_logits, data,
                                           (size_t)n * sizeof(float), err);
}

static ForwardStep forward_begin(Forward *f, KvStore *store, const Batch *batch) {
    return (ForwardStep){.forward = f,
                         .batch = batch,
                         .store = store,
                         .n_rows = batch->n_tokens,
                         .x = f->scratch.x,
                         .h = f->scratch.h};
}

Status forward_run(Forward *f, KvStore *store, const Batch *batch, const float **logits, Err *err) {
    ForwardStep step = forward_begin(f, store, batch);
    forward_layers(&step);
    if (step.n_rows > 0) forward_logits(&step);
    return forward_fetch(f, f->scratch.logits, (int64_t)batch->n_logits * f->config->vocab, logits,
                         err);
}

Status forward_hidden(Forward *f, KvStore *store, const Batch *batch, const float **hidden,
                      Err *err) {
    ForwardStep step = forward_begin(f, store, batch);
    forward_layers(&step);
    return forward_fetch(f, step.h, (int64_t)batch->n_logits * f->config->dim, hidden, err);
}

int64_t forward_bytes(const Model *model, const ForwardLimits *limits, int32_t n_threads) {
    return scratch_bytes(&model->config, limits, model->ops, n_threads);
}

static Status forward_check_limits(const ModelConfig *c, const ForwardLimits *limits, Err *err) {
    if (limits->n_tokens_max < 1 || limits->n_seqs_max < 1 || limits->n_logits_max < 1 ||
        limits->context_max < 1)
        FAIL(err, ERR_ARG,
             "a step of %d tokens, %d sequences, %d rows of logits, %d positions; "
             "wanted at least 1 of each",
             limits->n_tokens_max, limits->n_seqs_max, limits->n_logits_max, limits->context_max);
    if (c->learned_pos && limits->context_max > c->context)
        FAIL(err, ERR_ARG, "a context of %d tokens; the model has learned %d positions",
             limits->context_max, c->context);
    return OK;
}

Status forward_open(Forward **out, const Model *model, const OpCtx *ctx,
                    const ForwardLimits *limits, Err *err) {
    const ModelConfig *c = &model->config;
    TRY(forward_check_limits(c, limits, err));
    Forward *f = mem_alloc(sizeof *f);
    f->model = model;
    f->config = c;
    f->ops = model->ops;
    f->limits = *limits;
    f->ctx = *ctx;
    Status status = scratch_open(&f->scratch, c, limits, model->ops, ctx, err);
    if (status == OK && ctx->device->id != DEVICE_HOST) {
        f->host_logits = mem_try_alloc((size_t)limits->n_logits_max,
                                       (size_t)MAX(c->vocab, c->dim) * sizeof(float));
        if (f->host_logits == NULL)
            status =
                err_set(err, ERR_NOMEM, "no memory for %d rows of logits", limits->n_logits_max);
    }
    if (status != OK) {
        forward_close(f);
        return status;
    }
    f->ctx.scratch = f->scratch.op;
    f->ctx.scratch_bytes = f->scratch.op_bytes;
    *out = f;
    return OK;
}

void forward_populate(Forward *f) {
    if (f->ctx.device->id == DEVICE_HOST) mem_populate(f->scratch.data, (size_t)f->scratch.bytes);
}

void forward_close(Forward *f) {
    if (f == NULL) return;
    scratch_close(&f->scratch, f->ctx.device);
    mem_free(f->host_logits);
    mem_free(f);
}
