#include "app/load_gen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "app/load_link.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/progress.h"

enum { LOAD_EVENTS = 256, LOAD_READ_BYTES = 65536, LOAD_ASK_SECONDS = 10 };

/* One request under way. */
typedef struct LoadConn {
    LoadLink link;
    LoadRequest *request;
    Buf out; /* the request's bytes */
    size_t out_at;
    Buf in; /* bytes not understood yet */
    bool have_head, chunked, ended;
    int64_t chunk_left; /* -1: a chunk's size line comes next */
    Buf line;           /* of the event stream */
} LoadConn;

typedef struct LoadGen {
    LoadPlan *plan;
    const LoadTarget *target;
    LoadGaps *gaps;
    LoadHost host;
    char *model;
    int epoll_fd;
    int64_t start_us, end_us;
    int32_t n_sent, n_running, n_done;
    LoadConn **running; /* [n_requests], by request; NULL: not running */
    Progress *progress;
} LoadGen;

/* ---- one connection ---- */

/* Keeps what the first request that failed was told. */
static void load_gen_note(LoadPlan *plan, const LoadConn *conn) {
    if (conn->request->good || plan->failure[0] != '\0') return;
    const Str said = buf_str(&conn->line);
    if (conn->request->http_code == 0) {
        snprintf(plan->failure, sizeof plan->failure, "%s",
                 conn->link.failure != NULL ? conn->link.failure : "no answer");
    } else {
        snprintf(plan->failure, sizeof plan->failure, "HTTP %d%s %.*s", conn->request->http_code,
                 conn->request->http_code == 200 ? ", then the stream broke off" : "",
                 (int)MIN(said.len, (size_t)300), said.len > 0 ? said.ptr : "");
    }
}

static void load_gen_finish(LoadGen *gen, LoadConn *conn) {
    load_gen_note(gen->plan, conn);
    load_link_close(&conn->link);
    buf_free(&conn->out);
    buf_free(&conn->in);
    buf_free(&conn->line);
    gen->running[conn->request - gen->plan->request] = NULL;
    gen->end_us = clock_us();
    gen->n_running--;
    gen->n_done++;
    progress_add(gen->progress, 1);
    mem_free(conn);
}

static void load_gen_send(LoadGen *gen, LoadRequest *request) {
    LoadConn *conn = mem_alloc(sizeof *conn);
    conn->request = request;
    conn->chunk_left = -1;
    gen->running[request - gen->plan->request] = conn;
    gen->n_running++;
    gen->n_sent++;
    request->sent_us = clock_us() - gen->start_us;
    request->n_prompt_seen = request->n_cached = -1;
    if (!load_link_open(&conn->link, &gen->host, 0)) {
        load_gen_finish(gen, conn);
        return;
    }
    Buf body = {0};
    load_plan_body(gen->plan, request, gen->model, strstr(gen->target->path, "chat") != NULL,
                   &body);
    buf_append_format(&conn->out,
                      "POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
                      "connection: close\r\ncontent-length: %zu\r\n",
                      gen->target->path, gen->host.host, body.len);
    if (gen->target->api_key != NULL)
        buf_append_format(&conn->out, "authorization: Bearer %s\r\n", gen->target->api_key);
    buf_append_text(&conn->out, "\r\n");
    buf_append_str(&conn->out, buf_str(&body));
    buf_free(&body);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = conn};
    epoll_ctl(gen->epoll_fd, EPOLL_CTL_ADD, conn->link.fd, &event);
}

void load_gen_gap(LoadGaps *gaps, int64_t us) {
    if (gaps->n == gaps->cap) {
        size_t cap = MAX(gaps->cap * 2, (size_t)4096);
        int64_t *grown = realloc(gaps->us, cap * sizeof *grown);
        CHECK(grown != NULL);
        gaps->us = grown;
        gaps->cap = cap;
    }
    gaps->us[gaps->n++] = us;
}

static void load_gen_usage(LoadRequest *request, const json_t *usage) {
    const json_t *prompt = json_object_get(usage, "prompt_tokens");
    const json_t *output = json_object_get(usage, "completion_tokens");
    const json_t *cached =
        json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    if (json_is_integer(prompt)) request->n_prompt_seen = (int32_t)json_integer_value(prompt);
    if (json_is_integer(output)) request->n_output = (int32_t)json_integer_value(output);
    if (json_is_integer(cached)) request->n_cached = (int32_t)json_integer_value(cached);
}

/* A line of the event stream. */
static void load_gen_line(LoadGen *gen, LoadConn *conn, Str line) {
    LoadRequest *request = conn->request;
    if (!str_starts_with(line, "data:")) return;
    line = str_trim(str_slice(line, 5, line.len));
    if (str_is(line, "[DONE]")) {
        conn->ended = true;
        return;
    }
    json_t *event;
    if (json_parse(&event, line, &JSON_LIMITS_REQUEST, "event", NULL) != OK) return;
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const json_t *delta = json_object_get(choice, "delta");
    if (json_string_length(json_object_get(choice, "text")) > 0 ||
        json_string_length(json_object_get(delta, "content")) > 0 ||
        json_string_length(json_object_get(delta, "reasoning")) > 0 ||
        json_string_length(json_object_get(delta, "reasoning_content")) > 0) {
        int64_t now_us = clock_us() - gen->start_us;
        if (request->first_us == 0) {
            request->first_us = now_us;
        } else {
            load_gen_gap(gen->gaps, now_us - request->last_us);
        }
        request->last_us = now_us;
        request->n_output++;
    }
    const json_t *usage = json_object_get(event, "usage");
    if (json_is_object(usage)) load_gen_usage(request, usage);
    json_decref(event);
}

