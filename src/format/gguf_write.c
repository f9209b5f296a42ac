#include "format/gguf_write.h"

#include <errno.h>

#include "base/file.h"
#include "base/mem.h"

enum { GGUF_WRITE_ALIGN = 32 };

struct GgufWriter {
    FileWriter file;
    Buf values, tensors; /* as they stand in the file */
    uint64_t n_values, n_tensors;
    int64_t *tensor_bytes; /* [n_tensors], sizes without padding */
    uint64_t tensors_cap;
    uint64_t data_bytes; /* of all tensors declared so far, padded */
    uint64_t tensor_at;  /* the tensor being written and how much of it is there */
    int64_t tensor_done;
};

Status gguf_write_open(GgufWriter **out, const char *path, Err *err) {
    FileWriter file;
    TRY(file_writer_open(&file, path, err));
    *out = mem_alloc(sizeof **out);
    (*out)->file = file;
    return OK;
}

static void gguf_write_int(Buf *buf, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) buf_append_byte(buf, (char)(value >> (8 * i)));
}

static void gguf_write_text(Buf *buf, Str s) {
    gguf_write_int(buf, s.len, 8);
    buf_append_str(buf, s);
}

static void gguf_write_float(Buf *buf, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_write_int(buf, bits, 4);
}

static Buf *gguf_write_key(GgufWriter *writer, const char *key, GgufType type) {
    gguf_write_text(&writer->values, str_from(key));
    gguf_write_int(&writer->values, type, 4);
    writer->n_values++;
    return &writer->values;
}

static Buf *gguf_write_array(GgufWriter *writer, const char *key, GgufType type, uint64_t n) {
    Buf *buf = gguf_write_key(writer, key, GGUF_ARRAY);
    gguf_write_int(buf, type, 4);
    gguf_write_int(buf, n, 8);
    return buf;
}

void gguf_write_u32(GgufWriter *writer, const char *key, uint32_t value) {
    gguf_write_int(gguf_write_key(writer, key, GGUF_U32), value, 4);
}

void gguf_write_i32(GgufWriter *writer, const char *key, int32_t value) {
    gguf_write_int(gguf_write_key(writer, key, GGUF_I32), (uint32_t)value, 4);
}

void gguf_write_f32(GgufWriter *writer, const char *key, float value) {
    gguf_write_float(gguf_write_key(writer, key, GGUF_F32), value);
}

void gguf_write_bool(GgufWriter *writer, const char *key, bool value) {
    gguf_write_int(gguf_write_key(writer, key, GGUF_BOOL), value, 1);
}

void gguf_write_str(GgufWriter *writer, const char *key, Str value) {
    gguf_write_text(gguf_write_key(writer, key, GGUF_STRING), value);
}

void gguf_write_strs(GgufWriter *writer, const char *key, const Str *value, uint64_t n) {
    Buf *buf = gguf_write_array(writer, key, GGUF_STRING, n);
    for (uint64_t i = 0; i < n; i++) gguf_write_text(buf, value[i]);
}

void gguf_write_i32s(GgufWriter *writer, const char *key, const int32_t *value, uint64_t n) {
    Buf *buf = gguf_write_array(writer, key, GGUF_I32, n);
    for (uint64_t i = 0; i < n; i++) gguf_write_int(buf, (uint32_t)value[i], 4);
}

void gguf_write_f32s(GgufWriter *writer, const char *key, const float *value, uint64_t n) {
    Buf *buf = gguf_write_array(writer, key, GGUF_F32, n);
    for (uint64_t i = 0; i < n; i++) gguf_write_float(buf, value[i]);
}

void gguf_write_bools(GgufWriter *writer, const char *key, const bool *value, uint64_t n) {
    Buf *buf = gguf_write_array(writer, key, GGUF_BOOL, n);
    for (uint64_t i = 0; i < n; i++) gguf_write_int(buf, value[i], 1);
}

