#include "engine/request.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

/* Hands out parts of one allocation; with no base it only adds up. */
typedef struct RequestCarve {
    char *base;
    size_t at;
} RequestCarve;

static void *request_carve(RequestCarve *carve, int64_t n, size_t bytes) {
    void *part = carve->base == NULL ? NULL : carve->base + carve->at;
    carve->at += ALIGN_UP((size_t)n * bytes, (size_t)16);
    return part;
}

static void *request_copy(RequestCarve *carve, const void *from, int64_t n, size_t bytes) {
    void *part = request_carve(carve, n, bytes);
    if (part != NULL && n > 0) memcpy(part, from, (size_t)n * bytes);
    return part;
}

static Status request_check_counts(const sluice_request *asked, const RequestRules *rules,
                                   Err *err) {
    if (asked->n < 0 || asked->n > ENGINE_N_MAX) {
        FAIL(err, ERR_ARG, "n is %d, expected 1 to %d", asked->n, ENGINE_N_MAX);
    }
    if (asked->beam_width < 0 || asked->beam_width > ENGINE_N_MAX) {
        FAIL(err, ERR_ARG, "beam_width is %d, expected 0 to %d", asked->beam_width, ENGINE_N_MAX);
    }
    if (asked->beam_width > 1 && asked->n > asked->beam_width) {
        FAIL(err, ERR_ARG, "n is %d, a beam search of width %d returns at most that many", asked->n,
             asked->beam_width);
    }
    if (asked->max_tokens < 0 || asked->min_tokens < 0) {
        FAIL(err, ERR_ARG, "max_tokens is %d and min_tokens %d, expected 0 or more",
             asked->max_tokens, asked->min_tokens);
    }
    if (asked->n_stop < 0 || asked->n_stop > DETOK_STOPS_MAX) {
        FAIL(err, ERR_ARG, "%d stop strings, expected at most %d", asked->n_stop, DETOK_STOPS_MAX);
    }
    if (asked->n_stop > 0 && rules->tokenizer == NULL) {
        FAIL(err, ERR_ARG, "stop strings need a tokenizer, the model has none");
    }
    if (asked->n_stop_ids < 0 || asked->n_stop_ids > ENGINE_STOP_IDS_MAX) {
        FAIL(err, ERR_ARG, "%d stop tokens, expected at most %d", asked->n_stop_ids,
             ENGINE_STOP_IDS_MAX);
    }
    if (asked->prompt_logprobs < -1 || asked->prompt_logprobs > SAMPLER_LOGPROBS_MAX) {
        FAIL(err, ERR_ARG, "prompt_logprobs is %d, expected -1 (none) to %d",
             asked->prompt_logprobs, SAMPLER_LOGPROBS_MAX);
    }
    if (asked->pooling < SLUICE_POOL_NONE || asked->pooling > SLUICE_POOL_CLS) {
        FAIL(err, ERR_ARG, "pooling is %d, there is no such kind", (int)asked->pooling);
    }
    if (asked->deadline_us < 0 || asked->queue_us_max < 0) {
        FAIL(err, ERR_ARG, "deadline is %lld us and that in the queue %lld, expected 0 or more",
             (long long)asked->deadline_us, (long long)asked->queue_us_max);
    }
    return OK;
}

static Status request_check_pointers(const sluice_request *asked, Err *err) {
    if ((asked->prompt == NULL && asked->n_prompt > 0) ||
        (asked->stop == NULL && asked->n_stop > 0) ||
        (asked->stop_ids == NULL && asked->n_stop_ids > 0) ||
        (asked->sampling.bias == NULL && asked->sampling.n_bias > 0) ||
        (asked->allowed == NULL && asked->n_allowed > 0) ||
        (asked->bad == NULL && asked->n_bad > 0)) {
        FAIL(err, ERR_ARG, "an array of the request is NULL although it has a length");
    }
    const char *const names[] = {asked->tenant, asked->cache_salt};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (names[i] != NULL && strlen(names[i]) > ENGINE_TENANT_BYTES_MAX) {
            FAIL(err, ERR_ARG, "tenant or cache_salt has %zu bytes, expected at most %d",
                 strlen(names[i]), ENGINE_TENANT_BYTES_MAX);
        }
    }
    return OK;
}

