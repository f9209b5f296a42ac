#include "app/load_plan.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"

enum {
    LOAD_PLAN_FILE_MAX = 1 << 30,
    LOAD_PLAN_TOKEN_MIN = 256, /* ids above the bytes and specials of most vocabularies */
    LOAD_PLAN_TOKENS = 4096,
    LOAD_PLAN_BLOCK = 512 /* tokens that a hash of a Mooncake trace stands for */
};

/* The generator's streams. */
enum { LOAD_RNG_GAP, LOAD_RNG_TOKEN, LOAD_RNG_SHARED };

/* Appends ids that are a function of seed and stream. */
static void load_plan_tokens(Buf *out, uint64_t seed, uint64_t stream, int64_t n, bool *first) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = rng_bits(seed, stream, (uint64_t)i);
        buf_append_format(out, "%s%d", *first ? "" : ",",
                          (int)(LOAD_PLAN_TOKEN_MIN + bits % LOAD_PLAN_TOKENS));
        *first = false;
    }
}

static void load_plan_begin(const Config *config, Buf *body) {
    buf_append_text(body, "{\"model\":");
    json_write_str(body, str_from(config->model_name == NULL ? "" : config->model_name));
    buf_append_text(body,
                    ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                    "\"temperature\":0,");
}

/* Takes the body over. */
static Status load_plan_add(LoadPlan *plan, int32_t i, int64_t at_us, int32_t n_prompt, Buf *body,
                            Err *err) {
    if (body->failed) FAIL(err, ERR_NOMEM, "no memory for %d requests", plan->n_requests);
    plan->request[i] = (LoadRequest){.at_us = at_us, .body = body->data, .n_prompt = n_prompt};
    *body = (Buf){0};
    return OK;
}

/* When request i leaves: at `rate` a second with exponential gaps, in groups of `burst`. */
static int64_t load_plan_arrival(const Config *config, int32_t i, double *clock_s) {
    if (config->rate <= 0) return 0;
    if (i > 0 && i % config->burst == 0) {
        double u = rng_uniform((uint64_t)config->seed, LOAD_RNG_GAP, (uint64_t)i);
        *clock_s += -log1p(-u) * (double)config->burst / config->rate;
    }
    return (int64_t)(*clock_s * 1e6);
}

static Status load_plan_lengths(LoadPlan *plan, const Config *config, Err *err) {
    double clock_s = 0;
    int64_t shared = MIN(config->shared_prefix, config->input_len);
    for (int32_t i = 0; i < plan->n_requests; i++) {
        Buf body = {0};
        bool first = true;
        load_plan_begin(config, &body);
        buf_append_format(&body, "\"max_tokens\":%lld,\"ignore_eos\":true,\"prompt\":[",
                          (long long)config->output_len);
        load_plan_tokens(&body, (uint64_t)config->seed, LOAD_RNG_SHARED, shared, &first);
        load_plan_tokens(&body, (uint64_t)config->seed, LOAD_RNG_SHARED + 1 + (uint64_t)i,
                         config->input_len - shared, &first);
        buf_append_text(&body, "]}");
        TRY(load_plan_add(plan, i, load_plan_arrival(config, i, &clock_s),
                          (int32_t)config->input_len, &body, err));
    }
    return OK;
}

/* Cuts the first line off rest; false at the end. */
static bool load_plan_line(Str *rest, Str *line) {
    if (rest->len == 0) return false;
    size_t end = MIN(str_find(*rest, STR_LIT("\n"), 0), rest->len);
    *line = str_trim(str_slice(*rest, 0, end));
    *rest = str_slice(*rest, end + 1, rest->len);
    return true;
}

static int32_t load_plan_count(Str text, int64_t max) {
    int32_t n = 0;
    Str line;
    while (n < max && load_plan_line(&text, &line)) n += line.len > 0;
    return n;
}

/* One prompt a line. */
static Status load_plan_prompts(LoadPlan *plan, const Config *config, Str text, Err *err) {
    double clock_s = 0;
    Str line;
    for (int32_t i = 0; i < plan->n_requests && load_plan_line(&text, &line);) {
        if (line.len == 0) continue;
        Buf body = {0};
        load_plan_begin(config, &body);
        buf_append_format(&body, "\"max_tokens\":%lld,\"prompt\":", (long long)config->output_len);
        json_write_str(&body, line);
        buf_append_byte(&body, '}');
        TRY(load_plan_add(plan, i, load_plan_arrival(config, i, &clock_s), -1, &body, err));
        i++;
    }
    return OK;
}

