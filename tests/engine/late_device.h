/* late_device: an accelerator made of the host: what is queued on it is done when it is waited for.
 *
 * Copies and ops are kept with their arguments and run, in order, at the next call that waits;
 * recordings are kept and queued again. So it shows when the host is too early: when it fills a
 * page-locked array anew or takes an answer, which holds garbage until then. New memory holds NaNs.
 * Any call or op may be made to fail: an op's failure is told by the next call that can. Ops are
 * those of the CPU's fastest level; picks are late_pick.h's. */
#pragma once

#include "late_pick.h"

typedef enum LateKind {
    LATE_COPY,
    LATE_ROWS,
    LATE_EMBED,
    LATE_NORM,
    LATE_LINEAR,
    LATE_GATED,
    LATE_ROPE,
    LATE_ATTN,
    LATE_ACT,
    LATE_ROUTE,
    LATE_MOE,
    LATE_SOFTCAP,
    LATE_GATHER,
    LATE_SAMPLE
} LateKind;

typedef struct LateGather {
    Tensor x, out;
    const int32_t *row;
    int32_t n_rows;
} LateGather;

typedef struct LateWork {
    LateKind kind;
    OpCtx *ctx;
    bool has_more;
    Tensor more; /* what an argument pointed to */
    float cap;
    union {
        DeviceRows rows; /* of a copy, too */
        EmbedArgs embed;
        NormArgs norm;
        LinearArgs linear;
        GatedArgs gated;
        RopeKvArgs rope;
        AttnArgs attn;
        ActArgs act;
        MoeRouteArgs route;
        MoeArgs moe;
        Tensor softcap;
        LateGather gather;
        SampleArgs sample;
    };
} LateWork;

typedef struct LateList {
    LateWork *work;
    size_t n, n_max;
} LateList;

typedef struct LateDevice {
    Device base;
    Ops ops;         /* of the accelerator */
    const Ops *host; /* that they end in */
    LateList queue;
    LateList *recording; /* NULL: nothing is recorded */
    int64_t fail_in;     /* the call or op that fails, counted down; 0: none */
    bool is_lost;        /* it and all behind it */
    bool noted;          /* an op has failed and nobody was told */
    int64_t n_live;      /* pieces of memory, and recordings */
} LateDevice;

static inline LateDevice *late_of(Device *device) {
    return (LateDevice *)device;
}

static inline bool late_fails(LateDevice *d) {
    if (d->fail_in == 0 || --d->fail_in > 0) return false;
    d->fail_in = d->is_lost;
    return true;
}

/* ---- work --------------------------------------------------------------------------------- */

/* Rows that fill a recorded step up stand behind the others; the CPU knows no such rows. */
static inline void late_rope(const Ops *ops, OpCtx *ctx, RopeKvArgs args) {
    int64_t n = 0;
    while (n < args.q.shape[0] && args.kv_slot[n] >= 0) n++;
    args.q = tensor_rows(&args.q, 0, n);
    args.k = tensor_rows(&args.k, 0, n);
    args.v = tensor_rows(&args.v, 0, n);
    ops->rope_kv(ctx, &args);
}

static inline void late_attn(const Ops *ops, OpCtx *ctx, AttnArgs args) {
    const int64_t n_all = args.q.shape[0], row = args.out.stride[0];
    int32_t n = 0;
    while (n < args.n_seqs && args.kv_len[n] > 0) n++;
    args.n_seqs = n;
    const int64_t n_tokens = args.query_start[n];
    memset((float *)args.out.data + n_tokens * row, 0,
           (size_t)((n_all - n_tokens) * row) * sizeof(float));
    args.q = tensor_rows(&args.q, 0, n_tokens);
    args.out = tensor_rows(&args.out, 0, n_tokens);
    ops->attn(ctx, &args);
}

