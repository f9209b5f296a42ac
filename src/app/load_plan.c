#include "app/load_plan.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"

enum {
    LOAD_PLAN_FILE_MAX = 1 << 30,
    LOAD_PLAN_BLOCK = 512, /* tokens that a hash of a Mooncake trace stands for */
    LOAD_PLAN_SECOND_US = 1000000
};

/* Streams of the generator; tokens of parts stand above. */
enum { LOAD_RNG_GAP, LOAD_RNG_PART };

/* Streams of parts: what is shared, what a trace's hash names, what is a request's own. */
#define LOAD_STREAM_SHARED    0
#define LOAD_STREAM_HASH(id)  ((uint64_t)1 << 62 | (uint64_t)(id))
#define LOAD_STREAM_OWN(i, k) ((uint64_t)1 << 61 | (uint64_t)(i) << 24 | (uint64_t)(k))

void load_plan_ids(const LoadPlan *plan, const LoadRequest *request, Ints *out) {
    for (int32_t p = 0; p < request->n_parts; p++) {
        for (int32_t i = 0; i < request->part[p].n; i++) {
            uint64_t bits =
                rng_bits(plan->seed, LOAD_RNG_PART + request->part[p].stream, (uint64_t)i);
            ints_push(out, LOAD_PLAN_TOKEN_MIN + (int32_t)(bits % LOAD_PLAN_TOKENS));
        }
    }
}

/* Words that are a token of most vocabularies: a token's number picks one. */
static const char *const LOAD_PLAN_WORDS[] = {
    "time",  "year",  "people", "way",   "day",   "man",  "thing", "woman", "life",
    "child", "world", "hand",   "part",  "place", "case", "week",  "work",  "fact",
    "group", "point", "home",   "water", "room",  "area", "money", "story", "month",
    "lot",   "right", "study",  "book",  "eye",   "job",  "word",  "side",  "kind",
    "head",  "house", "friend", "power", "hour",  "game", "line",  "end"};

static void load_plan_write_ids(const Ints *ids, Buf *out) {
    for (size_t i = 0; i < ids->len; i++)
        buf_append_format(out, "%c%d", i == 0 ? '[' : ',', ids->data[i]);
    buf_append_byte(out, ']');
}

static void load_plan_write_words(const Ints *ids, Buf *out) {
    for (size_t i = 0; i < ids->len; i++)
        buf_append_format(out, "%c%s", i == 0 ? '"' : ' ',
                          LOAD_PLAN_WORDS[(size_t)ids->data[i] % ARRAY_LEN(LOAD_PLAN_WORDS)]);
    buf_append_byte(out, '"');
}