static Status request_check_tokens(const sluice_request *asked, const EngineLimits *limits,
                                   Err *err) {
    if (asked->n_prompt == 0) FAIL(err, ERR_ARG, "the prompt is empty, expected a token at least");
    for (size_t i = 0; i < asked->n_prompt; i++) {
        if (asked->prompt[i] < 0 || asked->prompt[i] >= limits->vocab) {
            FAIL(err, ERR_ARG, "prompt token %zu is %d, the vocabulary has 0 to %d", i,
                 asked->prompt[i], limits->vocab - 1);
        }
    }
    for (int32_t i = 0; i < asked->n_stop_ids; i++) {
        if (asked->stop_ids[i] < 0 || asked->stop_ids[i] >= limits->vocab) {
            FAIL(err, ERR_ARG, "stop token %d is not in the vocabulary of 0 to %d",
                 asked->stop_ids[i], limits->vocab - 1);
        }
    }
    for (int32_t i = 0; i < asked->n_allowed; i++) {
        if (asked->allowed[i] < 0 || asked->allowed[i] >= limits->vocab) {
            FAIL(err, ERR_ARG, "allowed token %d is not in the vocabulary of 0 to %d",
                 asked->allowed[i], limits->vocab - 1);
        }
    }
    _Static_assert(sizeof(TokenRun) == sizeof(sluice_tokens), "the same pair");
    TRY(sampler_check_bad((const TokenRun *)asked->bad, asked->n_bad, limits->vocab, err));
    for (int32_t i = 0; i < asked->n_stop; i++) {
        const size_t len = asked->stop[i] == NULL ? 0 : strlen(asked->stop[i]);
        if (len == 0 || len > DETOK_STOP_BYTES_MAX) {
            FAIL(err, ERR_ARG, "stop string %d has %zu bytes, expected 1 to %d", i, len,
                 DETOK_STOP_BYTES_MAX);
        }
    }
    return OK;
}

/* What a beam search cannot be combined with. */
static Status request_check_beam(const sluice_request *asked, Err *err) {
    if (asked->beam_width <= 1) return OK;
    if (asked->n_stop > 0 || asked->sampling.n_logprobs >= 0 || asked->sampling.temperature > 0 ||
        asked->prompt_logprobs >= 0 || asked->n_bad > 0) {
        FAIL(err, ERR_UNSUPPORTED,
             "a beam search takes no stop strings, no banned runs, no logprobs and temperature 0");
    }
    if (!(fabsf(asked->length_penalty) <= 100)) {
        FAIL(err, ERR_ARG, "length_penalty is %g, expected -100 to 100",
             (double)asked->length_penalty);
    }
    return OK;
}

/* Blocks of the group that one sequence of n tokens holds at most. */
static int64_t request_blocks(const EngineLimits *limits, int32_t group, int64_t n) {
    const int32_t window = limits->kv.window[group];
    if (window > 0) n = MIN(n, (int64_t)window + limits->max_step_tokens);
    /* One more for a window that starts within a block, one more while a shared one is copied. */
    return DIV_UP(n, limits->kv.block_tokens) + (window > 0) + 1;
}

