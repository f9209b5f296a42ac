#include "sluice.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/sluice_build.h"
#include "engine/sluice_plan.h"
#include "kv/kv_disk_dir.h"
#include "model/kv_store.h"

const char *sluice_strerror(sluice_status status) {
    return status >= 0 && status < (sluice_status)STATUS_COUNT ? status_text((Status)status)
                                                               : "unknown status";
}

void sluice_free(void *p) {
    mem_free(p);
}

/* ---- text -------------------------------------------------------------------------------- */

static Status sluice_need_tokenizer(const sluice_model *m, Err *err) {
    if (m->tokenizer == NULL)
        FAIL(err, ERR_UNSUPPORTED, "the model '%s' has no tokenizer", m->path);
    return OK;
}

static Status sluice_tokenize_into(const sluice_model *m, Str text, EncodeOptions options,
                                   Ints *ids, Err *err) {
    TRY(sluice_need_tokenizer(m, err));
    TRY(tokenizer_encode(m->tokenizer, text, options, ids, err));
    if (ids->failed) FAIL(err, ERR_NOMEM, "no memory for the tokens of %zu bytes", text.len);
    return OK;
}

sluice_status sluice_tokenize(const sluice_model *m, const char *text, size_t len, bool add_special,
                              bool parse_special, int32_t *ids, size_t capacity, size_t *n,
                              sluice_error *err) {
    const EncodeOptions options = {.add_special = add_special, .parse_special = parse_special};
    Err failure = {0};
    Ints all = {0};
    Status status = sluice_tokenize_into(m, (Str){text, len}, options, &all, &failure);
    if (status == OK) {
        *n = all.len;
        if (all.len > 0 && capacity > 0)
            memcpy(ids, all.data, MIN(all.len, capacity) * sizeof *ids);
        if (all.len > capacity) {
            status = err_set(&failure, ERR_LIMIT, "the text has %zu tokens, there is room for %zu",
                             all.len, capacity);
        }
    }
    ints_free(&all);
    return sluice_model_error(status, &failure, err);
}

/* Hands the buffer's memory to the caller, NUL-terminated. */
static Status sluice_give_text(Buf *buf, char **text, size_t *len, Err *err) {
    buf_append_byte(buf, 0);
    if (buf->failed) FAIL(err, ERR_NOMEM, "no memory for a text of %zu bytes", buf->len);
    *text = buf->data;
    *len = buf->len - 1;
    *buf = (Buf){0};
    return OK;
}

static Status sluice_detokenize_into(const sluice_model *m, const int32_t *ids, size_t n,
                                     bool with_special, Buf *out, Err *err) {
    TRY(sluice_need_tokenizer(m, err));
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab(m->tokenizer)) {
            FAIL(err, ERR_ARG, "token %zu is %d, the vocabulary has 0 to %d", i, ids[i],
                 tokenizer_vocab(m->tokenizer) - 1);
        }
    }
    tokenizer_decode(m->tokenizer, ids, n, with_special, out);
    return OK;
}

sluice_status sluice_detokenize(const sluice_model *m, const int32_t *ids, size_t n,
                                bool with_special, char **text, size_t *len, sluice_error *err) {
    Err failure = {0};
    Buf buf = {0};
    Status status = sluice_detokenize_into(m, ids, n, with_special, &buf, &failure);
    if (status == OK) status = sluice_give_text(&buf, text, len, &failure);
    buf_free(&buf);
    return sluice_model_error(status, &failure, err);
}

static Status sluice_token_bytes_into(const sluice_model *m, int32_t id, bool is_first,
                                      bool with_special, Buf *out, Err *err) {
    TRY(sluice_need_tokenizer(m, err));
    if (id < 0 || id >= tokenizer_vocab(m->tokenizer))
        FAIL(err, ERR_ARG, "the token is %d, the vocabulary has 0 to %d", id,
             tokenizer_vocab(m->tokenizer) - 1);
    tokenizer_piece_at(m->tokenizer, id, with_special, is_first, out);
    return OK;
}

sluice_status sluice_token_bytes(const sluice_model *m, int32_t id, bool is_first,
                                 bool with_special, char **bytes, size_t *len, sluice_error *err) {
    Err failure = {0};
    Buf buf = {0};
    Status status = sluice_token_bytes_into(m, id, is_first, with_special, &buf, &failure);
    if (status == OK) status = sluice_give_text(&buf, bytes, len, &failure);
    buf_free(&buf);
    return sluice_model_error(status, &failure, err);
}