static void load_gen_body(LoadGen *gen, LoadConn *conn, Str data) {
    for (size_t i = 0; i < data.len; i++) {
        if (data.ptr[i] != '\n') {
            buf_append_byte(&conn->line, data.ptr[i]);
            continue;
        }
        load_gen_line(gen, conn, buf_str(&conn->line));
        buf_clear(&conn->line);
    }
}

/* The header, once it is whole. Returns the bytes it takes, 0: not whole yet. */
static size_t load_gen_head(LoadConn *conn) {
    Str in = buf_str(&conn->in);
    size_t end = str_find(in, STR_LIT("\r\n\r\n"), 0);
    if (end == SIZE_MAX) return 0;
    int64_t code;
    if (in.len > 12 && str_to_i64(str_slice(in, 9, 12), &code))
        conn->request->http_code = (int32_t)code;
    char *head = mem_strndup(in.ptr, end);
    conn->chunked = strcasestr(head, "transfer-encoding: chunked") != NULL;
    mem_free(head);
    conn->have_head = true;
    return end + 4;
}

/* Understands as much of `in` as there is whole; returns the bytes that were. */
static size_t load_gen_parse(LoadGen *gen, LoadConn *conn) {
    size_t at = conn->have_head ? 0 : load_gen_head(conn);
    if (!conn->have_head) return 0;
    Str in = buf_str(&conn->in);
    if (!conn->chunked) {
        load_gen_body(gen, conn, str_slice(in, at, in.len));
        return in.len;
    }
    while (at < in.len) {
        if (conn->chunk_left < 0) {
            size_t end = str_find(in, STR_LIT("\r\n"), at);
            if (end == SIZE_MAX) break;
            conn->chunk_left = strtoll(in.ptr + at, NULL, 16) + 2; /* and the CRLF after it */
            at = end + 2;
            continue;
        }
        size_t n = MIN((size_t)conn->chunk_left, in.len - at);
        size_t data = conn->chunk_left > 2 ? MIN(n, (size_t)conn->chunk_left - 2) : 0;
        load_gen_body(gen, conn, str_slice(in, at, at + data));
        at += n;
        conn->chunk_left -= (int64_t)n;
        if (conn->chunk_left == 0) conn->chunk_left = -1;
    }
    return at;
}

static void load_gen_read(LoadGen *gen, LoadConn *conn) {
    for (;;) {
        if (!buf_reserve(&conn->in, LOAD_READ_BYTES)) break;
        ssize_t n = load_link_read(&conn->link, conn->in.data + conn->in.len, LOAD_READ_BYTES);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) break;
        conn->in.len += (size_t)n;
        conn->in.data[conn->in.len] = '\0';
        size_t used = load_gen_parse(gen, conn);
        memmove(conn->in.data, conn->in.data + used, conn->in.len - used);
        conn->in.len -= used;
    }
    conn->request->good = conn->request->http_code == 200 && conn->ended;
    load_gen_finish(gen, conn);
}

/* False: the handshake is not over, or failed. */
static bool load_gen_shake(LoadGen *gen, LoadConn *conn) {
    if (conn->link.shaken) return true;
    const int over = load_link_shake(&conn->link);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (over > 0 || load_link_wants_write(&conn->link)) event.events |= EPOLLOUT;
    epoll_ctl(gen->epoll_fd, EPOLL_CTL_MOD, conn->link.fd, &event);
    if (over < 0) load_gen_finish(gen, conn);
    return over > 0;
}