/* The request must fit an empty engine; else it would wait for ever. */
static Status request_check_fit(const sluice_request *asked, const EngineLimits *limits,
                                int32_t n_seqs, int32_t n_output_max, Err *err) {
    if (asked->n_prompt >= (size_t)limits->max_context && asked->pooling == SLUICE_POOL_NONE) {
        FAIL(err, ERR_ARG, "the prompt has %zu tokens, a context of %d leaves none to generate",
             asked->n_prompt, limits->max_context);
    }
    const int64_t total = (int64_t)asked->n_prompt + n_output_max;
    if (total > limits->max_context) {
        FAIL(err, ERR_ARG, "%zu prompt tokens and max_tokens %d are %lld, the context is %d",
             asked->n_prompt, n_output_max, (long long)total, limits->max_context);
    }
    if (n_seqs > limits->max_seqs) {
        FAIL(err, ERR_ARG, "%d sequences were asked for, the engine runs %d at once", n_seqs,
             limits->max_seqs);
    }
    if (asked->beam_width > 1 && n_seqs > limits->max_logits) {
        FAIL(err, ERR_ARG, "a beam search of width %d does not fit a step of %d tokens", n_seqs,
             limits->max_logits);
    }
    const int32_t n_together = asked->beam_width > 1 ? n_seqs : 1;
    for (int32_t g = 0; g < limits->kv.n_groups; g++) {
        const int64_t blocks = n_together * request_blocks(limits, g, total);
        if (blocks > (int64_t)limits->kv.n_blocks[g] + 1) {
            FAIL(err, ERR_ARG, "%lld tokens take %lld KV blocks of %d tokens, the engine has %d",
                 (long long)total * n_together, (long long)blocks - 1, limits->kv.block_tokens,
                 limits->kv.n_blocks[g]);
        }
    }
    return OK;
}

static Status request_check_sampling(const sluice_sampling *asked, const EngineLimits *limits,
                                     SamplerParams *out, Err *err) {
    *out = (SamplerParams){.temperature = asked->temperature,
                           .top_k = asked->top_k,
                           .top_p = asked->top_p,
                           .min_p = asked->min_p,
                           .repetition_penalty = asked->repetition_penalty,
                           .presence_penalty = asked->presence_penalty,
                           .frequency_penalty = asked->frequency_penalty,
                           .seed = asked->seed,
                           .n_bias = asked->n_bias,
                           .bias = (const LogitBias *)asked->bias,
                           .n_logprobs = asked->n_logprobs};
    _Static_assert(sizeof(LogitBias) == sizeof(sluice_bias), "the same pair");
    return sampler_check(out, limits->vocab, err);
}

static KvSalt request_salt(const sluice_request *asked, uint64_t seed) {
    KvSalt salt;
    for (int32_t i = 0; i < 2; i++) {
        uint64_t h = hash_mix(seed + (uint64_t)i);
        if (asked->tenant != NULL) h = hash_bytes(asked->tenant, strlen(asked->tenant) + 1, h);
        if (asked->cache_salt != NULL) {
            h = hash_bytes(asked->cache_salt, strlen(asked->cache_salt), hash_mix(h));
        }
        salt.word[i] = h;
    }
    return salt;
}

/* The banned runs, one behind the other in memory. */
static void request_layout_bad(Request *r, const sluice_request *asked, RequestCarve *carve) {
    TokenRun *bad = request_carve(carve, asked->n_bad, sizeof *bad);
    for (int32_t i = 0; i < asked->n_bad; i++) {
        int32_t *token = request_copy(carve, asked->bad[i].ids, asked->bad[i].n, sizeof *token);
        if (bad != NULL) bad[i] = (TokenRun){token, asked->bad[i].n};
    }
    r->bad = bad;
}

static void request_layout_seq(Request *r, Seq *seq, RequestCarve *carve) {
    seq->token = request_carve(carve, r->n_prompt + r->n_output_max, sizeof(int32_t));
    if (r->want_logprobs) {
        seq->out.chosen = request_carve(carve, r->n_output_max, sizeof(sluice_logprob));
        if (r->n_top > 0) {
            seq->out.top =
                request_carve(carve, (int64_t)r->n_output_max * r->n_top, sizeof(sluice_logprob));
        }
    }
}