void load_plan_body(const LoadPlan *plan, const LoadRequest *request, const char *model, bool chat,
                    Buf *out) {
    buf_append_text(out, "{\"model\":");
    json_write_str(out, str_from(model));
    buf_append_format(out,
                      ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                      "\"temperature\":0,\"max_tokens\":%d,%s%s",
                      request->n_output_max, plan->ignore_eos ? "\"ignore_eos\":true," : "",
                      chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
    Ints ids = {0};
    load_plan_ids(plan, request, &ids);
    if (request->n_parts == 0) {
        json_write_str(out, request->text);
    } else if (chat || plan->words) {
        load_plan_write_words(&ids, out);
    } else {
        load_plan_write_ids(&ids, out);
    }
    ints_free(&ids);
    buf_append_text(out, chat ? "}]}" : "}");
}

/* ---- arrivals and lengths by option ---- */

/* When request i leaves: at `rate` a second with exponential gaps, in groups of `burst`. */
static int64_t load_plan_arrival(const LoadPlan *plan, const Config *config, int32_t i,
                                 double *clock_s) {
    if (config->rate <= 0) return 0;
    if (i > 0 && i % config->burst == 0) {
        double u = rng_uniform(plan->seed, LOAD_RNG_GAP, (uint64_t)i);
        *clock_s += -log1p(-u) * (double)config->burst / config->rate;
    }
    return (int64_t)(*clock_s * LOAD_PLAN_SECOND_US);
}

static void load_plan_lengths(LoadPlan *plan, const Config *config) {
    double clock_s = 0;
    int32_t n = (int32_t)config->input_len, shared = (int32_t)MIN(config->shared_prefix, n);
    for (int32_t i = 0; i < plan->n_requests; i++) {
        LoadRequest *r = &plan->request[i];
        r->at_us = load_plan_arrival(plan, config, i, &clock_s);
        r->n_prompt = n;
        r->n_output_max = (int32_t)config->output_len;
        r->part = mem_alloc(2 * sizeof *r->part);
        if (shared > 0) r->part[r->n_parts++] = (LoadPart){LOAD_STREAM_SHARED, shared};
        if (n > shared) r->part[r->n_parts++] = (LoadPart){LOAD_STREAM_OWN(i, 0), n - shared};
    }
}

/* ---- files of one request a line ---- */

/* Cuts the first line off rest; false at the end. */
static bool load_plan_line(Str *rest, Str *line) {
    if (rest->len == 0) return false;
    size_t end = MIN(str_find(*rest, STR_LIT("\n"), 0), rest->len);
    *line = str_trim(str_slice(*rest, 0, end));
    *rest = str_slice(*rest, end + 1, rest->len);
    return true;
}

static Status load_plan_text(LoadPlan *plan, const Config *config, int32_t i, Str line, Err *err) {
    (void)err;
    LoadRequest *r = &plan->request[i];
    double clock_s = i > 0 ? (double)plan->request[i - 1].at_us / LOAD_PLAN_SECOND_US : 0;
    r->at_us = load_plan_arrival(plan, config, i, &clock_s);
    r->text = line;
    r->n_prompt = -1;
    r->n_output_max = (int32_t)config->output_len;
    return OK;
}

/* A line of a Mooncake trace: {"timestamp": ms, "input_length", "output_length", "hash_ids"}; equal
 * hashes are equal blocks of 512 tokens. source: Qin et al., "Mooncake", arXiv 2407.00079. */
static Status load_plan_mooncake(LoadPlan *plan, const Config *config, int32_t i, Str line,
                                 Err *err) {
    json_t *row;
    int64_t at_ms = 0, n_in = 0, n_out = 0;
    TRY(json_parse(&row, line, &JSON_LIMITS_REQUEST, config->trace, err));
    Status status = json_get_int(row, "timestamp", 0, INT32_MAX, &at_ms, err);
    if (status == OK) status = json_get_int(row, "input_length", 1, 1 << 24, &n_in, err);
    if (status == OK) status = json_get_int(row, "output_length", 0, 1 << 24, &n_out, err);
    if (status == OK) {
        const json_t *hashes = json_object_get(row, "hash_ids");
        LoadRequest *r = &plan->request[i];
        r->at_us = at_ms * 1000;
        r->n_prompt = (int32_t)n_in;
        r->n_output_max = (int32_t)MAX(n_out, (int64_t)1);
        r->part = mem_alloc((size_t)DIV_UP(n_in, LOAD_PLAN_BLOCK) * sizeof *r->part);
        for (int64_t at = 0; at < n_in; at += LOAD_PLAN_BLOCK) {
            const json_t *hash = json_array_get(hashes, (size_t)r->n_parts);
            uint64_t stream = json_is_integer(hash) ? LOAD_STREAM_HASH(json_integer_value(hash))
                                                    : LOAD_STREAM_OWN(i, r->n_parts);
            r->part[r->n_parts++] =
                (LoadPart){stream, (int32_t)MIN(n_in - at, (int64_t)LOAD_PLAN_BLOCK)};
        }
    }
    json_decref(row);
    return status;
}

/* A line of an Azure trace: "2023-11-16 18:17:03.9799600,4808,10". */
static Status load_plan_azure(LoadPlan *plan, const Config *config, int32_t i, Str line, Err *err) {
    size_t first = str_find(line, STR_LIT(","), 0);
    size_t second = first == SIZE_MAX ? SIZE_MAX : str_find(line, STR_LIT(","), first + 1);
    int64_t n_in = 0, n_out = 0;
    struct tm day = {0};
    char *text = mem_strndup(line.ptr, MIN(first, line.len));
    char *rest = strptime(text, "%Y-%m-%d %H:%M:%S", &day);
    double fraction = 0;
    bool good = rest != NULL && second != SIZE_MAX &&
                (*rest == '\0' || str_to_f64(str_from(rest), &fraction)) &&
                str_to_i64(str_slice(line, first + 1, second), &n_in) &&
                str_to_i64(str_slice(line, second + 1, line.len), &n_out) && n_in > 0 &&
                n_in <= 1 << 24 && n_out >= 0 && n_out <= 1 << 24;
    mem_free(text);
    if (!good)
        FAIL(err, ERR_FORMAT, "%s: got '%.*s', wanted time,prompt tokens,generated tokens",
             config->trace, STR_ARG(line));
    LoadRequest *r = &plan->request[i];
    r->at_us = (int64_t)timegm(&day) * LOAD_PLAN_SECOND_US + (int64_t)(fraction * 1e6);
    r->n_prompt = (int32_t)n_in;
    r->n_output_max = (int32_t)MAX(n_out, (int64_t)1);
    r->part = mem_alloc(sizeof *r->part);
    r->part[r->n_parts++] = (LoadPart){LOAD_STREAM_OWN(i, 0), r->n_prompt};
    return OK;
}

typedef Status (*LoadPlanLine)(LoadPlan *plan, const Config *config, int32_t i, Str line, Err *err);

static Status load_plan_lines(LoadPlan *plan, const Config *config, Str text, LoadPlanLine take,
                              Err *err) {
    Str line;
    int32_t n = 0;
    while (n < plan->n_requests && load_plan_line(&text, &line)) {
        if (line.len == 0) continue;
        TRY(take(plan, config, n, line, err));
        n++;
    }
    plan->n_requests = n;
    if (n == 0) FAIL(err, ERR_ARG, "the file holds no request");
    return OK;
}

static int load_plan_compare(const void *a, const void *b) {
    int64_t x = ((const LoadRequest *)a)->at_us, y = ((const LoadRequest *)b)->at_us;
    return (x > y) - (x < y);
}

/* A trace begins at 0 and may be played faster. */
static void load_plan_rebase(LoadPlan *plan, double speedup) {
    qsort(plan->request, (size_t)plan->n_requests, sizeof *plan->request, load_plan_compare);
    int64_t start_us = plan->request[0].at_us;
    for (int32_t i = 0; i < plan->n_requests; i++)
        plan->request[i].at_us = (int64_t)((double)(plan->request[i].at_us - start_us) / speedup);
}

static Status load_plan_file(LoadPlan *plan, const Config *config, Err *err) {
    Str text = buf_str(&plan->text);
    if (config->trace == NULL) {
        plan->ignore_eos = false;
        return load_plan_lines(plan, config, text, load_plan_text, err);
    }
    bool azure = !str_starts_with(text, "{");
    Str head;
    if (azure && str_starts_with(text, "TIMESTAMP")) (void)load_plan_line(&text, &head);
    TRY(load_plan_lines(plan, config, text, azure ? load_plan_azure : load_plan_mooncake, err));
    load_plan_rebase(plan, config->speedup);
    return OK;
}

static int32_t load_plan_count_lines(Str text) {
    Str line;
    int32_t n = 0;
    while (load_plan_line(&text, &line)) n += line.len > 0;
    return n;
}

Status load_plan_make(LoadPlan *plan, const Config *config, Err *err) {
    *plan = (LoadPlan){.n_requests = (int32_t)config->requests,
                       .seed = (uint64_t)config->seed,
                       .ignore_eos = !config->portable,
                       .words = config->portable};
    if (config->trace != NULL && config->prompts != NULL)
        FAIL(err, ERR_ARG, "--trace and --prompts exclude each other");
    const char *path = config->trace != NULL ? config->trace : config->prompts;
    if (path != NULL) TRY(file_read(&plan->text, path, LOAD_PLAN_FILE_MAX, err));
    if (config->trace != NULL && !config_given(config, CONFIG_requests))
        plan->n_requests = MAX(load_plan_count_lines(buf_str(&plan->text)), 1);
    plan->request = mem_try_alloc((size_t)plan->n_requests, sizeof *plan->request);
    if (plan->request == NULL) FAIL(err, ERR_NOMEM, "no memory for %d requests", plan->n_requests);
    if (path != NULL) return load_plan_file(plan, config, err);
    load_plan_lengths(plan, config);
    return OK;
}

void load_plan_free(LoadPlan *plan) {
    for (int32_t i = 0; i < plan->n_requests && plan->request != NULL; i++)
        mem_free(plan->request[i].part);
    mem_free(plan->request);
    buf_free(&plan->text);
    *plan = (LoadPlan){0};
}
