#include "server/api_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/api_answer.h"
#include "server/api_error.h"
#include "server/api_logprobs.h"
#include "server/receipt_log.h"
#include "server/server_priv.h"

enum { API_CALL_ARENA_BYTES_MAX = 4 << 20 };

ApiCall *api_call_open(Server *server, HttpExchange *exchange, const ApiFormat *format,
                       const char *prefix) {
    ApiCall *call = mem_alloc(sizeof *call);
    atomic_init(&call->n_refs, 1);
    call->server = server;
    call->exchange = exchange;
    http_ref(exchange);
    call->format = format;
    call->arena.bytes_max = API_CALL_ARENA_BYTES_MAX;
    call->created = (int64_t)time(NULL);
    server_new_id(server, prefix, call->id, sizeof call->id);
    return call;
}

void api_call_make_prompts(ApiCall *call, int32_t n) {
    call->prompt = mem_alloc((size_t)n * sizeof *call->prompt);
}

static void api_call_list(ApiCall *call) {
    Server *server = call->server;
    pthread_mutex_lock(&server->calls_lock);
    call->listed = true;
    call->next = server->calls;
    if (call->next != NULL) call->next->prev = call;
    server->calls = call;
    pthread_mutex_unlock(&server->calls_lock);
}

static void api_call_unlist(ApiCall *call) {
    Server *server = call->server;
    if (!call->listed) return;
    pthread_mutex_lock(&server->calls_lock);
    if (call->next != NULL) call->next->prev = call->prev;
    if (call->prev != NULL) call->prev->next = call->next;
    if (server->calls == call) server->calls = call->next;
    pthread_mutex_unlock(&server->calls_lock);
}

void api_call_unref(ApiCall *call) {
    if (atomic_fetch_sub(&call->n_refs, 1) != 1) return;
    api_call_unlist(call);
    http_unref(call->exchange);
    for (int32_t i = 0; i < call->n_prompts; i++) sluice_free(call->prompt[i].ids);
    for (int32_t i = 0; i < call->n_choices; i++) {
        api_answer_free(&call->choice[i]);
        buf_free(&call->choice[i].text);
        buf_free(&call->choice[i].logprobs);
        buf_free(&call->choice[i].token_ids);
        buf_free(&call->choice[i].prompt_logprobs);
        api_logprobs_lists_free(&call->choice[i].lists);
        api_logprobs_lists_free(&call->choice[i].prompt_lists);
        buf_free(&call->choice[i].said);
        ints_free(&call->choice[i].tokens);
    }
    mem_free(call->failure);
    mem_free(call->prompt);
    mem_free(call->choice);
    buf_free(&call->tools.forced);
    arena_free(&call->arena);
    mem_free(call);
}

/* The client left: what was submitted is cancelled, the rest will not be submitted. */
static void api_call_gone(void *user) {
    ApiCall *call = user;
    atomic_store(&call->cancelled, true);
    int32_t n = atomic_load(&call->n_submitted);
    for (int32_t i = 0; i < n; i++) sluice_cancel(call->server->engine, call->prompt[i].request);
}

/* The first failure is the call's. */
static void api_call_set_failure(ApiCall *call, sluice_status status, const char *text) {
    if (call->failure != NULL) return;
    call->failure = mem_alloc(sizeof *call->failure);
    call->failure->status = status;
    snprintf(call->failure->text, sizeof call->failure->text, "%s", text);
}

/* Ends the call with an error: a reply of its own, or an event in a stream that has begun. */
static void api_call_fail(ApiCall *call, const sluice_error *failure) {
    if (!call->stream_begun) {
        api_error_reply_status(call->exchange, failure, server_retry_seconds(call->server));
        return;
    }
    Buf body = {0};
    ApiDialect dialect = api_error_dialect(http_path(call->exchange));
    api_error_body(&body, dialect, api_error_code(failure->status),
                   &(ApiErrorText){.text = failure->text});
    api_call_send_named(call, dialect == API_ANTHROPIC ? "error" : NULL, buf_str(&body));
    http_stream_end(call->exchange);
    buf_free(&body);
}

