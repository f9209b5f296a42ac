/* A ModelFile that no file holds; its one map is memory of its own. */
#include <inttypes.h>

#include "format/model_file_priv.h"

static Status model_file_make_room(ModelFile *file, int64_t n_tensors, int64_t bytes, Err *err) {
    TRY(model_file_reserve(file, n_tensors, err));
    void *data = mem_try_alloc_large((size_t)bytes);
    if (data == NULL)
        FAIL(err, ERR_NOMEM, "no memory for the %" PRId64 " bytes of '%s'", bytes, file->path);
    file->maps[file->n_maps++] = (FileMap){data, (size_t)bytes};
    return OK;
}

Status model_file_make(ModelFile **out, const char *name, json_t *config, int64_t n_tensors,
                       int64_t bytes, Err *err) {
    CHECK(n_tensors > 0 && bytes > 0);
    ModelFile *file = mem_alloc(sizeof *file);
    file->format = MODEL_HF_DIR;
    file->path = mem_strdup(name);
    file->dir = mem_strdup(name);
    file->config = config;
    Status status = model_file_make_room(file, n_tensors, bytes, err);
    if (status != OK) {
        model_file_close(file);
        return status;
    }
    *out = file;
    return OK;
}

Status model_file_make_tensor(ModelFile *file, const char *name, DType dtype, int32_t n_dims,
                              const int64_t *shape, Tensor *out, Err *err) {
    int64_t bytes;
    char *copy = arena_strndup(&file->arena, name, strlen(name));
    if (copy == NULL) FAIL(err, ERR_NOMEM, "no memory for the tensor names of '%s'", file->path);
    if (!model_file_shape(out, dtype, n_dims, shape, &bytes))
        FAIL(err, ERR_ARG, "tensor '%s': its rows do not divide into groups of %s", name,
             dtype_info(dtype)->name);
    FileMap *map = &file->maps[0];
    CHECK(bytes <= (int64_t)map->size - file->made_bytes);
    out->data = (void *)((uintptr_t)map->data + (uintptr_t)file->made_bytes);
    file->made_bytes = ALIGN_UP(file->made_bytes + bytes, (int64_t)CACHE_LINE);
    return model_file_add(file, str_from(copy), out, file->path, err);
}
