#include "model/forward.h"

#include "base/clock.h"
#include "base/mem.h"
#include "model/forward_priv.h"
#include "tensor/half.h"

Tensor forward_rows(const ForwardStep *step, float *data, int64_t n) {
    return tensor_2d(data, DTYPE_F32, step->n_rows, n);
}

Tensor forward_feed(const ForwardStep *step, void *data, int64_t n) {
    return tensor_2d(data, step->forward->scratch.feed, step->n_rows, n);
}

static void forward_norm_args(ForwardStep *step, const float *w, const float *bias,
                              ForwardNorm *norm) {
    const Forward *f = step->forward;
    const ModelConfig *c = f->config;
    norm->add = forward_rows(step, f->scratch.add, c->dim);
    norm->args = (NormArgs){.kind = c->norm,
                            .x = forward_rows(step, step->x, c->dim),
                            .add = step->add ? &norm->add : NULL,
                            .w = w,
                            .bias = bias,
                            .eps = c->norm_eps,
                            .out = forward_feed(step, step->h, c->dim)};
    step->add = false;
}

void forward_norm(ForwardStep *step, const float *w, const float *bias) {
    Forward *f = step->forward;
    ForwardNorm norm;
    forward_norm_args(step, w, bias, &norm);
    f->ops->norm(&f->ctx, &norm.args);
}

const NormArgs *forward_norm_for(ForwardStep *step, const float *w, const float *bias,
                                 ForwardNorm *norm) {
    Forward *f = step->forward;
    forward_norm_args(step, w, bias, norm);
    if (f->ops->takes_norm) return &norm->args;
    f->ops->norm(&f->ctx, &norm->args);
    return NULL;
}