/* A line of a Mooncake trace: {"timestamp": ms, "input_length", "output_length", "hash_ids"}; equal
 * hashes are equal blocks of 512 tokens. */
static Status load_plan_trace_line(LoadPlan *plan, const Config *config, int32_t i, Str line,
                                   Err *err) {
    json_t *row;
    int64_t at_ms = 0, n_in = 0, n_out = 0;
    TRY(json_parse(&row, line, &JSON_LIMITS_REQUEST, config->trace, err));
    Status status = json_get_int(row, "timestamp", 0, INT32_MAX, &at_ms, err);
    if (status == OK) status = json_get_int(row, "input_length", 1, 1 << 24, &n_in, err);
    if (status == OK) status = json_get_int(row, "output_length", 0, 1 << 24, &n_out, err);
    Buf body = {0};
    if (status == OK) {
        const json_t *hashes = json_object_get(row, "hash_ids");
        bool first = true;
        load_plan_begin(config, &body);
        buf_append_format(&body, "\"max_tokens\":%lld,\"ignore_eos\":true,\"prompt\":[",
                          (long long)MAX(n_out, (int64_t)1));
        for (int64_t at = 0, k = 0; at < n_in; at += LOAD_PLAN_BLOCK, k++) {
            const json_t *hash = json_array_get(hashes, (size_t)k);
            uint64_t stream =
                hash != NULL ? (uint64_t)json_integer_value(hash) : (uint64_t)i << 32 | (uint64_t)k;
            load_plan_tokens(&body, (uint64_t)config->seed, LOAD_RNG_SHARED + stream,
                             MIN(n_in - at, (int64_t)LOAD_PLAN_BLOCK), &first);
        }
        buf_append_text(&body, "]}");
        status = load_plan_add(plan, i, (int64_t)((double)at_ms * 1e3 / config->speedup),
                               (int32_t)n_in, &body, err);
    }
    json_decref(row);
    return status;
}

static Status load_plan_trace(LoadPlan *plan, const Config *config, Str text, Err *err) {
    Str line;
    for (int32_t i = 0; i < plan->n_requests && load_plan_line(&text, &line);) {
        if (line.len == 0) continue;
        TRY(load_plan_trace_line(plan, config, i, line, err));
        i++;
    }
    return OK;
}

Status load_plan_make(LoadPlan *plan, const Config *config, Err *err) {
    *plan = (LoadPlan){.url = config->url,
                       .path = "/v1/completions",
                       .api_key = config->api_key,
                       .n_requests = (int32_t)config->requests,
                       .n_running_max = (int32_t)config->concurrency,
                       .timeout_s = config->request_timeout};
    if (config->trace != NULL && config->prompts != NULL)
        FAIL(err, ERR_ARG, "--trace and --prompts exclude each other");
    const char *path = config->trace != NULL ? config->trace : config->prompts;
    Buf text = {0};
    if (path != NULL) {
        TRY(file_read(&text, path, LOAD_PLAN_FILE_MAX, err));
        plan->n_requests = load_plan_count(buf_str(&text), config->requests);
        if (plan->n_requests == 0) {
            buf_free(&text);
            FAIL(err, ERR_ARG, "'%s' holds no request", path);
        }
    }
    plan->request = mem_alloc((size_t)plan->n_requests * sizeof *plan->request);
    Status status = config->trace != NULL     ? load_plan_trace(plan, config, buf_str(&text), err)
                    : config->prompts != NULL ? load_plan_prompts(plan, config, buf_str(&text), err)
                                              : load_plan_lengths(plan, config, err);
    buf_free(&text);
    return status;
}

void load_plan_free(LoadPlan *plan) {
    for (int32_t i = 0; i < plan->n_requests && plan->request != NULL; i++)
        free(plan->request[i].body);
    mem_free(plan->request);
    *plan = (LoadPlan){0};
}
