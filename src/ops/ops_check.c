/* ops_check: the shape rules of ops.h as CHECKs, once for all levels. */
#include "ops/ops_priv.h"

/* A host f32 tensor whose last dimension is contiguous. */
static void ops_check_f32(const Tensor *t, int32_t n_dims) {
    CHECK(t->dtype == DTYPE_F32 && t->n_dims == n_dims);
    CHECK(t->data != NULL || t->shape[0] == 0);
    CHECK(t->stride[n_dims - 1] == 1);
    for (int32_t i = 0; i < n_dims; i++) CHECK(t->shape[i] >= 0);
}

static void ops_check_2d(const Tensor *t, int64_t n0, int64_t n1) {
    ops_check_f32(t, 2);
    CHECK(t->shape[0] == n0 && t->shape[1] == n1);
    CHECK(n0 <= 1 || t->stride[0] >= n1);
}

static void ops_check_3d(const Tensor *t, int64_t n0, int64_t n1, int64_t n2) {
    ops_check_f32(t, 3);
    CHECK(t->shape[0] == n0 && t->shape[1] == n1 && t->shape[2] == n2);
    CHECK(n1 <= 1 || t->stride[1] == n2);
    CHECK(n0 <= 1 || t->stride[0] >= n1 * n2);
}

static void ops_check_act_kind(ActKind kind) {
    CHECK(kind == ACT_SILU || kind == ACT_GELU || kind == ACT_GELU_TANH || kind == ACT_RELU);
}

static void ops_check_kv(const KvView *kv) {
    CHECK(kv->dtype == DTYPE_F32 || kv->dtype == DTYPE_F16 || kv->dtype == DTYPE_BF16 ||
          kv->dtype == DTYPE_I8);
    CHECK(kv->k != NULL && kv->v != NULL);
    CHECK(kv->n_blocks > 0 && kv->block_tokens > 0 && kv->n_kv_heads > 0 && kv->head_dim > 0);
}

void ops_check_embed(const EmbedArgs *args) {
    const Tensor *table = &args->table->t;
    ops_check_2d(&args->out, args->out.shape[0], table->shape[1]);
    CHECK(args->table->layout == 0 && table->n_dims == 2 && dtype_can_read(table->dtype));
    CHECK(args->token != NULL || args->out.shape[0] == 0);
    for (int64_t t = 0; t < args->out.shape[0]; t++)
        CHECK(args->token[t] >= 0 && args->token[t] < table->shape[0]);
    if (args->pos_table == NULL) return;
    const Tensor *learned = &args->pos_table->t;
    CHECK(args->pos_table->layout == 0 && learned->n_dims == 2 && dtype_can_read(learned->dtype));
    CHECK(learned->shape[1] == table->shape[1]);
    for (int64_t t = 0; t < args->out.shape[0]; t++)
        CHECK(args->pos[t] >= 0 && args->pos[t] < learned->shape[0]);
}

void ops_check_norm(const NormArgs *args) {
    int64_t n_rows = args->x.shape[0], dim = args->x.shape[1];
    CHECK(args->kind == NORM_RMS || args->kind == NORM_LAYER);
    ops_check_2d(&args->x, n_rows, dim);
    ops_check_2d(&args->out, n_rows, dim);
    if (args->add != NULL) ops_check_2d(args->add, n_rows, dim);
    CHECK(dim > 0 && args->w != NULL && args->eps >= 0);
}

void ops_check_linear(const LinearArgs *args) {
    int64_t n_tokens = args->x.shape[0], k = args->x.shape[1];
    ops_check_2d(&args->x, n_tokens, k);
    CHECK(args->n_parts >= 1 && args->n_parts <= LINEAR_PARTS_MAX);
    for (int32_t i = 0; i < args->n_parts; i++) {
        const LinearPart *part = &args->part[i];
        CHECK(part->w->t.n_dims == 2 && part->w->t.shape[1] == k);
        CHECK(dtype_can_read(part->w->t.dtype));
        ops_check_2d(&part->out, n_tokens, part->w->t.shape[0]);
    }
}

void ops_check_gated(const GatedArgs *args) {
    int64_t n_tokens = args->x.shape[0], k = args->x.shape[1], n = args->up->t.shape[0];
    ops_check_act_kind(args->act);
    ops_check_2d(&args->x, n_tokens, k);
    ops_check_2d(&args->out, n_tokens, n);
    const Weight *const both[] = {args->gate, args->up};
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        CHECK(both[i]->t.n_dims == 2 && dtype_can_read(both[i]->t.dtype));
        CHECK(both[i]->t.shape[0] == n && both[i]->t.shape[1] == k);
    }
}