/* Places everything of variable size behind the struct; run twice, to measure and to fill. */
static void request_layout(Request *r, const sluice_request *asked, RequestCarve *carve) {
    (void)request_carve(carve, 1, sizeof *r);
    Seq *seqs = request_carve(carve, r->n_seqs, sizeof *seqs);
    r->seq = seqs;
    for (int32_t i = 0; i < r->n_seqs; i++) {
        Seq none = {0};
        request_layout_seq(r, seqs == NULL ? &none : &seqs[i], carve);
    }
    r->prompt = request_copy(carve, asked->prompt, r->n_prompt, sizeof *r->prompt);
    r->bias = request_carve(carve, r->n_bias + r->n_stop_ids, sizeof *r->bias);
    r->stop_id = request_carve(carve, r->n_stop_ids, sizeof *r->stop_id);
    if (r->want_prompt_logprobs) {
        r->prompt_logprob = request_carve(carve, r->n_prompt, sizeof *r->prompt_logprob);
        r->prompt_top =
            request_carve(carve, (int64_t)r->n_prompt * r->n_prompt_top, sizeof *r->prompt_top);
    }
    r->allowed = NULL;
    if (asked->n_allowed > 0)
        r->allowed = request_carve(carve, DIV_UP(r->vocab, 64), sizeof *r->allowed);
    request_layout_bad(r, asked, carve);
    if (r->pooling != SLUICE_POOL_NONE) {
        r->embedding = request_carve(carve, r->n_embedding, sizeof *r->embedding);
        r->pool_sum = request_carve(carve, r->n_embedding, sizeof *r->pool_sum);
    }
    if (r->beam) {
        r->hypothesis = request_carve(carve, r->n_seqs, sizeof *r->hypothesis);
        for (int32_t i = 0; i < r->n_seqs; i++) {
            int32_t *token = request_carve(carve, r->n_output_max, sizeof *token);
            if (r->hypothesis != NULL) r->hypothesis[i].token = token;
        }
    }
}

static void request_fill_stops(Request *r, const sluice_request *asked, const RequestRules *rules) {
    int32_t n = 0;
    for (int32_t i = 0; i < rules->n_eos && !asked->ignore_eos; i++) {
        r->stop_id[n++] = rules->eos_id[i];
    }
    for (int32_t i = 0; i < asked->n_stop_ids; i++) r->stop_id[n++] = asked->stop_ids[i];
    for (int32_t i = 0; i < r->n_bias; i++) {
        r->bias[i] = (LogitBias){asked->sampling.bias[i].token, asked->sampling.bias[i].bias};
    }
    for (int32_t i = 0; i < asked->n_allowed; i++)
        r->allowed[asked->allowed[i] / 64] |= UINT64_C(1) << (asked->allowed[i] % 64);
    for (int32_t i = 0; i < n; i++) r->bias[r->n_bias + i] = (LogitBias){r->stop_id[i], -INFINITY};
}

/* Text that may pile up before it is fetched, and what the detokenizer may hold back. */
static Status request_open_text(Request *r, Seq *seq, const sluice_request *asked,
                                const RequestRules *rules, Err *err) {
    if (rules->tokenizer == NULL || r->pooling != SLUICE_POOL_NONE) return OK;
    detok_init(&seq->detok, rules->tokenizer, false);
    seq->detok.with_special = r->with_special;
    seq->detok.include_stop = r->include_stop;
    size_t stop_bytes = 0;
    for (int32_t i = 0; i < r->n_stops; i++) {
        /* Each sequence has its own copy, so that freeing is one rule: with the Detok. */
        seq->detok.stop[i] = str_from(mem_strdup(asked->stop[i]));
        stop_bytes = MAX(stop_bytes, seq->detok.stop[i].len);
        seq->detok.n_stops = i + 1;
    }
    const size_t piece = (size_t)rules->piece_bytes_max;
    const size_t pending = MIN((size_t)r->n_output_max * 16, (size_t)ENGINE_TEXT_PENDING_MAX);
    if (!buf_reserve(&seq->detok.held, 2 * (stop_bytes + piece) + 256) ||
        !buf_reserve(&seq->out.text, pending + 4 * (stop_bytes + piece) + 1024)) {
        FAIL(err, ERR_NOMEM, "no memory for the text of a request");
    }
    seq->out.text.bytes_max = seq->out.text.cap;
    return OK;
}

