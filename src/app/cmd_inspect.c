/* inspect: what a model file holds. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/cmd.h"
#include "app/inspect.h"
#include "base/mem.h"
#include "sluice.h"

/* One line per dtype. */
static void inspect_print_types(const Inspect *in) {
    printf("\n%-10s %8s %14s %12s %8s\n", "type", "tensors", "parameters", "size", "share");
    for (int32_t d = 0; d < DTYPE_COUNT; d++) {
        const InspectType *type = &in->type[d];
        if (type->n_tensors == 0) continue;
        char bytes[INSPECT_TEXT_BYTES], params[INSPECT_TEXT_BYTES];
        printf("%-10s %8" PRId64 " %14s %12s %7.1f%%\n", dtype_info((DType)d)->name,
               type->n_tensors, inspect_count(params, type->n_params),
               inspect_bytes(bytes, type->bytes),
               100.0 * (double)type->bytes / (double)MAX(model_file_bytes(in->file), 1));
    }
}

static void inspect_print_tensors(const Inspect *in) {
    int32_t width = 4;
    Str name;
    Tensor t;
    for (int64_t i = 0; i < model_file_n_tensors(in->file); i++) {
        model_file_tensor(in->file, i, &name, &t);
        width = MAX(width, (int32_t)MIN(name.len, (size_t)80));
    }
    printf("\n%-*s  %-8s %-24s %12s\n", width, "name", "type", "shape", "size");
    for (int64_t i = 0; i < model_file_n_tensors(in->file); i++) {
        char shape[TENSOR_TEXT_BYTES], bytes[INSPECT_TEXT_BYTES];
        model_file_tensor(in->file, i, &name, &t);
        tensor_text(&t, shape);
        *(strchr(shape, ']') + 1) = '\0'; /* the dtype has a column of its own */
        printf("%-*.*s  %-8s %-24s %12s\n", width, STR_ARG(name), dtype_info(t.dtype)->name, shape,
               inspect_bytes(bytes, tensor_bytes(&t)));
    }
}

static void inspect_print_rope(const RopeConfig *rope, const char *what) {
    static const char *const scalings[] = {[ROPE_SCALING_NONE] = "",
                                           [ROPE_SCALING_LINEAR] = "linear",
                                           [ROPE_SCALING_YARN] = "yarn",
                                           [ROPE_SCALING_LLAMA3] = "llama3",
                                           [ROPE_SCALING_LONGROPE] = "longrope",
                                           [ROPE_SCALING_FACTORS] = "a factor per dimension"};
    if (rope->style == ROPE_NONE) return;
    printf("%-14s base %g, %d elements of a head, pairs %s", what, rope->theta, rope->dim,
           rope->style == ROPE_NEOX ? "half a head apart" : "side by side");
    if (rope->scaling == ROPE_SCALING_FACTORS || rope->scaling == ROPE_SCALING_LONGROPE)
        printf(", scaled: %s", scalings[rope->scaling]);
    else if (rope->scaling != ROPE_SCALING_NONE)
        printf(", scaled: %s by %g from %d tokens", scalings[rope->scaling], rope->factor,
               rope->original_context);
    printf("\n");
}

static void inspect_print_attention(const ModelConfig *c) {
    int32_t n_windowed = 0;
    for (int32_t i = 0; i < c->n_layers; i++) n_windowed += c->layer_kind[i] == LAYER_WINDOW;
    printf("%-14s %d heads of %d over %d KV heads", "attention", c->n_heads, c->head_dim,
           c->n_kv_heads);
    if (n_windowed > 0)
        printf(", a window of %d in %d of %d layers", c->window, n_windowed, c->n_layers);
    if (c->qk_norm) printf(", q and k normed");
    if (c->attn_softcap > 0) printf(", softcap %g", (double)c->attn_softcap);
    printf("\n");
    inspect_print_rope(&c->rope, "rope");
    if (n_windowed > 0) inspect_print_rope(&c->rope_local, "rope, windowed");
    if (c->learned_pos) printf("%-14s learned, one per position\n", "positions");
}

static void inspect_print_ffn(const ModelConfig *c) {
    static const char *const acts[] = {[ACT_SILU] = "silu",
                                       [ACT_GELU] = "gelu",
                                       [ACT_GELU_TANH] = "gelu (tanh)",
                                       [ACT_RELU] = "relu"};
    printf("%-14s %d wide, %s%s\n", "feed-forward", c->ff_dim, acts[c->act],
           c->ffn_gated ? ", gated" : "");
    if (c->n_experts > 0)
        printf("%-14s %d of %d for a token, %d wide each%s\n", "experts", c->n_experts_used,
               c->n_experts, c->expert_ff_dim, c->moe_normalize ? ", weights normalized" : "");
}

static void inspect_print_tokens(const ModelConfig *c) {
    printf("%-14s %d tokens", "vocabulary", c->vocab);
    if (c->tied_embeddings) printf(", embeddings tied");
    if (c->bos_id >= 0) printf(", begins with %d", c->bos_id);
    for (int32_t i = 0; i < c->n_eos; i++)
        printf("%s%d", i == 0 ? ", ends with " : " ", c->eos_id[i]);
    printf("\n");
}