static inline void late_do(const Ops *ops, LateWork *w) {
    switch (w->kind) {
        case LATE_COPY: memmove(w->rows.dst, w->rows.src, w->rows.row_bytes); break;
        case LATE_ROWS:
            for (size_t i = 0; i < w->rows.n_rows; i++)
                memmove((char *)w->rows.dst + i * w->rows.dst_pitch,
                        (const char *)w->rows.src + i * w->rows.src_pitch, w->rows.row_bytes);
            break;
        case LATE_EMBED: ops->embed(w->ctx, &w->embed); break;
        case LATE_NORM:
            w->norm.add = w->has_more ? &w->more : NULL;
            ops->norm(w->ctx, &w->norm);
            break;
        case LATE_LINEAR: ops->linear(w->ctx, &w->linear); break;
        case LATE_GATED: ops->gated(w->ctx, &w->gated); break;
        case LATE_ROPE: late_rope(ops, w->ctx, w->rope); break;
        case LATE_ATTN: late_attn(ops, w->ctx, w->attn); break;
        case LATE_ACT:
            w->act.up = w->has_more ? &w->more : NULL;
            ops->act(w->ctx, &w->act);
            break;
        case LATE_ROUTE: ops->moe_route(w->ctx, &w->route); break;
        case LATE_MOE: ops->moe(w->ctx, &w->moe); break;
        case LATE_SOFTCAP: ops->softcap(w->ctx, w->softcap, w->cap); break;
        case LATE_GATHER:
            ops->gather_rows(w->ctx, &w->gather.x, w->gather.row, w->gather.n_rows, &w->gather.out);
            break;
        case LATE_SAMPLE: late_sample_all(&w->sample); break;
    }
}

static inline void late_do_all(LateDevice *d) {
    for (size_t i = 0; i < d->queue.n; i++) late_do(d->host, &d->queue.work[i]);
    d->queue.n = 0;
}

static inline void late_push(LateDevice *d, const LateWork *work) {
    LateList *list = d->recording != NULL ? d->recording : &d->queue;
    if (list->n == list->n_max) {
        list->n_max = 2 * list->n_max + 64;
        list->work = realloc(list->work, list->n_max * sizeof *list->work);
        assert_non_null(list->work);
    }
    list->work[list->n++] = *work;
}

static inline void late_op(LateWork work) {
    LateDevice *d = late_of(work.ctx->device);
    if (late_fails(d)) {
        d->noted = true;
    } else {
        late_push(d, &work);
    }
}

static inline void late_op_embed(OpCtx *ctx, const EmbedArgs *args) {
    late_op((LateWork){LATE_EMBED, ctx, .embed = *args});
}
static inline void late_op_norm(OpCtx *ctx, const NormArgs *args) {
    LateWork work = {LATE_NORM, ctx, .has_more = args->add != NULL, .norm = *args};
    if (work.has_more) work.more = *args->add;
    late_op(work);
}
static inline void late_op_linear(OpCtx *ctx, const LinearArgs *args) {
    late_op((LateWork){LATE_LINEAR, ctx, .linear = *args});
}
static inline void late_op_gated(OpCtx *ctx, const GatedArgs *args) {
    late_op((LateWork){LATE_GATED, ctx, .gated = *args});
}
static inline void late_op_rope(OpCtx *ctx, const RopeKvArgs *args) {
    late_op((LateWork){LATE_ROPE, ctx, .rope = *args});
}
static inline void late_op_attn(OpCtx *ctx, const AttnArgs *args) {
    late_op((LateWork){LATE_ATTN, ctx, .attn = *args});
}
static inline void late_op_act(OpCtx *ctx, const ActArgs *args) {
    LateWork work = {LATE_ACT, ctx, .has_more = args->up != NULL, .act = *args};
    if (work.has_more) work.more = *args->up;
    late_op(work);
}
static inline void late_op_route(OpCtx *ctx, const MoeRouteArgs *args) {
    late_op((LateWork){LATE_ROUTE, ctx, .route = *args});
}
static inline void late_op_moe(OpCtx *ctx, const MoeArgs *args) {
    late_op((LateWork){LATE_MOE, ctx, .moe = *args});
}
static inline void late_op_softcap(OpCtx *ctx, Tensor x, float cap) {
    late_op((LateWork){LATE_SOFTCAP, ctx, .cap = cap, .softcap = x});
}
static inline void late_op_gather(OpCtx *ctx, const Tensor *x, const int32_t *row, int32_t n_rows,
                                  Tensor *out) {
    late_op((LateWork){LATE_GATHER, ctx, .gather = {*x, *out, row, n_rows}});
}
static inline void late_op_sample(OpCtx *ctx, const SampleArgs *args) {
    late_op((LateWork){LATE_SAMPLE, ctx, .sample = *args});
}

/* ---- the device --------------------------------------------------------------------------- */

static inline Status late_call(LateDevice *d, Err *err) {
    const bool fails = late_fails(d) || d->noted;
    d->noted = false;
    if (fails) FAIL(err, ERR_DEVICE, "made to fail");
    return OK;
}

static inline Status late_alloc(Device *device, size_t bytes, void **out, Err *err) {
    TRY(late_call(late_of(device), err));
    bytes = ALIGN_UP(MAX(bytes, (size_t)1), (size_t)256);
    *out = aligned_alloc(256, bytes);
    assert_non_null(*out);
    memset(*out, 0xff, bytes);
    late_of(device)->n_live++;
    return OK;
}