static Status request_open_seqs(Request *r, const sluice_request *asked,
                                const SamplerParams *sampling, const RequestRules *rules,
                                Err *err) {
    for (int32_t i = 0; i < r->n_seqs; i++) {
        Seq *seq = &r->seq[i];
        seq->request = r;
        seq->index = i;
        seq->state = i == 0 ? SEQ_WAITING : SEQ_SIBLING;
        memcpy(seq->token, r->prompt, (size_t)r->n_prompt * sizeof *r->prompt);
        seq->n_tokens = r->n_prompt;
        seq->sampling = *sampling;
        seq->sampling.bias = r->bias;
        seq->sampling.allowed = r->allowed;
        seq->sampling.n_bad = asked->n_bad;
        seq->sampling.bad = r->bad;
        seq->sampling.stream = (uint64_t)i;
        if (r->beam) seq->sampling.n_logprobs = 2 * r->n_seqs;
        seq->out.stop_index = seq->out.stop_id = -1;
        TRY(request_open_text(r, seq, asked, rules, err));
    }
    return OK;
}

static void request_set_fields(Request *r, const sluice_request *asked, const RequestRules *rules,
                               int32_t n_output_max) {
    r->user = asked->user;
    r->on_event = asked->on_event;
    r->n_prompt = (int32_t)asked->n_prompt;
    r->n_output_max = n_output_max;
    r->n_output_min = asked->min_tokens;
    r->beam = asked->beam_width > 1;
    r->n_return = asked->pooling != SLUICE_POOL_NONE ? 1 : MAX(asked->n, 1);
    r->n_seqs = r->beam ? asked->beam_width : r->n_return;
    r->length_penalty = asked->length_penalty;
    r->n_stops = asked->n_stop;
    r->include_stop = asked->include_stop;
    r->with_special = asked->with_special;
    r->n_stop_ids = asked->n_stop_ids + (asked->ignore_eos ? 0 : rules->n_eos);
    r->n_bias = asked->sampling.n_bias;
    r->want_logprobs = asked->sampling.n_logprobs >= 0;
    r->n_top = MAX(asked->sampling.n_logprobs, 0);
    r->want_prompt_logprobs = asked->prompt_logprobs >= 0;
    r->n_prompt_logprobs = 1;
    r->n_prompt_top = MAX(asked->prompt_logprobs, 0);
    r->vocab = rules->limits->vocab;
    r->pooling = asked->pooling;
    r->n_embedding = asked->pooling != SLUICE_POOL_NONE ? rules->limits->dim : 0;
    r->priority = asked->priority;
    r->salt = request_salt(asked, rules->salt_seed);
    r->tenant = asked->tenant == NULL ? 0 : hash_bytes(asked->tenant, strlen(asked->tenant), 1);
    r->deadline_us = asked->deadline_us == 0 ? INT64_MAX : asked->deadline_us;
    r->queue_deadline_us = asked->queue_us_max == 0 ? INT64_MAX : asked->queue_us_max;
    r->usage.n_prompt = r->n_prompt;
}

static Status request_output_max(const sluice_request *asked, const EngineLimits *limits,
                                 int32_t *out, Err *err) {
    if (asked->n_prompt > (size_t)limits->max_context) {
        FAIL(err, ERR_ARG, "the prompt has %zu tokens, the context is %d", asked->n_prompt,
             limits->max_context);
    }
    const int32_t left = limits->max_context - (int32_t)asked->n_prompt;
    *out = asked->max_tokens == 0 ? MAX(left, 1) : asked->max_tokens;
    if (asked->pooling != SLUICE_POOL_NONE) *out = 0;
    return OK;
}

