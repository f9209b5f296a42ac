/* Which tensor of the output comes from where. */
#include <stdio.h>

#include "compress/convert_priv.h"

/* A matrix [rows, cols]; a vector has one row. */
typedef struct ConvertShape {
    int64_t rows, cols;
    bool is_vector;
} ConvertShape;

static ConvertShape convert_shape(const ModelConfig *c, ArchTensor role) {
    int64_t dim = c->dim, ff = c->ff_dim, expert_ff = c->expert_ff_dim;
    int64_t q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim;
    switch (role) {
        case ARCH_EMBED:
        case ARCH_OUTPUT: return (ConvertShape){c->vocab, dim, false};
        case ARCH_POS_EMBED: return (ConvertShape){c->context, dim, false};
        case ARCH_Q: return (ConvertShape){q, dim, false};
        case ARCH_K:
        case ARCH_V: return (ConvertShape){kv, dim, false};
        case ARCH_QKV: return (ConvertShape){q + 2 * kv, dim, false};
        case ARCH_O: return (ConvertShape){dim, q, false};
        case ARCH_Q_NORM:
        case ARCH_K_NORM: return (ConvertShape){1, c->head_dim, true};
        case ARCH_GATE:
        case ARCH_UP: return (ConvertShape){ff, dim, false};
        case ARCH_GATE_UP: return (ConvertShape){2 * ff, dim, false};
        case ARCH_DOWN: return (ConvertShape){dim, ff, false};
        case ARCH_ROUTER: return (ConvertShape){c->n_experts, dim, false};
        case ARCH_EXPERT_GATE:
        case ARCH_EXPERT_UP: return (ConvertShape){expert_ff, dim, false};
        case ARCH_EXPERT_DOWN: return (ConvertShape){dim, expert_ff, false};
        default: return (ConvertShape){1, dim, true}; /* the norms */
    }
}

/* The source's tensor of this role; name gets the last name looked for. */
static bool convert_find(const Convert *c, ArchTensor role, int32_t layer, int32_t expert,
                         bool bias, char name[ARCH_NAME_BYTES], Tensor *out) {
    const char *pattern = (*c->arch->hf_names)[role];
    for (int32_t i = 0; pattern != NULL; i++) {
        bool known = false;
        for (const char *const *prefix = c->arch->hf_prefixes; *prefix != NULL; prefix++) {
            /* Without a prefix only what has none (lm_head) or a bare model's names are meant. */
            if (!arch_tensor_name(name, *prefix, pattern, i, layer, expert)) break;
            known = true;
            char *end = name + strlen(name);
            if (bias && str_ends_with(str_from(name), ".weight"))
                snprintf(end - strlen("weight"), strlen("weight") + 1, "bias");
            if (model_file_find(c->file, name, out)) return true;
        }
        if (!known) return false;
    }
    return false;
}

/* A source tensor as a matrix of plain numbers of the wanted shape. */
static Status convert_check(const Tensor *t, ConvertShape shape, bool transposed, const char *name,
                            Tensor *out, Err *err) {
    char text[TENSOR_TEXT_BYTES];
    int64_t rows = transposed ? shape.cols : shape.rows,
            cols = transposed ? shape.rows : shape.cols;
    bool fits = shape.is_vector ? t->n_dims == 1 && t->shape[0] == cols
                                : t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols;
    if (!fits)
        FAIL(err, ERR_FORMAT, "tensor '%s' is %s, the config wants [%lld, %lld]", name,
             tensor_text(t, text), (long long)rows, (long long)cols);
    if (!dtype_can_read(t->dtype) || dtype_is_grouped(t->dtype))
        FAIL(err, ERR_UNSUPPORTED, "tensor '%s' is %s, wanted floats", name, tensor_text(t, text));
    *out = tensor_2d(t->data, t->dtype, rows, cols);
    return OK;
}