void ops_check_rope_kv(const RopeKvArgs *args) {
    int64_t n_tokens = args->q.shape[0], head_dim = args->q.shape[2];
    ops_check_kv(&args->kv);
    ops_check_3d(&args->q, n_tokens, args->q.shape[1], head_dim);
    ops_check_3d(&args->k, n_tokens, args->kv.n_kv_heads, head_dim);
    ops_check_3d(&args->v, n_tokens, args->kv.n_kv_heads, head_dim);
    CHECK(head_dim == args->kv.head_dim);
    CHECK(args->style == ROPE_NONE || args->style == ROPE_NEOX || args->style == ROPE_INTERLEAVED);
    if (args->style != ROPE_NONE) {
        CHECK(args->rope_dim >= 0 && args->rope_dim <= head_dim && args->rope_dim % 2 == 0);
        CHECK(args->cos_sin != NULL && args->pos != NULL);
    }
    int64_t n_slots = (int64_t)args->kv.n_blocks * args->kv.block_tokens;
    for (int64_t t = 0; t < n_tokens; t++) {
        CHECK(args->kv_slot[t] >= 0 && args->kv_slot[t] < n_slots);
        CHECK(args->style == ROPE_NONE || args->pos[t] >= 0);
    }
}

/* Every block that some query of the sequence may read is in the table and in the pool. */
static void ops_check_attn_seq(const AttnArgs *args, int32_t s) {
    const KvView *kv = &args->kv;
    int32_t n_queries = args->query_start[s + 1] - args->query_start[s];
    int32_t kv_len = args->kv_len[s];
    CHECK(n_queries >= 0 && kv_len >= n_queries);
    if (n_queries == 0) return;
    int32_t n_blocks = args->table_start[s + 1] - args->table_start[s];
    CHECK((int64_t)n_blocks * kv->block_tokens >= kv_len);
    int32_t lo = ops_attn_range(args, kv_len - n_queries, kv_len).lo;
    for (int32_t b = lo / kv->block_tokens; b <= (kv_len - 1) / kv->block_tokens; b++) {
        int32_t id = args->block_id[args->table_start[s] + b];
        CHECK(id >= 0 && id < kv->n_blocks);
    }
}

void ops_check_attn(const AttnArgs *args) {
    int64_t n_tokens = args->q.shape[0], n_heads = args->q.shape[1];
    ops_check_kv(&args->kv);
    ops_check_3d(&args->q, n_tokens, n_heads, args->kv.head_dim);
    ops_check_3d(&args->out, n_tokens, n_heads, args->kv.head_dim);
    CHECK(n_heads > 0 && n_heads % args->kv.n_kv_heads == 0);
    CHECK(args->window >= 0 && args->softcap >= 0 && args->n_seqs >= 0);
    if (args->n_seqs == 0) return;
    CHECK(args->query_start[0] == 0 && args->query_start[args->n_seqs] == n_tokens);
    for (int32_t s = 0; s < args->n_seqs; s++) ops_check_attn_seq(args, s);
}

void ops_check_act(const ActArgs *args) {
    ops_check_act_kind(args->kind);
    ops_check_2d(&args->gate, args->gate.shape[0], args->gate.shape[1]);
    ops_check_2d(&args->out, args->gate.shape[0], args->gate.shape[1]);
    if (args->up != NULL) ops_check_2d(args->up, args->gate.shape[0], args->gate.shape[1]);
}

void ops_check_moe_route(const MoeRouteArgs *args) {
    ops_check_2d(&args->logits, args->logits.shape[0], args->logits.shape[1]);
    CHECK(args->n_used >= 1 && args->n_used <= args->logits.shape[1]);
    CHECK(args->logits.shape[0] == 0 || (args->expert != NULL && args->weight != NULL));
}

static void ops_check_experts(const Weight *w, int64_t n_experts, int64_t n, int64_t k) {
    for (int64_t e = 0; e < n_experts; e++) {
        CHECK(w[e].t.n_dims == 2 && dtype_can_read(w[e].t.dtype));
        CHECK(w[e].t.shape[0] == n && w[e].t.shape[1] == k);
    }
}

void ops_check_moe(const MoeArgs *args) {
    int64_t n_tokens = args->x.shape[0], dim = args->x.shape[1];
    int64_t n_experts = args->n_experts, ff = args->gate->t.shape[0];
    ops_check_act_kind(args->act);
    ops_check_2d(&args->x, n_tokens, dim);
    ops_check_2d(&args->out, n_tokens, dim);
    ops_check_experts(args->gate, n_experts, ff, dim);
    ops_check_experts(args->up, n_experts, ff, dim);
    ops_check_experts(args->down, n_experts, dim, ff);
    CHECK(args->n_used >= 1 && args->n_used <= n_experts);
    for (int64_t i = 0; i < n_tokens * args->n_used; i++)
        CHECK(args->expert[i] >= 0 && args->expert[i] < n_experts);
}

void ops_check_softcap(const Tensor *x, float cap) {
    ops_check_2d(x, x->shape[0], x->shape[1]);
    CHECK(cap > 0);
}

void ops_check_gather_rows(const Tensor *x, const int32_t *row, int32_t n_rows, const Tensor *out) {
    CHECK(n_rows >= 0);
    for (int32_t i = 0; i < n_rows; i++) CHECK(row[i] >= 0 && row[i] < x->shape[0]);
    ops_check_2d(x, x->shape[0], x->shape[1]);
    ops_check_2d(out, n_rows, x->shape[1]);
}