static void inspect_print_config(const Inspect *in) {
    const ModelConfig *c = &in->config;
    char text[INSPECT_TEXT_BYTES];
    printf("%-14s %s\n", "family", c->arch);
    printf("%-14s %d tokens\n", "context", c->context);
    printf("%-14s %d, %d wide\n", "layers", c->n_layers, c->dim);
    inspect_print_attention(c);
    inspect_print_ffn(c);
    printf("%-14s %s, epsilon %g\n", "norm", c->norm == NORM_RMS ? "RMS" : "layer",
           (double)c->norm_eps);
    inspect_print_tokens(c);
    int64_t elements = 2LL * c->n_layers * c->n_kv_heads * c->head_dim;
    printf("%-14s %s per token in bf16\n", "KV cache", inspect_bytes(text, 2 * elements));
}

static void inspect_print_summary(const Inspect *in) {
    static const char *const formats[] = {[MODEL_HF_DIR] = "Hugging Face directory",
                                          [MODEL_SAFETENSORS] = "safetensors",
                                          [MODEL_GGUF] = "GGUF"};
    char params[INSPECT_TEXT_BYTES], bytes[INSPECT_TEXT_BYTES];
    int64_t n_bytes = model_file_bytes(in->file);
    printf("%-14s %s\n", "file", model_file_path(in->file));
    printf("%-14s %s\n", "format", formats[model_file_format(in->file)]);
    printf("%-14s %s in %" PRId64 " tensors\n", "parameters", inspect_count(params, in->n_params),
           model_file_n_tensors(in->file));
    if (in->n_params > 0)
        printf("%-14s %s, %.2f bits per parameter\n", "size", inspect_bytes(bytes, n_bytes),
               8.0 * (double)n_bytes / (double)in->n_params);
    if (in->has_config) inspect_print_config(in);
    printf("%-14s %s\n", "tokenizer", in->tokenizer);
    if (in->chat.len > 0)
        printf("%-14s template of %zu bytes\n", "chat", in->chat.len);
    else
        printf("%-14s no template\n", "chat");
}

static Status inspect_fail(const sluice_error *error, Err *err) {
    return err_set(err, (Status)error->status, "%s", error->text);
}

/* What running the model with these options would allocate. */
static Status inspect_plan(const Config *config, const char *path, sluice_engine_plan *plan,
                           Err *err) {
    sluice_error error = {0};
    sluice_model *model = NULL;
    sluice_model_options model_options = SLUICE_MODEL_OPTIONS_INIT;
    model_options.n_threads = (int32_t)config->threads;
    model_options.level = config->level;
    model_options.device = config->device;
    model_options.quiet = true;
    if (sluice_model_open(&model, path, &model_options, &error) != SLUICE_OK)
        return inspect_fail(&error, err);
    sluice_engine_options options = SLUICE_ENGINE_OPTIONS_INIT;
    options.max_context = (int32_t)config->context;
    options.block_tokens = (int32_t)config->block_tokens;
    options.kv_dtype = config->kv_dtype;
    plan->size = sizeof *plan;
    sluice_status status = sluice_engine_dry_run(model, &options, plan, &error);
    sluice_model_close(model);
    return status == SLUICE_OK ? OK : inspect_fail(&error, err);
}

static void inspect_print_plan(const sluice_engine_plan *plan) {
    char text[INSPECT_TEXT_BYTES];
    printf("\n%-14s %12s\n", "would allocate", "size");
    printf("%-14s %12s\n", "weights", inspect_bytes(text, plan->weight_bytes));
    printf("%-14s %12s  %" PRId64 " tokens in %d blocks of %d, %s\n", "KV cache",
           inspect_bytes(text, plan->kv_bytes), plan->kv_tokens, plan->n_blocks, plan->block_tokens,
           plan->kv_dtype);
    printf("%-14s %12s  for steps of %d tokens\n", "activations",
           inspect_bytes(text, plan->activation_bytes), plan->max_step_tokens);
    printf("%-14s %12s  %d sequences at once, %d queued\n", "other",
           inspect_bytes(text, plan->other_bytes), plan->max_seqs, plan->max_queue);
    printf("%-14s %12s\n", "in all", inspect_bytes(text, plan->total_bytes));
}

static Status inspect_print(const Inspect *in, const Config *config, Err *err) {
    sluice_engine_plan plan = {0};
    if (config->dry_run) TRY(inspect_plan(config, model_file_path(in->file), &plan, err));
    if (config->json)
        return inspect_print_json(in, config->dry_run ? &plan : NULL, config->tensors,
                                  config->metadata, err);
    inspect_print_summary(in);
    if (model_file_n_tensors(in->file) > 0) inspect_print_types(in);
    if (config->dry_run) inspect_print_plan(&plan);
    if (config->tensors) inspect_print_tensors(in);
    if (config->metadata) inspect_print_metadata(in);
    if (!in->has_config) fprintf(stderr, "\nnot runnable: %s\n", in->config_err.text);
    return OK;
}

static Status inspect_print_template(const Inspect *in, Err *err) {
    if (in->chat.len == 0)
        FAIL(err, ERR_NOT_FOUND, "'%s' has no chat template", model_file_path(in->file));
    printf("%.*s\n", STR_ARG(in->chat));
    return OK;
}

Status cmd_inspect(const Config *config, Err *err) {
    char *path;
    TRY(cmd_model_path(config, &path, err));
    Inspect in;
    Status status = inspect_open(&in, path, err);
    mem_free(path);
    if (status == OK)
        status = config->show_template ? inspect_print_template(&in, err)
                                       : inspect_print(&in, config, err);
    inspect_close(&in);
    return status;
}