static Status convert_grow(Convert *c, Err *err) {
    if (c->n_tensors < c->tensors_cap) return OK;
    int64_t cap = MAX(256, 2 * c->tensors_cap);
    ConvertTensor *tensors = mem_try_alloc((size_t)cap, sizeof *tensors);
    if (tensors == NULL)
        FAIL(err, ERR_NOMEM, "no memory for a plan of %lld tensors", (long long)cap);
    if (c->n_tensors > 0) memcpy(tensors, c->tensors, (size_t)c->n_tensors * sizeof *tensors);
    mem_free(c->tensors);
    c->tensors = tensors;
    c->tensors_cap = cap;
    return OK;
}

/* What the output keeps a tensor in. */
static DType convert_dtype(const Convert *c, ArchTensor role, ConvertShape shape) {
    DType type = c->options.type;
    if (shape.is_vector || role == ARCH_ROUTER || role == ARCH_POS_EMBED) return DTYPE_F32;
    bool outer = role == ARCH_EMBED || role == ARCH_OUTPUT;
    if (type == DTYPE_Q4_0 && outer) type = DTYPE_Q8_0;
    /* A row that does not divide into groups keeps its numbers in f16. */
    return shape.cols % dtype_info(type)->group_len == 0 ? type : DTYPE_F16;
}

/* A new tensor at the end of the plan, with room for its parts. */
static Status convert_add(Convert *c, ArchTensor role, int32_t layer, bool bias, ConvertShape shape,
                          int32_t n_parts, Err *err) {
    TRY(convert_grow(c, err));
    ConvertTensor *t = &c->tensors[c->n_tensors];
    *t = (ConvertTensor){.n_parts = n_parts};
    CHECK(arch_tensor_name(t->name, "", ARCH_GGUF_NAMES[role], 0, layer, 0));
    if (bias) {
        char *end = t->name + strlen(t->name);
        snprintf(end - strlen("weight"), strlen("weight") + 1, "bias");
    }
    t->parts = arena_alloc(&c->arena, (size_t)n_parts * sizeof *t->parts);
    if (t->parts == NULL) FAIL(err, ERR_NOMEM, "no memory for the plan of '%s'", t->name);
    DType dtype = bias ? DTYPE_F32 : convert_dtype(c, role, shape);
    if (shape.is_vector)
        t->tensor = tensor_1d(NULL, dtype, shape.cols);
    else if (n_parts > 1)
        t->tensor = tensor_3d(NULL, dtype, n_parts, shape.rows, shape.cols);
    else
        t->tensor = tensor_2d(NULL, dtype, shape.rows, shape.cols);
    c->n_tensors++;
    return OK;
}

static int32_t convert_heads(const Convert *c, ArchTensor role) {
    if (c->arch->gguf_rope != ROPE_INTERLEAVED) return 0;
    return role == ARCH_Q ? c->config.n_heads : role == ARCH_K ? c->config.n_kv_heads : 0;
}

static bool convert_is_norm(ArchTensor role) {
    return role == ARCH_OUT_NORM || role == ARCH_ATTN_NORM || role == ARCH_Q_NORM ||
           role == ARCH_K_NORM || role == ARCH_POST_ATTN_NORM || role == ARCH_FFN_NORM ||
           role == ARCH_POST_FFN_NORM;
}

/* A weight that the source must have. */
static Status convert_weight(Convert *c, ArchTensor role, int32_t layer, Err *err) {
    char name[ARCH_NAME_BYTES];
    Tensor source;
    if (!convert_find(c, role, layer, 0, false, name, &source))
        FAIL(err, ERR_FORMAT, "'%s' has no tensor '%s'", model_file_path(c->file), name);
    ConvertShape shape = convert_shape(&c->config, role);
    bool embed = role == ARCH_EMBED || role == ARCH_POS_EMBED || role == ARCH_OUTPUT;
    TRY(convert_add(c, role, layer, false, shape, 1, err));
    ConvertTensor *t = &c->tensors[c->n_tensors - 1];
    t->transposed = c->arch->transposed && !shape.is_vector && !embed;
    t->heads = convert_heads(c, role);
    t->add = convert_is_norm(role) && c->config.norm_plus_one ? 1 : 0;
    c->n_used++;
    return convert_check(&source, shape, t->transposed, name, &t->parts[0], err);
}