void forward_residual(ForwardStep *step, void *input, int64_t k, const Weight *w, const float *bias,
                      const float *post_norm) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    Tensor out = forward_rows(step, post_norm != NULL ? f->scratch.add : step->x, c->dim);
    LinearArgs linear = {.x = forward_feed(step, input, k),
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

static void forward_make_logits(ForwardStep *step) {
    Forward *f = step->forward;
    const ModelConfig *c = f->config;
    const Weights *w = &f->model->weights;
    Tensor logits = forward_rows(step, f->scratch.logits, c->vocab);
    ForwardNorm norm;
    LinearArgs args = {.x = forward_feed(step, step->h, c->dim),
                       .n_parts = 1,
                       .part = {{&w->output, NULL, logits}},
                       .norm = forward_norm_for(step, w->out_norm, w->out_norm_bias, &norm)};
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

/* From tokens to the residual stream of the wanted rows. */
static void forward_layers(ForwardStep *step) {
    const Forward *f = step->forward;
    layer_attn_plan(step);
    forward_embed(step);
    for (int32_t i = 0; i < f->config->n_layers; i++) {
        layer_attn(step, i);
        if (step->n_rows == 0) return;
        if (f->config->layer_moe[i])
            layer_moe(step, i);
        else
            layer_ffn(step, i);
    }
}

/* What the host knows of a batch besides its counts. */
typedef struct ForwardShape {
    int32_t query_max;
    bool all_rows;
} ForwardShape;

/* All rows' logits are wanted, in the order of the tokens: there is nothing to gather. */
static bool forward_all_rows(const Batch *batch) {
    if (batch->n_logits != batch->n_tokens) return false;
    for (int32_t i = 0; i < batch->n_logits; i++)
        if (batch->logits_row[i] != i) return false;
    return true;
}

/* The most tokens of a sequence. */
static int32_t forward_query_max(const Batch *batch) {
    int32_t most = 0;
    for (int32_t i = 0; i < batch->n_seqs; i++)
        most = MAX(most, batch->query_start[i + 1] - batch->query_start[i]);
    return most;
}

static ForwardStep forward_begin(Forward *f, KvStore *store, const Batch *batch,
                                 ForwardShape shape) {
    return (ForwardStep){.forward = f,
                         .batch = batch,
                         .store = store,
                         .n_rows = batch->n_tokens,
                         .query_max = shape.query_max,
                         .all_rows = shape.all_rows,
                         .x = f->scratch.x,
                         .h = f->scratch.h};
}

/* The pass over a batch whose arrays the ops can read, to the logits of the wanted rows or to their
 * final norm, in step->h. */
static ForwardStep forward_pass(Forward *f, KvStore *store, const Batch *batch, ForwardShape shape,
                                bool logits) {
    ForwardStep step = forward_begin(f, store, batch, shape);
    const Weights *w = &f->model->weights;
    forward_layers(&step);
    if (step.n_rows == 0) return step;
    if (logits)
        forward_make_logits(&step);
    else
        forward_norm(&step, w->out_norm, w->out_norm_bias);
    return step;
}

/* ---- recorded steps ----------------------------------------------------------------------- */

/* Every sequence has one token, whose logits are wanted. */
static bool forward_is_decode(const Batch *batch, bool all_rows) {
    if (!all_rows || batch->n_seqs != batch->n_tokens) return false;
    for (int32_t i = 0; i < batch->n_seqs; i++)
        if (batch->query_start[i + 1] != i + 1) return false;
    return true;
}

static const ForwardGraph *forward_find_graph(const Forward *f, const KvStore *store,
                                              const Batch *batch, bool all_rows) {
    if (f->recorded != store || !forward_is_decode(batch, all_rows)) return NULL;
    for (int32_t i = 0; i < f->n_graphs; i++)
        if (f->graph[i].n_seqs >= batch->n_seqs) return &f->graph[i];
    return NULL;
}

/* The number of sequences of the graph after the one for n: steps that cost little to fill up. */
static int32_t forward_next_bucket(int32_t n) {
    if (n < 8) return n * 2;
    if (n < 64) return n + 8;
    if (n < 256) return n + 16;
    return n + 64;
}

static Status forward_record_one(Forward *f, KvStore *store, int32_t n_seqs, Err *err) {
    const DeviceVtable *device = f->ctx.device->vtable;
    forward_batch_place(f, n_seqs, n_seqs, n_seqs);
    TRY(device->graph_begin(f->ctx.device, err));
    (void)forward_pass(f, store, &f->sent.batch, (ForwardShape){1, true}, true);
    ForwardGraph *graph = &f->graph[f->n_graphs];
    TRY(device->graph_end(f->ctx.device, &graph->graph, err));
    graph->n_seqs = n_seqs;
    f->n_graphs++;
    return OK;
}

Status forward_record(Forward *f, KvStore *store, Err *err) {
    if (f->ctx.device->vtable->graph_begin == NULL) return OK;
    CHECK(f->n_graphs == 0);
    const int32_t n_max =
        MIN(MIN(f->limits.n_seqs_max, f->limits.n_logits_max), f->limits.n_tokens_max);
    for (int32_t n = 1; f->n_graphs < FORWARD_GRAPHS_MAX; n = MIN(forward_next_bucket(n), n_max)) {
        TRY(forward_record_one(f, store, n, err));
        if (n == n_max) break;
    }
    f->recorded = store;
    return OK;
}

/* ---- steps -------------------------------------------------------------------------------- */

Status forward_queue(Forward *f, KvStore *store, const Batch *batch, Err *err) {
    forward_check(f, batch);
    f->n_logits = batch->n_logits;
    const ForwardShape shape = {forward_query_max(batch), forward_all_rows(batch)};
    if (f->ctx.device->id == DEVICE_HOST) {
        (void)forward_pass(f, store, batch, shape, true);
        return OK;
    }
    const ForwardGraph *graph = forward_find_graph(f, store, batch, shape.all_rows);
    TRY(forward_batch_send(f, batch, graph != NULL ? graph->n_seqs : 0, err));
    f->begin_us = clock_us();
    if (graph == NULL) {
        (void)forward_pass(f, store, &f->sent.batch, shape, true);
        return OK;
    }
    TRY(f->ctx.device->vtable->graph_run(f->ctx.device, graph->graph, err));
    f->begin_us = clock_us();
    return OK;
}

int64_t forward_begin_us(const Forward *f) {
    return f->begin_us;
}

Tensor forward_logits(const Forward *f) {
    return tensor_2d(f->scratch.logits, DTYPE_F32, f->n_logits, f->config->vocab);
}

void forward_sample(Forward *f, const SampleArgs *args) {
    SampleArgs own = *args;
    own.logits = forward_logits(f);
    f->ops->sample(&f->ctx, &own);
}

/* Floats of the device's memory on the host. */
static Status forward_download(Forward *f, const float *data, int64_t n, const float **out,
                               Err *err) {
    if (f->ctx.device->id == DEVICE_HOST) {
        *out = data;
        return OK;
    }
    *out = f->host_logits;
    return f->ctx.device->vtable->download(f->ctx.device, f->host_logits, data,
                                           (size_t)n * sizeof(float), err);
}

Status forward_fetch_row(Forward *f, int32_t row, const float **logits, Err *err) {
    CHECK(row >= 0 && row < f->n_logits);
    return forward_download(f, f->scratch.logits + (int64_t)row * f->config->vocab,
                            f->config->vocab, logits, err);
}

Status forward_fetch(Forward *f, const float **logits, Err *err) {
    return forward_download(f, f->scratch.logits, (int64_t)f->n_logits * f->config->vocab, logits,
                            err);
}

Status forward_run(Forward *f, KvStore *store, const Batch *batch, const float **logits, Err *err) {
    TRY(forward_queue(f, store, batch, err));
    return forward_fetch(f, logits, err);
}

/* bf16 rows that were downloaded in place, as f32. */
static void forward_widen(float *rows, int64_t n) {
    const uint16_t *half = (const uint16_t *)(const void *)rows;
    for (int64_t i = n - 1; i >= 0; i--) rows[i] = bf16_to_f32(half[i]);
}

Status forward_hidden(Forward *f, KvStore *store, const Batch *batch, const float **hidden,
                      Err *err) {
    forward_check(f, batch);
    const ForwardShape shape = {forward_query_max(batch), forward_all_rows(batch)};
    const bool on_host = f->ctx.device->id == DEVICE_HOST;
    if (!on_host) TRY(forward_batch_send(f, batch, 0, err));
    ForwardStep step = forward_pass(f, store, on_host ? batch : &f->sent.batch, shape, false);
    const int64_t n = (int64_t)batch->n_logits * f->config->dim;
    if (f->scratch.feed == DTYPE_F32) return forward_download(f, step.h, n, hidden, err);
    CHECK(f->scratch.feed == DTYPE_BF16 && !on_host);
    TRY(f->ctx.device->vtable->download(f->ctx.device, f->host_logits, step.h,
                                        (size_t)n * sizeof(uint16_t), err));
    forward_widen(f->host_logits, n);
    *hidden = f->host_logits;
    return OK;
}

int64_t forward_bytes(const Model *model, const ForwardLimits *limits, int32_t n_threads) {
    int64_t bytes = scratch_bytes(&model->config, limits, model->ops, n_threads);
    if (model->ctx->device->id != DEVICE_HOST) bytes += forward_batch_bytes(limits, &model->config);
    return bytes;
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
    if (status == OK && ctx->device->id != DEVICE_HOST) status = forward_batch_open(f, err);
    if (status != OK) {
        forward_close(f);
        return status;
    }
    f->ctx.scratch = f->scratch.op;
    f->ctx.scratch_bytes = f->scratch.op_bytes;
    scratch_open_plans(&f->scratch, c, f->ops, &f->ctx);
    *out = f;
    return OK;
}

void forward_populate(Forward *f) {
    if (f->ctx.device->id == DEVICE_HOST) mem_populate(f->scratch.data, (size_t)f->scratch.bytes);
}

void forward_close(Forward *f) {
    if (f == NULL) return;
    for (int32_t i = 0; i < f->n_graphs; i++)
        f->ctx.device->vtable->graph_free(f->ctx.device, f->graph[i].graph);
    forward_batch_close(f);
    scratch_close(&f->scratch, f->ctx.device);
    mem_free(f);
}