static Status sluice_chat_parse(const sluice_model *m, const char *request_json, json_t **out,
                                Err *err) {
    TRY(sluice_need_tokenizer(m, err));
    if (m->chat == NULL) FAIL(err, ERR_NOT_FOUND, "the model '%s' has no chat template", m->path);
    return json_parse(out, str_from(request_json), &JSON_LIMITS_REQUEST, "the chat request", err);
}

sluice_status sluice_chat_render(const sluice_model *m, const char *request_json, char **text,
                                 size_t *len, sluice_error *err) {
    Err failure = {0};
    Buf buf = {0};
    json_t *json = NULL;
    Status status = sluice_chat_parse(m, request_json, &json, &failure);
    if (status == OK) status = chat_render(m->chat, json, time(NULL), &buf, &failure);
    if (status == OK) status = sluice_give_text(&buf, text, len, &failure);
    if (json != NULL) json_decref(json);
    buf_free(&buf);
    return sluice_model_error(status, &failure, err);
}

sluice_status sluice_chat_tokenize(const sluice_model *m, const char *request_json, int32_t **ids,
                                   size_t *n, sluice_error *err) {
    Err failure = {0};
    Ints all = {0};
    json_t *json = NULL;
    Status status = sluice_chat_parse(m, request_json, &json, &failure);
    if (status == OK) status = chat_encode(m->chat, json, time(NULL), &all, &failure);
    if (status == OK && all.failed) {
        status = err_set(&failure, ERR_NOMEM, "no memory for the tokens of the chat");
    }
    if (json != NULL) json_decref(json);
    if (status != OK) {
        ints_free(&all);
        return sluice_model_error(status, &failure, err);
    }
    *ids = all.data;
    *n = all.len;
    return SLUICE_OK;
}

/* ---- engine ------------------------------------------------------------------------------ */

/* The caller's options may be of an older, shorter kind. */
static sluice_engine_options sluice_own_options(const sluice_engine_options *options) {
    sluice_engine_options own = SLUICE_ENGINE_OPTIONS_INIT;
    if (options != NULL) memcpy(&own, options, MIN(options->size, sizeof own));
    return own;
}

sluice_status sluice_engine_dry_run(const sluice_model *model, const sluice_engine_options *options,
                                    sluice_engine_plan *plan, sluice_error *err) {
    const sluice_engine_options own = sluice_own_options(options);
    EnginePlan made;
    Err failure = {0};
    Status status = sluice_plan_make(&made, model, &own, &failure);
    if (status == OK && own.kv_dir != NULL) status = kv_disk_dir_check(own.kv_dir, &failure);
    if (status == OK) {
        const size_t size = plan->size;
        memcpy(plan, &made.sum, MIN(size, sizeof made.sum));
        plan->size = size;
    }
    return sluice_model_error(status, &failure, err);
}

/* Tenants' names are hashed with the seed of the file, so that old prefixes are found again. */
static Status sluice_engine_open_disk(EnginePlan *plan, const sluice_model *model, Err *err) {
    const char *dtype = kv_store_dtype_name(plan->runner.kv_dtype);
    const uint64_t build =
        sluice_build_hash(model->ctx.device, model->ops->level, plan->runner.fast);
    plan->disk.identity[0] = sluice_model_hash(model);
    plan->disk.identity[1] = hash_bytes(dtype, strlen(dtype), build);
    plan->disk.salt_seed = plan->engine.salt_seed;
    TRY(kv_disk_open(&plan->engine.disk, &plan->disk, err));
    plan->engine.salt_seed = kv_disk_salt_seed(plan->engine.disk);
    return OK;
}

/* The CPU serves as many engines as there are; of anything else two would use one queue of work. */
static Status sluice_engine_take(sluice_engine *e, const sluice_model *model, Err *err) {
    sluice_model *own = (sluice_model *)(uintptr_t)model; /* but for this flag nothing changes */
    if (model->ctx.device->id == DEVICE_HOST) return OK;
    if (atomic_exchange(&own->taken, true))
        FAIL(err, ERR_UNSUPPORTED, "an engine has the model already; on %s there is one at a time",
             model->ctx.device->vtable->name);
    e->taken = own;
    return OK;
}