/* A bias that it may have. Its elements are the rows of its matrix. */
static Status convert_bias(Convert *c, ArchTensor role, int32_t layer, Err *err) {
    char name[ARCH_NAME_BYTES];
    Tensor source, row;
    if (!convert_find(c, role, layer, 0, true, name, &source)) return OK;
    ConvertShape shape = convert_shape(&c->config, role);
    int64_t n = shape.is_vector ? shape.cols : shape.rows;
    TRY(convert_add(c, role, layer, true, (ConvertShape){1, n, true}, 1, err));
    ConvertTensor *t = &c->tensors[c->n_tensors - 1];
    TRY(convert_check(&source, (ConvertShape){1, n, true}, false, name, &row, err));
    t->heads = convert_heads(c, role);
    t->parts[0] = row;
    c->n_used++;
    return OK;
}

static Status convert_tensor(Convert *c, ArchTensor role, int32_t layer, Err *err) {
    if ((*c->arch->hf_names)[role] == NULL) return OK;
    TRY(convert_weight(c, role, layer, err));
    return convert_bias(c, role, layer, err);
}

/* One matrix per expert in the source, stacked in the output. */
static Status convert_experts_single(Convert *c, ArchTensor role, ArchTensor stacked, int32_t layer,
                                     Err *err) {
    ConvertShape shape = convert_shape(&c->config, role);
    TRY(convert_add(c, stacked, layer, false, shape, c->config.n_experts, err));
    ConvertTensor *t = &c->tensors[c->n_tensors - 1];
    for (int32_t e = 0; e < c->config.n_experts; e++) {
        char name[ARCH_NAME_BYTES];
        Tensor source;
        if (!convert_find(c, role, layer, e, false, name, &source))
            FAIL(err, ERR_FORMAT, "'%s' has no tensor '%s'", model_file_path(c->file), name);
        TRY(convert_check(&source, shape, false, name, &t->parts[e], err));
        c->n_used++;
    }
    return OK;
}

/* A stack [n_experts, rows, cols] in the source, of which each expert's rows from `first` are the
 * output's. */
typedef struct ConvertStack {
    Tensor tensor;
    char name[ARCH_NAME_BYTES];
    int64_t rows, first;
} ConvertStack;

static Status convert_experts_stack(Convert *c, const ConvertStack *stack, ArchTensor role,
                                    ArchTensor stacked, int32_t layer, Err *err) {
    ConvertShape shape = convert_shape(&c->config, role);
    const Tensor *source = &stack->tensor;
    char text[TENSOR_TEXT_BYTES];
    if (source->n_dims != 3 || source->shape[0] != c->config.n_experts ||
        source->shape[1] != stack->rows || source->shape[2] != shape.cols)
        FAIL(err, ERR_FORMAT, "tensor '%s' is %s, the config wants [%d, %lld, %lld]", stack->name,
             tensor_text(source, text), c->config.n_experts, (long long)stack->rows,
             (long long)shape.cols);
    if (!dtype_can_read(source->dtype) || dtype_is_grouped(source->dtype))
        FAIL(err, ERR_UNSUPPORTED, "tensor '%s' is %s, wanted floats", stack->name,
             tensor_text(source, text));
    TRY(convert_add(c, stacked, layer, false, shape, c->config.n_experts, err));
    ConvertTensor *t = &c->tensors[c->n_tensors - 1];
    Tensor all = tensor_2d(source->data, source->dtype, source->shape[0] * stack->rows, shape.cols);
    for (int32_t e = 0; e < c->config.n_experts; e++)
        t->parts[e] = tensor_rows(&all, e * stack->rows + stack->first, shape.rows);
    return OK;
}