void api_call_submit(ApiCall *call) {
    Server *server = call->server;
    if (server->options.log_content)
        log_line(LOG_INFO, "content", "%s asked: %.*s", http_id(call->exchange),
                 STR_ARG(http_body(call->exchange)));
    int32_t n = call->params.request.n;
    if (!call->params.seed_given) call->params.request.sampling.seed = server_new_seed(server);
    call->n_choices = call->n_prompts * n;
    call->choice = mem_alloc((size_t)call->n_choices * sizeof *call->choice);
    for (int32_t k = 0; k < call->n_choices; k++) api_answer_init(call, &call->choice[k]);
    call->n_open = call->n_prompts;
    atomic_fetch_add(&call->n_refs, call->n_prompts);
    http_on_gone(call->exchange, api_call_gone, call);

    sluice_error failure = {0};
    int32_t i = 0;
    server_submit_lock(server);
    const bool admitted = server_admit(server, &failure);
    for (; i < call->n_prompts && admitted && failure.status == SLUICE_OK; i++) {
        sluice_request request = call->params.request;
        request.prompt = call->prompt[i].ids;
        request.n_prompt = call->prompt[i].n;
        request.user = call;
        request.tenant = http_tenant(call->exchange);
        request.queue_us_max = server->options.limits.queue_us_max;
        request.deadline_us = server->options.limits.request_us_max;
        server_metrics_request(&server->metrics, &request);
        if (sluice_submit(server->engine, &request, &call->prompt[i].request, &failure) !=
            SLUICE_OK)
            break;
        atomic_store(&call->n_submitted, i + 1);
    }
    admission_admit(&server->admission, i);
    /* Those not submitted have no events: they count as ended. */
    int32_t n_refused = call->n_prompts - i;
    if (n_refused > 0) {
        api_call_set_failure(call, failure.status, failure.text);
        call->n_open -= n_refused;
        atomic_fetch_sub(&call->n_refs, n_refused);
    }
    bool none_open = call->n_open == 0;
    if (!none_open) api_call_list(call);
    if (atomic_load(&call->cancelled) || n_refused > 0) api_call_gone(call);
    server_submit_unlock(server);
    if (none_open) {
        http_on_gone(call->exchange, NULL, NULL);
        api_call_fail(call, &failure);
    }
    api_call_unref(call);
}

static int32_t api_call_prompt_of(const ApiCall *call, uint64_t request) {
    for (int32_t i = 0; i < call->n_prompts; i++)
        if (call->prompt[i].request == request) return i;
    CHECK(!"an event of an unknown request");
    return 0;
}

static void api_call_tokens(ApiCall *call, ApiChoice *choice, int32_t n) {
    const int64_t now_us = clock_us();
    const bool first = choice->last_us == 0;
    server_metrics_tokens(&call->server->metrics, now_us,
                          first ? http_start_us(call->exchange) : choice->last_us, first);
    choice->last_us = now_us;
    atomic_fetch_add(&call->n_seen, n);
    if (atomic_load(&call->first_us) == 0) atomic_store(&call->first_us, now_us);
}

/* A sequence of this prompt ended. */
static void api_call_count(ApiCall *call, const sluice_event *event, ApiPrompt *prompt) {
    const sluice_usage *usage = event->usage;
    server_metrics_end(&call->server->metrics, event);
    prompt->n_output_max = MAX(prompt->n_output_max, usage->n_output);
    if (event->last) server_metrics_longest(&call->server->metrics, prompt->n_output_max);
    if (!call->params.echo_only) call->n_output_tokens += usage->n_output;
    if (event->index != 0) return;
    call->n_prompt_tokens += usage->n_prompt;
    call->queue_us = MAX(call->queue_us, usage->queue_us);
    call->n_cached_tokens += usage->n_cached;
    call->miss = usage->miss;
    call->miss_at = usage->miss_at;
}

/* The tenant's first digits name it in the log well enough. */
static void api_call_log(const ApiCall *call, const sluice_event *event) {
    const int64_t now_us = clock_us(), start_us = http_start_us(call->exchange);
    const int64_t first_us = atomic_load(&call->first_us);
    const char *how = api_call_finish_text(event->finish);
    if (atomic_load(&call->cancelled)) how = "gone";
    if (call->failure != NULL) how = "error";
    log_line(LOG_INFO, "request",
             "%s %s tenant=%.8s prompt=%lld cached=%lld output=%lld finish=%s queue_ms=%.1f "
             "ttft_ms=%.1f ms=%.1f%s%s",
             http_id(call->exchange), call->id, http_tenant(call->exchange),
             (long long)call->n_prompt_tokens, (long long)call->n_cached_tokens,
             (long long)call->n_output_tokens, how, (double)call->queue_us * 1e-3,
             first_us == 0 ? -1 : (double)(first_us - start_us) * 1e-3,
             (double)(now_us - start_us) * 1e-3, call->failure != NULL ? " error=" : "",
             call->failure != NULL ? call->failure->text : "");
    for (int32_t i = 0; i < call->n_choices && call->server->options.log_content; i++)
        log_line(LOG_INFO, "content", "%s answered: %.*s", http_id(call->exchange),
                 STR_ARG(buf_str(&call->choice[i].said)));
}

