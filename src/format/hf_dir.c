/* A Hugging Face model directory: JSON documents and safetensors, whole or in shards. */
#include <errno.h>

#include "format/model_file_priv.h"

/* *out stays NULL when the document is absent. */
static Status hf_dir_document(const ModelFile *file, const char *name, json_t **out, Err *err) {
    char *path = file_join(file->dir, name);
    Status status = OK;
    if (file_exists(path)) status = json_parse_file(out, path, err);
    if (status == OK && *out != NULL && !json_is_object(*out))
        status = err_set(err, ERR_FORMAT, "'%s' is not a JSON object", path);
    mem_free(path);
    return status;
}

Status hf_dir_documents(ModelFile *file, Err *err) {
    TRY(hf_dir_document(file, "config.json", &file->config, err));
    TRY(hf_dir_document(file, "generation_config.json", &file->generation_config, err));
    return hf_dir_document(file, "tokenizer_config.json", &file->tokenizer_config, err);
}

/* A shard's name must stay in the directory. */
static bool hf_dir_name_is_plain(const char *name) {
    Str s = str_from(name);
    if (!str_ends_with(s, ".safetensors") || s.ptr[0] == '.' || s.len > 255) return false;
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] == '/' || s.ptr[i] == '\\' || (unsigned char)s.ptr[i] < 0x20) return false;
    return true;
}

typedef struct HfShards {
    const char *name[MODEL_PARTS_MAX]; /* borrow from the index */
    int64_t
        first[MODEL_PARTS_MAX + 1]; /* index of the shard's first tensor in the file's entries */
    int32_t n;
    Map by_name;
} HfShards;

static Status hf_dir_shard(ModelFile *file, HfShards *shards, const char *name, Err *err) {
    uint32_t known;
    if (map_find(&shards->by_name, str_from(name), &known)) return OK;
    if (!hf_dir_name_is_plain(name))
        FAIL(err, ERR_FORMAT, "'%s': the index names a shard that is not a plain .safetensors file",
             file->path);
    if (shards->n == MODEL_PARTS_MAX)
        FAIL(err, ERR_LIMIT, "'%s': more than %d shards", file->path, MODEL_PARTS_MAX);
    if (!map_put(&shards->by_name, str_from(name), (uint32_t)shards->n))
        FAIL(err, ERR_NOMEM, "'%s': no memory for the index", file->path);
    shards->name[shards->n] = name;
    shards->first[shards->n++] = file->n_entries;
    char *path = file_join(file->dir, name);
    FileMap map;
    Status status = model_file_map(file, path, &map, err);
    if (status == OK) status = safetensors_read(file, &map, path, err);
    mem_free(path);
    shards->first[shards->n] = file->n_entries;
    return status;
}

/* Every tensor of the index must be in the shard that the index says. */
static Status hf_dir_check_index(ModelFile *file, const HfShards *shards, json_t *weight_map,
                                 Err *err) {
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value) {
        uint32_t shard = 0, entry = 0;
        bool found = map_find(&shards->by_name, str_from(json_string_value(value)), &shard) &&
                     map_find(&file->by_name, str_from(tensor), &entry);
        if (!found || (int64_t)entry < shards->first[shard] ||
            (int64_t)entry >= shards->first[shard + 1])
            FAIL(err, ERR_FORMAT, "'%s': tensor '%s' is not in '%s' as the index says", file->path,
                 tensor, json_string_value(value));
    }
    return OK;
}

static Status hf_dir_shards(ModelFile *file, const char *index_path, Err *err) {
    json_t *index = NULL;
    TRY(json_parse_file(&index, index_path, err));
    HfShards *shards = mem_alloc(sizeof *shards);
    json_t *weight_map = json_object_get(index, "weight_map"), *value;
    const char *tensor;
    Status status = OK;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        status = err_set(err, ERR_FORMAT, "'%s' has no object 'weight_map'", index_path);
    json_object_foreach(weight_map, tensor, value) {
        if (status != OK) break;
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            status = err_set(err, ERR_FORMAT, "'%s': the shard of tensor '%s' is not a name",
                             index_path, tensor);
        else
            status = hf_dir_shard(file, shards, json_string_value(value), err);
    }
    if (status == OK) status = hf_dir_check_index(file, shards, weight_map, err);
    map_free(&shards->by_name);
    mem_free(shards);
    json_decref(index);
    return status;
}

Status hf_dir_open(ModelFile *file, bool metadata_only, Err *err) {
    TRY(hf_dir_documents(file, err));
    if (file->config == NULL) FAIL(err, ERR_NOT_FOUND, "'%s' has no config.json", file->dir);
    if (metadata_only) return OK;
    char *whole = file_join(file->dir, "model.safetensors");
    char *index = file_join(file->dir, "model.safetensors.index.json");
    char *pickle = file_join(file->dir, "pytorch_model.bin");
    Status status;
    FileMap map;
    if (file_exists(whole)) {
        status = model_file_map(file, whole, &map, err);
        if (status == OK) status = safetensors_read(file, &map, whole, err);
    } else if (file_exists(index)) {
        status = hf_dir_shards(file, index, err);
    } else {
        status = err_set(
            err, ERR_NOT_FOUND, "'%s' has neither model.safetensors nor its index%s", file->dir,
            file_exists(pickle) ? "; pickled weights are never read, as they hold code" : "");
    }
    mem_free(whole);
    mem_free(index);
    mem_free(pickle);
    return status;
}