static Status convert_experts(Convert *c, int32_t layer, Err *err) {
    int64_t ff = c->config.expert_ff_dim;
    ConvertStack both = {.rows = 2 * ff}, down = {.rows = c->config.dim};
    TRY(convert_tensor(c, ARCH_ROUTER, layer, err));
    if (!convert_find(c, ARCH_EXPERTS_GATE_UP, layer, 0, false, both.name, &both.tensor)) {
        TRY(convert_experts_single(c, ARCH_EXPERT_GATE, ARCH_EXPERTS_GATE, layer, err));
        TRY(convert_experts_single(c, ARCH_EXPERT_UP, ARCH_EXPERTS_UP, layer, err));
        return convert_experts_single(c, ARCH_EXPERT_DOWN, ARCH_EXPERTS_DOWN, layer, err);
    }
    if (!convert_find(c, ARCH_EXPERTS_DOWN, layer, 0, false, down.name, &down.tensor))
        FAIL(err, ERR_FORMAT, "'%s' has no tensor '%s'", model_file_path(c->file), down.name);
    TRY(convert_experts_stack(c, &both, ARCH_EXPERT_GATE, ARCH_EXPERTS_GATE, layer, err));
    both.first = ff;
    TRY(convert_experts_stack(c, &both, ARCH_EXPERT_UP, ARCH_EXPERTS_UP, layer, err));
    c->n_used += 2;
    return convert_experts_stack(c, &down, ARCH_EXPERT_DOWN, ARCH_EXPERTS_DOWN, layer, err);
}

Status convert_plan_add_numbers(Convert *c, const char *name, const double *number, int32_t n,
                                Err *err) {
    TRY(convert_grow(c, err));
    ConvertTensor *t = &c->tensors[c->n_tensors];
    *t = (ConvertTensor){.n_parts = 1, .tensor = tensor_1d(NULL, DTYPE_F32, n)};
    snprintf(t->name, sizeof t->name, "%s", name);
    float *data = arena_alloc(&c->arena, (size_t)n * sizeof *data);
    t->parts = arena_alloc(&c->arena, sizeof *t->parts);
    if (data == NULL || t->parts == NULL) FAIL(err, ERR_NOMEM, "no memory for '%s'", name);
    for (int32_t i = 0; i < n; i++) data[i] = (float)number[i];
    t->parts[0] = tensor_2d(data, DTYPE_F32, 1, n);
    c->n_tensors++;
    return OK;
}

Status convert_plan(Convert *c, Err *err) {
    static const ArchTensor attention[] = {ARCH_ATTN_NORM, ARCH_Q,      ARCH_K,
                                           ARCH_V,         ARCH_QKV,    ARCH_O,
                                           ARCH_Q_NORM,    ARCH_K_NORM, ARCH_POST_ATTN_NORM,
                                           ARCH_FFN_NORM};
    static const ArchTensor dense[] = {ARCH_GATE, ARCH_UP, ARCH_GATE_UP, ARCH_DOWN};
    TRY(convert_tensor(c, ARCH_EMBED, 0, err));
    TRY(convert_tensor(c, ARCH_POS_EMBED, 0, err));
    TRY(convert_tensor(c, ARCH_OUT_NORM, 0, err));
    if (!c->config.tied_embeddings) TRY(convert_tensor(c, ARCH_OUTPUT, 0, err));
    for (int32_t layer = 0; layer < c->config.n_layers; layer++) {
        for (size_t i = 0; i < ARRAY_LEN(attention); i++)
            TRY(convert_tensor(c, attention[i], layer, err));
        if (c->config.layer_moe[layer]) {
            TRY(convert_experts(c, layer, err));
        } else {
            for (size_t i = 0; i < ARRAY_LEN(dense); i++)
                TRY(convert_tensor(c, dense[i], layer, err));
        }
        TRY(convert_tensor(c, ARCH_POST_FFN_NORM, layer, err));
    }
    return convert_config_add_rope(c, err);
}