Status request_make(Request **out, const sluice_request *asked, const RequestRules *rules,
                    Err *err) {
    const EngineLimits *limits = rules->limits;
    Request plan = {0};
    SamplerParams sampling;
    int32_t n_output_max = 0;
    TRY(request_check_pointers(asked, err));
    TRY(request_check_counts(asked, rules, err));
    TRY(request_check_beam(asked, err));
    TRY(request_check_sampling(&asked->sampling, limits, &sampling, err));
    TRY(request_output_max(asked, limits, &n_output_max, err));
    TRY(request_check_tokens(asked, limits, err));
    request_set_fields(&plan, asked, rules, n_output_max);
    TRY(request_check_fit(asked, limits, plan.n_seqs, n_output_max, err));
    RequestCarve carve = {0};
    request_layout(&plan, asked, &carve);
    if (carve.at > ENGINE_REQUEST_BYTES_MAX) {
        FAIL(err, ERR_ARG, "tokens and logprobs of the request take %zu bytes, expected at most %d",
             carve.at, ENGINE_REQUEST_BYTES_MAX);
    }
    Request *r = mem_try_alloc(1, carve.at);
    if (r == NULL) FAIL(err, ERR_NOMEM, "no memory for a request of %zu bytes", carve.at);
    *r = plan;
    r->bytes = carve.at;
    carve = (RequestCarve){.base = (char *)r};
    request_layout(r, asked, &carve);
    request_fill_stops(r, asked, rules);
    const Status status = request_open_seqs(r, asked, &sampling, rules, err);
    if (status != OK) {
        request_free(r);
        return status;
    }
    *out = r;
    return OK;
}

void request_free(Request *request) {
    if (request == NULL) return;
    for (int32_t i = 0; i < request->n_seqs; i++) {
        Seq *seq = &request->seq[i];
        if (seq->request == NULL) continue; /* never set up */
        for (int32_t s = 0; s < request->n_stops; s++) mem_free((void *)seq->detok.stop[s].ptr);
        if (seq->detok.tokenizer != NULL) detok_free(&seq->detok);
        buf_free(&seq->out.text);
    }
    mem_free(request);
}

int32_t request_n_output(const Seq *seq) {
    return seq->n_tokens - seq->request->n_prompt;
}

bool request_is_stop_id(const Request *request, int32_t token) {
    for (int32_t i = 0; i < request->n_stop_ids; i++) {
        if (request->stop_id[i] == token) return true;
    }
    return false;
}

void request_take_event(Seq *seq, sluice_event *event) {
    Request *r = seq->request;
    SeqOutput *out = &seq->out;
    const int32_t from = out->n_taken;
    *event = (sluice_event){.size = sizeof *event,
                            .request = r->id,
                            .user = r->user,
                            .index = seq->index,
                            .tokens = seq->token + r->n_prompt + from,
                            .n_tokens = out->n_ready - from,
                            .text = out->text.len > 0 ? out->text.data : "",
                            .text_len = out->text.len,
                            .n_top = r->n_top,
                            .finish = out->finish,
                            .stop_index = out->stop_index,
                            .stop_id = out->stop_id};
    if (out->chosen != NULL) event->chosen = out->chosen + from;
    if (out->top != NULL) event->top = out->top + (size_t)from * (size_t)r->n_top;
    if (seq->index == 0 && from == 0) {
        event->prompt_chosen = r->prompt_logprob;
        event->prompt_top = r->prompt_top;
        event->n_prompt_top = r->n_prompt_top;
    }
    out->n_taken = out->n_ready;
    if (out->finish == SLUICE_FINISH_NONE) return;
    CHECK(!out->final_taken);
    out->final_taken = true;
    event->last = ++r->n_final_taken == r->n_return;
    event->status = out->status;
    event->error = out->error;
    event->usage = &out->usage;
    if (out->finish == SLUICE_FINISH_STOP && r->embedding != NULL) {
        event->embedding = r->embedding;
        event->n_embedding = r->n_embedding;
    }
}