static void api_call_receipt(const ApiCall *call) {
    const Server *server = call->server;
    Receipt *receipt = mem_alloc(sizeof *receipt);
    snprintf(receipt->id, sizeof receipt->id, "%s", call->id);
    receipt->created = call->created;
    receipt->model_path = server->info.path;
    receipt->build = server->options.build;
    receipt->request = call->params.request;
    receipt->n_prompts = call->n_prompts;
    receipt->n_outputs = call->n_choices;
    for (int32_t i = 0; i < call->n_prompts; i++)
        receipt->prompt[i] = (ReceiptTokens){.ids = call->prompt[i].ids, .n = call->prompt[i].n};
    for (int32_t i = 0; i < call->n_choices; i++) {
        const ApiChoice *choice = &call->choice[i];
        receipt->output[i] =
            (ReceiptTokens){choice->tokens.data, choice->tokens.len, choice->ended};
    }
    if (!receipt_log_add(server->receipts, receipt))
        log_line(LOG_WARN, "receipts", "too many wait to be written: %s is lost", call->id);
    mem_free(receipt);
}

void api_call_event(ApiCall *call, const sluice_event *event) {
    int32_t prompt = api_call_prompt_of(call, event->request);
    sluice_event mine = *event;
    mine.index = prompt * call->params.request.n + event->index;
    ApiChoice *choice = &call->choice[mine.index];
    if (call->server->options.log_content) buf_append(&choice->said, event->text, event->text_len);
    if (event->n_tokens > 0) api_call_tokens(call, choice, event->n_tokens);
    if (call->server->receipts != NULL)
        ints_append(&choice->tokens, event->tokens, (size_t)event->n_tokens);
    if (event->finish != SLUICE_FINISH_NONE) choice->ended = event->finish;
    if (event->usage != NULL) {
        api_call_count(call, event, &call->prompt[prompt]);
        server_note_service(call->server, event->usage);
    }
    bool failed = event->finish == SLUICE_FINISH_ERROR || event->finish == SLUICE_FINISH_DEADLINE;
    if (failed)
        api_call_set_failure(call, event->status,
                             event->error != NULL ? event->error : "the generation failed");
    bool alive = !atomic_load(&call->cancelled) && call->failure == NULL;
    if (alive) call->format->event(call, &mine);
    if (!event->last) return;
    call->n_open--;
    if (call->n_open == 0) {
        api_call_log(call, event);
        if (call->server->receipts != NULL && call->params.request.pooling == SLUICE_POOL_NONE)
            api_call_receipt(call);
        http_on_gone(call->exchange, NULL, NULL);
        if (call->failure != NULL) {
            api_call_fail(call, call->failure);
        } else if (atomic_load(&call->cancelled)) {
            sluice_error cancelled = {SLUICE_ERR_CANCELLED, "the request was cancelled"};
            api_call_fail(call, &cancelled);
        } else {
            call->format->finish(call);
        }
    }
    api_call_unref(call);
}

static void api_call_begin_stream(ApiCall *call) {
    if (call->stream_begun) return;
    call->stream_begun = true;
    http_reply_header(call->exchange, "cache-control", "no-cache");
    http_stream_begin(call->exchange, 200, "text/event-stream");
}

void api_call_send(ApiCall *call, Str json) {
    api_call_send_named(call, NULL, json);
}

void api_call_send_named(ApiCall *call, const char *name, Str json) {
    api_call_begin_stream(call);
    call->n_sent++;
    call->sent_us = clock_us();
    Buf frame = {0};
    if (name != NULL) buf_append_format(&frame, "event: %s\n", name);
    buf_append_text(&frame, "data: ");
    buf_append_str(&frame, json);
    buf_append_text(&frame, "\n\n");
    http_stream_write(call->exchange, buf_str(&frame));
    buf_free(&frame);
}

void api_call_ping(ApiCall *call, int64_t now_us) {
    const ServerLimits *limits = &call->server->options.limits;
    /* Until a request has left the queue, the status may still be that of a refusal. */
    const int64_t first_us = MAX(limits->ping_us, limits->queue_us_max);
    if (!call->params.stream || call->n_open == 0) return;
    if (call->sent_us != 0 && now_us - call->sent_us < limits->ping_us) return;
    if (call->sent_us == 0 && now_us - http_start_us(call->exchange) < first_us) return;
    api_call_begin_stream(call);
    call->sent_us = now_us;
    http_stream_write(call->exchange, STR_LIT(": keep-alive\n\n"));
}

const char *api_call_miss_text(sluice_miss miss) {
    static const char *const texts[] = {"none",  "new",  "different", "evicted",
                                        "short", "salt", "window",    "off"};
    return (unsigned)miss < ARRAY_LEN(texts) ? texts[miss] : "unknown";
}

const char *api_call_finish_text(sluice_finish finish) {
    switch (finish) {
        case SLUICE_FINISH_STOP: return "stop";
        case SLUICE_FINISH_LENGTH: return "length";
        case SLUICE_FINISH_NONE:
        case SLUICE_FINISH_CANCELLED:
        case SLUICE_FINISH_DEADLINE:
        case SLUICE_FINISH_ERROR: break;
    }
    return "stop";
}