static void gguf_write_remember(GgufWriter *writer, int64_t bytes) {
    if (writer->n_tensors == writer->tensors_cap) {
        writer->tensors_cap = MAX(64, writer->tensors_cap * 2);
        int64_t *sizes = mem_alloc(writer->tensors_cap * sizeof *sizes);
        if (writer->n_tensors > 0)
            memcpy(sizes, writer->tensor_bytes, writer->n_tensors * sizeof *sizes);
        mem_free(writer->tensor_bytes);
        writer->tensor_bytes = sizes;
    }
    writer->tensor_bytes[writer->n_tensors++] = bytes;
}

void gguf_write_tensor(GgufWriter *writer, const char *name, const Tensor *tensor) {
    int32_t type = dtype_info(tensor->dtype)->gguf_id;
    CHECK(type >= 0 && strlen(name) <= 64 && tensor->n_dims >= 1);
    Buf *buf = &writer->tensors;
    gguf_write_text(buf, str_from(name));
    gguf_write_int(buf, (uint64_t)tensor->n_dims, 4);
    for (int32_t i = tensor->n_dims - 1; i >= 0; i--)
        gguf_write_int(buf, (uint64_t)tensor->shape[i], 8);
    gguf_write_int(buf, (uint64_t)type, 4);
    gguf_write_int(buf, writer->data_bytes, 8);
    int64_t bytes = tensor_bytes(tensor);
    gguf_write_remember(writer, bytes);
    writer->data_bytes += ALIGN_UP((uint64_t)bytes, (uint64_t)GGUF_WRITE_ALIGN);
}

static Status gguf_write_bytes(GgufWriter *writer, const void *data, size_t bytes, Err *err) {
    if (fwrite(data, 1, bytes, writer->file.stream) != bytes)
        FAIL(err, ERR_IO, "cannot write '%s': %s", writer->file.path, strerror(errno));
    return OK;
}

static Status gguf_write_pad(GgufWriter *writer, uint64_t bytes, Err *err) {
    static const char zeros[GGUF_WRITE_ALIGN];
    return gguf_write_bytes(writer, zeros,
                            (size_t)(ALIGN_UP(bytes, (uint64_t)GGUF_WRITE_ALIGN) - bytes), err);
}

Status gguf_write_begin(GgufWriter *writer, Err *err) {
    Buf head = {0};
    buf_append_text(&head, "GGUF");
    gguf_write_int(&head, 3, 4);
    gguf_write_int(&head, writer->n_tensors, 8);
    gguf_write_int(&head, writer->n_values, 8);
    bool failed = head.failed || writer->values.failed || writer->tensors.failed;
    uint64_t bytes = head.len + writer->values.len + writer->tensors.len;
    Status status = OK;
    if (failed)
        status = err_set(err, ERR_NOMEM, "no memory for the header of '%s'", writer->file.path);
    const Buf *parts[] = {&head, &writer->values, &writer->tensors};
    for (size_t i = 0; i < ARRAY_LEN(parts) && status == OK; i++)
        if (parts[i]->len > 0)
            status = gguf_write_bytes(writer, parts[i]->data, parts[i]->len, err);
    buf_free(&head);
    return status == OK ? gguf_write_pad(writer, bytes, err) : status;
}

Status gguf_write_data(GgufWriter *writer, const void *data, int64_t bytes, Err *err) {
    CHECK(writer->tensor_at < writer->n_tensors);
    int64_t wanted = writer->tensor_bytes[writer->tensor_at];
    CHECK(bytes >= 0 && bytes <= wanted - writer->tensor_done);
    TRY(gguf_write_bytes(writer, data, (size_t)bytes, err));
    writer->tensor_done += bytes;
    if (writer->tensor_done < wanted) return OK;
    writer->tensor_at++;
    writer->tensor_done = 0;
    return gguf_write_pad(writer, (uint64_t)wanted, err);
}

static void gguf_write_free(GgufWriter *writer) {
    buf_free(&writer->values);
    buf_free(&writer->tensors);
    mem_free(writer->tensor_bytes);
    mem_free(writer);
}

Status gguf_write_commit(GgufWriter *writer, Err *err) {
    CHECK(writer->tensor_at == writer->n_tensors);
    Status status = file_writer_commit(&writer->file, err);
    gguf_write_free(writer);
    return status;
}

void gguf_write_abort(GgufWriter *writer) {
    if (writer == NULL) return;
    file_writer_abort(&writer->file);
    gguf_write_free(writer);
}