static inline void late_host_free(Device *device, void *p) {
    if (p == NULL) return;
    late_do_all(late_of(device));
    late_of(device)->n_live--;
    free(p);
}

static inline void late_free(Device *device, void *p, size_t bytes) {
    (void)bytes;
    late_host_free(device, p);
}

static inline Status late_sync(Device *device, Err *err) {
    late_do_all(late_of(device));
    return late_call(late_of(device), err);
}

static inline Status late_copy(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    TRY(late_call(late_of(device), err));
    late_push(late_of(device),
              &(LateWork){.kind = LATE_COPY, .rows = {.dst = dst, .src = src, .row_bytes = bytes}});
    return OK;
}

static inline Status late_receive(Device *device, void *dst, const void *src, size_t bytes,
                                  Err *err) {
    memset(dst, 0xa5, bytes);
    return late_copy(device, dst, src, bytes, err);
}

static inline Status late_copy_now(Device *device, void *dst, const void *src, size_t bytes,
                                   Err *err) {
    TRY(late_copy(device, dst, src, bytes, err));
    return late_sync(device, err);
}

static inline Status late_copy_rows(Device *device, const DeviceRows *rows, Err *err) {
    TRY(late_call(late_of(device), err));
    late_push(late_of(device), &(LateWork){.kind = LATE_ROWS, .rows = *rows});
    return OK;
}

static inline void late_memory(Device *device, int64_t *all, int64_t *left) {
    (void)device;
    *all = *left = (int64_t)1 << 40;
}

static inline Status late_graph_begin(Device *device, Err *err) {
    LateDevice *d = late_of(device);
    TRY(late_call(d, err));
    assert_null(d->recording);
    d->recording = mem_alloc(sizeof *d->recording);
    d->n_live++;
    return OK;
}

static inline void late_graph_free(Device *device, void *graph) {
    LateList *list = graph;
    late_of(device)->n_live--;
    free(list->work);
    mem_free(list);
}

static inline Status late_graph_end(Device *device, void **graph, Err *err) {
    LateDevice *d = late_of(device);
    LateList *list = d->recording;
    d->recording = NULL;
    const Status status = late_call(d, err);
    if (status == OK)
        *graph = list;
    else
        late_graph_free(device, list);
    return status;
}

static inline Status late_graph_run(Device *device, void *graph, Err *err) {
    const LateList *list = graph;
    TRY(late_call(late_of(device), err));
    for (size_t i = 0; i < list->n; i++) late_push(late_of(device), &list->work[i]);
    return OK;
}

static inline bool late_lost(Device *device) {
    late_do_all(late_of(device));
    late_of(device)->noted = false;
    return late_of(device)->is_lost;
}

static inline void late_close(Device *device) {
    LateDevice *d = late_of(device);
    assert_int_equal(d->n_live, 0);
    free(d->queue.work);
    d->queue = (LateList){0};
}

static const DeviceVtable late_vtable = {.name = "late",
                                         .alloc = late_alloc,
                                         .free = late_free,
                                         .upload = late_copy_now,
                                         .download = late_copy_now,
                                         .copy = late_copy,
                                         .copy_rows = late_copy_rows,
                                         .sync = late_sync,
                                         .memory = late_memory,
                                         .close = late_close,
                                         .host_alloc = late_alloc,
                                         .host_free = late_host_free,
                                         .send = late_copy,
                                         .receive = late_receive,
                                         .graph_begin = late_graph_begin,
                                         .graph_end = late_graph_end,
                                         .graph_run = late_graph_run,
                                         .graph_free = late_graph_free,
                                         .lost = late_lost};

/* Closed through its vtable, when all memory must have been given back. */
static inline void late_open(LateDevice *d) {
    Err err = {0};
    memset(d, 0, sizeof *d);
    ASSERT_OK(ops_cpu(&d->host, NULL, &err), err);
    d->base = (Device){&late_vtable, 0};
    d->ops = *d->host;
    d->ops.embed = late_op_embed;
    d->ops.norm = late_op_norm;
    d->ops.linear = late_op_linear;
    d->ops.gated = late_op_gated;
    d->ops.rope_kv = late_op_rope;
    d->ops.attn = late_op_attn;
    d->ops.act = late_op_act;
    d->ops.moe_route = late_op_route;
    d->ops.moe = late_op_moe;
    d->ops.softcap = late_op_softcap;
    d->ops.gather_rows = late_op_gather;
    d->ops.sample = late_op_sample;
}