static void load_gen_write(LoadGen *gen, LoadConn *conn) {
    while (conn->out_at < conn->out.len) {
        ssize_t n = load_link_write(&conn->link, conn->out.data + conn->out_at,
                                    conn->out.len - conn->out_at);
        if (n < 0) return; /* an error shows when reading */
        conn->out_at += (size_t)n;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    epoll_ctl(gen->epoll_fd, EPOLL_CTL_MOD, conn->link.fd, &event);
}

/* ---- which model ---- */

/* The whole reply of GET /v1/models, in out. */
static Status load_gen_ask_models(const LoadGen *gen, Buf *out, Err *err) {
    LoadLink link;
    Buf request = {0};
    buf_append_format(&request, "GET /v1/models HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n",
                      gen->host.host);
    if (gen->target->api_key != NULL)
        buf_append_format(&request, "authorization: Bearer %s\r\n", gen->target->api_key);
    buf_append_text(&request, "\r\n");
    bool good = load_link_open(&link, &gen->host, LOAD_ASK_SECONDS) && load_link_shake(&link) > 0 &&
                load_link_write(&link, request.data, request.len) == (ssize_t)request.len;
    for (ssize_t n = 1; good && n > 0;) {
        if (!buf_reserve(out, LOAD_READ_BYTES)) break;
        n = load_link_read(&link, out->data + out->len, LOAD_READ_BYTES);
        good = n >= 0;
        out->len += (size_t)MAX(n, (ssize_t)0);
    }
    const int error = errno;
    load_link_close(&link);
    buf_free(&request);
    if (!good) FAIL(err, ERR_IO, "cannot reach '%s': %s", gen->host.host, strerror(error));
    return OK;
}

/* The name given, or the first that the server lists. */
static Status load_gen_model(LoadGen *gen, Err *err) {
    if (gen->target->model != NULL) {
        gen->model = mem_strdup(gen->target->model);
        return OK;
    }
    Buf reply = {0};
    json_t *list = NULL;
    Status status = load_gen_ask_models(gen, &reply, err);
    Str text = buf_str(&reply);
    const size_t start = MIN(str_find(text, STR_LIT("{"), 0), text.len);
    while (text.len > start && text.ptr[text.len - 1] != '}') text.len--;
    if (status == OK && json_parse(&list, str_slice(text, start, text.len), &JSON_LIMITS_REQUEST,
                                   "the list of models", NULL) != OK)
        list = NULL;
    const char *id =
        json_string_value(json_object_get(json_array_get(json_object_get(list, "data"), 0), "id"));
    if (status == OK && id == NULL)
        status = err_set(err, ERR_ARG, "'%s' does not say which models it has: give --model-name",
                         gen->target->url);
    if (status == OK) gen->model = mem_strdup(id);
    json_decref(list);
    buf_free(&reply);
    return status;
}

/* ---- the run ---- */

/* Milliseconds until the next request is due; 0: now, -1: none left or no room. */
static int load_gen_wait_ms(const LoadGen *gen) {
    const LoadPlan *plan = gen->plan;
    if (gen->n_sent == plan->n_requests ||
        (gen->target->n_running_max > 0 && gen->n_running >= gen->target->n_running_max))
        return -1;
    int64_t due_us = plan->request[gen->n_sent].at_us - (clock_us() - gen->start_us);
    return due_us <= 0 ? 0 : (int)MIN(due_us / 1000 + 1, (int64_t)1000);
}

static void load_gen_cut_late(LoadGen *gen) {
    int64_t now_us = clock_us() - gen->start_us;
    for (int32_t i = 0; i < gen->n_sent; i++) {
        LoadConn *conn = gen->running[i];
        if (conn != NULL &&
            (double)(now_us - conn->request->sent_us) > gen->target->timeout_s * 1e6)
            load_gen_finish(gen, conn);
    }
}

static void load_gen_loop(LoadGen *gen) {
    struct epoll_event event[LOAD_EVENTS];
    int64_t looked_us = clock_us();
    while (gen->n_done < gen->plan->n_requests) {
        int wait_ms;
        while ((wait_ms = load_gen_wait_ms(gen)) == 0)
            load_gen_send(gen, &gen->plan->request[gen->n_sent]);
        int n = epoll_wait(gen->epoll_fd, event, LOAD_EVENTS, wait_ms < 0 ? 1000 : wait_ms);
        for (int i = 0; i < n; i++) {
            LoadConn *conn = event[i].data.ptr;
            if (!load_gen_shake(gen, conn)) continue;
            if (event[i].events & EPOLLOUT) load_gen_write(gen, conn);
            if (event[i].events & ~(uint32_t)EPOLLOUT) load_gen_read(gen, conn);
        }
        if (clock_us() - looked_us > 1000000) {
            looked_us = clock_us();
            load_gen_cut_late(gen);
        }
    }
}

static void load_gen_play(LoadGen *gen, int64_t *total_us) {
    gen->running = mem_alloc((size_t)gen->plan->n_requests * sizeof(LoadConn *));
    gen->progress = progress_open("requests", gen->plan->n_requests, "answered");
    gen->start_us = gen->end_us = clock_us();
    load_gen_loop(gen);
    progress_close(gen->progress);
    *total_us = gen->end_us - gen->start_us;
    mem_free(gen->running);
}

Status load_gen_run(LoadPlan *plan, const LoadTarget *target, LoadGaps *gaps, int64_t *total_us,
                    Err *err) {
    LoadGen gen = {.plan = plan, .target = target, .gaps = gaps};
    TRY(load_link_host_open(&gen.host, target->url, target->ca, err));
    Status status = load_gen_model(&gen, err);
    gen.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (status == OK && gen.epoll_fd < 0)
        status = err_set(err, ERR_IO, "cannot make an epoll descriptor: %s", strerror(errno));
    if (status == OK) load_gen_play(&gen, total_us);
    if (gen.epoll_fd >= 0) close(gen.epoll_fd);
    load_link_host_close(&gen.host);
    mem_free(gen.model);
    return status;
}
