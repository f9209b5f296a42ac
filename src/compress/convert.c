#include "compress/convert.h"

#include "base/progress.h"
#include "compress/convert_priv.h"

/* GGUF holds the q and k rows of some families so that the two elements that rotate together are
 * neighbours: row h * d + 2 i + j is Hugging Face's row h * d + j * d/2 + i. */
static int64_t convert_source_row(const ConvertTensor *t, int64_t row, int64_t n_rows) {
    if (t->heads == 0) return row;
    int64_t d = n_rows / t->heads, head = row / d, i = row % d;
    return head * d + i % 2 * (d / 2) + i / 2;
}

/* A norm, or a bias, whose elements are reordered as the rows of its matrix are. */
static void convert_read_vector(const ConvertTensor *t, float *out) {
    const Tensor *source = &t->parts[0];
    int64_t n = t->tensor.shape[0], bytes = dtype_info(source->dtype)->group_bytes;
    for (int64_t i = 0; i < n; i++) {
        const char *element = (const char *)source->data + convert_source_row(t, i, n) * bytes;
        dtype_to_f32(source->dtype, element, &out[i], 1);
        out[i] += t->add;
    }
}

static void convert_read_row(const ConvertTensor *t, int64_t row, float *out) {
    if (t->tensor.n_dims == 1) {
        convert_read_vector(t, out);
        return;
    }
    int64_t n_rows = t->parts[0].shape[t->transposed ? 1 : 0];
    int64_t n_cols = t->parts[0].shape[t->transposed ? 0 : 1];
    const Tensor *part = &t->parts[row / n_rows];
    int64_t source = convert_source_row(t, row % n_rows, n_rows);
    const char *data = part->data;
    if (!t->transposed) {
        dtype_to_f32(part->dtype, data + source * tensor_row_bytes(part), out, n_cols);
        return;
    }
    int64_t bytes = dtype_info(part->dtype)->group_bytes;
    for (int64_t i = 0; i < n_cols; i++)
        dtype_to_f32(part->dtype, data + (i * n_rows + source) * bytes, &out[i], 1);
}

static Status convert_write_tensor(const ConvertTensor *t, GgufWriter *writer, Progress *progress,
                                   Err *err) {
    int64_t n_cols = t->tensor.shape[t->tensor.n_dims - 1];
    int64_t n_rows = tensor_len(&t->tensor) / n_cols, row_bytes = tensor_row_bytes(&t->tensor);
    float *row = mem_try_alloc((size_t)n_cols, sizeof *row);
    uint8_t *bytes = mem_try_alloc((size_t)row_bytes, 1);
    Status status = OK;
    if (row == NULL || bytes == NULL)
        status = err_set(err, ERR_NOMEM, "no memory for a row of '%s'", t->name);
    for (int64_t r = 0; r < n_rows && status == OK; r++) {
        convert_read_row(t, r, row);
        if (!dtype_from_f32(t->tensor.dtype, row, bytes, n_cols))
            status =
                err_set(err, ERR_FORMAT,
                        "row %lld of '%s' has an element that is not finite or too large for %s",
                        (long long)r, t->name, dtype_info(t->tensor.dtype)->name);
        else
            status = gguf_write_data(writer, bytes, row_bytes, err);
        progress_add(progress, row_bytes);
    }
    mem_free(row);
    mem_free(bytes);
    return status;
}

static Status convert_write(const Convert *c, GgufWriter *writer, ConvertReport *report, Err *err) {
    convert_config_write(c, writer);
    TRY(convert_tokens_write(c, writer, err));
    *report = (ConvertReport){.n_tensors = c->n_tensors,
                              .n_unused = model_file_n_tensors(c->file) - c->n_used};
    for (int64_t i = 0; i < c->n_tensors; i++) {
        gguf_write_tensor(writer, c->tensors[i].name, &c->tensors[i].tensor);
        report->bytes += tensor_bytes(&c->tensors[i].tensor);
        report->n_weights += tensor_len(&c->tensors[i].tensor);
    }
    TRY(gguf_write_begin(writer, err));
    Progress *progress = c->options.quiet ? NULL : progress_open("converting", report->bytes, "B");
    Status status = OK;
    for (int64_t i = 0; i < c->n_tensors && status == OK; i++)
        status = convert_write_tensor(&c->tensors[i], writer, progress, err);
    progress_close(progress);
    return status;
}

static Status convert_file(Convert *c, const char *out, ConvertReport *report, Err *err) {
    c->arch = arch_find(str_from(c->config.arch));
    CHECK(c->arch != NULL);
    TRY(convert_plan(c, err));
    GgufWriter *writer;
    TRY(gguf_write_open(&writer, out, err));
    Status status = convert_write(c, writer, report, err);
    if (status == OK) return gguf_write_commit(writer, err);
    gguf_write_abort(writer);
    return status;
}

Status convert_to_gguf(const char *model, const char *out, const ConvertOptions *options,
                       ConvertReport *report, Err *err) {
    if (!dtype_can_write(options->type))
        FAIL(err, ERR_ARG, "cannot convert to %s; wanted f32, f16, bf16, q8_0 or q4_0",
             dtype_info(options->type)->name);
    ModelFile *file;
    TRY(model_file_open(&file, model, err));
    Convert c = {.file = file, .options = *options};
    Status status = OK;
    if (model_file_format(file) == MODEL_GGUF)
        status = err_set(err, ERR_ARG, "'%s' is a GGUF file already", model);
    if (status == OK) status = model_config_read(&c.config, file, err);
    if (status == OK) status = convert_file(&c, out, report, err);
    model_config_free(&c.config);
    mem_free(c.tensors);
    arena_free(&c.arena);
    model_file_close(file);
    return status;
}