static Status sluice_engine_make(sluice_engine *e, const sluice_model *model,
                                 const sluice_engine_options *options, Err *err) {
    EnginePlan plan;
    TRY(sluice_engine_take(e, model, err));
    TRY(sluice_plan_make(&plan, model, options, err));
    /* Without it prefixes could be probed for by collisions of tenants' names; nothing else hangs
     * on it, so a system that has no random bytes yet still works. */
    if (getrandom(&plan.engine.salt_seed, sizeof plan.engine.salt_seed, GRND_NONBLOCK) < 0) {
        plan.engine.salt_seed = (uint64_t)time(NULL);
    }
    TRY(runner_open(&plan.engine.runner, &plan.runner, err));
    if (plan.disk.dir != NULL) {
        const Status status = sluice_engine_open_disk(&plan, model, err);
        if (status != OK) {
            plan.engine.runner.close(plan.engine.runner.self);
            return status;
        }
    }
    TRY(engine_open(&e->engine, &plan.engine, err));
    if (model->ctx.device->id != DEVICE_HOST) {
        int64_t all, left;
        model->ctx.device->vtable->memory(model->ctx.device, &all, &left);
        e->device_bytes = all - left;
    }
    return engine_start(e->engine, err);
}

sluice_status sluice_engine_open(sluice_engine **out, const sluice_model *model,
                                 const sluice_engine_options *options, sluice_error *err) {
    const sluice_engine_options own = sluice_own_options(options);
    Err failure = {0};
    sluice_engine *e = mem_alloc(sizeof *e);
    const Status status = sluice_engine_make(e, model, &own, &failure);
    if (status != OK) {
        sluice_engine_close(e);
        return sluice_model_error(status, &failure, err);
    }
    *out = e;
    return SLUICE_OK;
}

void sluice_engine_close(sluice_engine *e) {
    if (e == NULL) return;
    engine_close(e->engine);
    if (e->taken != NULL) atomic_store(&e->taken->taken, false);
    mem_free(e);
}

sluice_status sluice_submit(sluice_engine *e, const sluice_request *request, uint64_t *id,
                            sluice_error *err) {
    sluice_request own = SLUICE_REQUEST_INIT;
    Err failure = {0};
    memcpy(&own, request, MIN(request->size, sizeof own));
    uint64_t ignored;
    const Status status = engine_submit(e->engine, &own, id == NULL ? &ignored : id, &failure);
    return sluice_model_error(status, &failure, err);
}

void sluice_cancel(sluice_engine *e, uint64_t id) {
    engine_cancel(e->engine, id);
}

bool sluice_poll(sluice_engine *e, int64_t timeout_us, sluice_event *event) {
    return engine_poll(e->engine, timeout_us, event);
}

int sluice_event_fd(const sluice_engine *e) {
    return engine_event_fd(e->engine);
}

void sluice_engine_get_stats(const sluice_engine *e, sluice_stats *stats) {
    sluice_stats all;
    const size_t size = stats->size;
    engine_get_stats(e->engine, &all);
    all.device_bytes = e->device_bytes;
    memcpy(stats, &all, MIN(size, sizeof all));
    stats->size = size;
}

sluice_status sluice_engine_audit(sluice_engine *e, sluice_error *err) {
    Err failure = {0};
    const Status status = engine_audit(e->engine, &failure);
    return sluice_model_error(status, &failure, err);
}

sluice_status sluice_engine_get_blocks(sluice_engine *e, int64_t timeout_us,
                                       sluice_kv_block *blocks, size_t capacity, size_t *n,
                                       sluice_error *err) {
    Err failure = {0};
    int32_t n_blocks = 0;
    const int32_t room = (int32_t)MIN(capacity, (size_t)INT32_MAX);
    const Status status =
        engine_get_blocks(e->engine, timeout_us, blocks, room, &n_blocks, &failure);
    if (status == OK) *n = (size_t)n_blocks;
    return sluice_model_error(status, &failure, err);
}

sluice_status sluice_engine_clear_cache(sluice_engine *e, sluice_error *err) {
    Err failure = {0};
    const Status status = engine_clear_cache(e->engine, &failure);
    return sluice_model_error(status, &failure, err);
}

bool sluice_engine_read_kv_event(sluice_engine *e, uint64_t from, int64_t timeout_us,
                                 sluice_kv_event *event) {
    _Static_assert((int)SLUICE_BLOCK_TOKENS_MAX == (int)KV_BLOCK_TOKENS_MAX, "the same bound");
    sluice_kv_event all;
    const size_t size = event->size;
    if (!engine_read_kv_event(e->engine, from, timeout_us, &all)) return false;
    memcpy(event, &all, MIN(size, sizeof all));
    event->size = size;
    return true;
}
