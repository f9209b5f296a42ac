#include "compress/convert.h"

#include <stdatomic.h>

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

/* Rows of one tensor, converted together by all threads. */
typedef struct ConvertChunk {
    const ConvertTensor *tensor;
    int64_t first, n_rows, n_cols, row_bytes;
    float *floats;  /* [threads, n_cols] */
    uint8_t *bytes; /* [n_rows, row_bytes] */
    atomic_bool failed;
} ConvertChunk;

enum { CONVERT_CHUNK_BYTES = 4 << 20, CONVERT_TASK_ROWS = 64 };

/* Task: CONVERT_TASK_ROWS rows of the chunk. */
static void convert_chunk_rows(void *context, int64_t task, int32_t thread) {
    ConvertChunk *chunk = context;
    float *row = chunk->floats + thread * chunk->n_cols;
    int64_t first = task * CONVERT_TASK_ROWS;
    for (int64_t r = first; r < MIN(first + CONVERT_TASK_ROWS, chunk->n_rows); r++) {
        convert_read_row(chunk->tensor, chunk->first + r, row);
        if (!dtype_from_f32(chunk->tensor->tensor.dtype, row, chunk->bytes + r * chunk->row_bytes,
                            chunk->n_cols))
            atomic_store(&chunk->failed, true);
    }
}

/* The sentence about the first row that cannot be converted. */
static Status convert_chunk_fail(const ConvertChunk *chunk, Err *err) {
    const ConvertTensor *t = chunk->tensor;
    for (int64_t r = chunk->first; r < chunk->first + chunk->n_rows; r++) {
        convert_read_row(t, r, chunk->floats);
        if (!dtype_from_f32(t->tensor.dtype, chunk->floats, chunk->bytes, chunk->n_cols))
            FAIL(err, ERR_FORMAT,
                 "row %lld of '%s' has an element that is not finite or too large for %s",
                 (long long)r, t->name, dtype_info(t->tensor.dtype)->name);
    }
    CHECK(false);
}

static Status convert_write_tensor(const Convert *c, const ConvertTensor *t, GgufWriter *writer,
                                   Progress *progress, Err *err) {
    ConvertChunk chunk = {.tensor = t, .n_cols = t->tensor.shape[t->tensor.n_dims - 1]};
    chunk.row_bytes = tensor_row_bytes(&t->tensor);
    int64_t n_rows = tensor_len(&t->tensor) / chunk.n_cols;
    int64_t chunk_rows = MIN(n_rows, MAX(1, CONVERT_CHUNK_BYTES / chunk.row_bytes));
    chunk.floats =
        mem_try_alloc((size_t)pool_threads(c->pool), (size_t)chunk.n_cols * sizeof *chunk.floats);
    chunk.bytes = mem_try_alloc((size_t)chunk_rows, (size_t)chunk.row_bytes);
    Status status = OK;
    if (chunk.floats == NULL || chunk.bytes == NULL)
        status = err_set(err, ERR_NOMEM, "no memory for rows of '%s'", t->name);
    for (; chunk.first < n_rows && status == OK; chunk.first += chunk_rows) {
        chunk.n_rows = MIN(chunk_rows, n_rows - chunk.first);
        pool_run(c->pool, DIV_UP(chunk.n_rows, CONVERT_TASK_ROWS), convert_chunk_rows, &chunk);
        if (atomic_load(&chunk.failed))
            status = convert_chunk_fail(&chunk, err);
        else
            status = gguf_write_data(writer, chunk.bytes, chunk.n_rows * chunk.row_bytes, err);
        progress_add(progress, chunk.n_rows * chunk.row_bytes);
    }
    mem_free(chunk.floats);
    mem_free(chunk.bytes);
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
        status = convert_write_tensor(c, &c->tensors[i], writer, progress, err);
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
    if (status == OK) status = pool_open(&c.pool, thread_cores(), err);
    if (status == OK) status = convert_file(&c, out, report, err);
    pool_close(c.pool);
    model_config_free(&c.config);
    mem_free(c.tensors);
    arena_free(&c.arena);
    model_file_close(file);
    return status;
}
