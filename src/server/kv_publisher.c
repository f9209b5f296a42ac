#include "server/kv_publisher.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/msgpack.h"

enum { KV_PUBLISHER_WAIT_US = 20 * 1000, KV_PUBLISHER_ID_BYTES = 256 };

struct KvPublisher {
    sluice_engine *engine;
    char *topic;
    void *context, *pub, *replay; /* ZeroMQ's; the sockets are the thread's once it runs */
    pthread_t thread;
    bool has_thread;
    atomic_bool stop;
    uint64_t n_events;  /* read from the engine */
    uint64_t n_batches; /* sent; batch i is at i % KV_PUBLISHER_BATCHES */
    uint64_t n_dropped; /* that are not kept any more */
    size_t kept_bytes;
    Buf batch[KV_PUBLISHER_BATCHES];
};

/* ---- messages ---- */

static void kv_publisher_stored(const sluice_kv_event *event, Buf *out) {
    msgpack_map(out, 11);
    msgpack_text(out, "type");
    msgpack_text(out, "BlockStored");
    msgpack_text(out, "block_hashes");
    msgpack_array(out, 1);
    msgpack_uint(out, event->block_hash);
    msgpack_text(out, "parent_block_hash");
    if (event->parent_hash == 0) {
        msgpack_nil(out);
    } else {
        msgpack_uint(out, event->parent_hash);
    }
    msgpack_text(out, "token_ids");
    msgpack_array(out, (uint32_t)event->block_tokens);
    for (int32_t i = 0; i < event->block_tokens; i++) msgpack_uint(out, (uint32_t)event->tokens[i]);
    msgpack_text(out, "block_size");
    msgpack_uint(out, (uint64_t)event->block_tokens);
    msgpack_text(out, "lora_id");
    msgpack_nil(out);
    msgpack_text(out, "lora_name");
    msgpack_nil(out);
    msgpack_text(out, "medium");
    msgpack_text(out, event->medium == SLUICE_KV_HOST ? "CPU" : "GPU");
    msgpack_text(out, "extra_keys");
    msgpack_nil(out);
    msgpack_text(out, "group_idx");
    msgpack_uint(out, (uint64_t)event->group);
    msgpack_text(out, "kv_cache_spec_kind");
    msgpack_text(out, event->group == 0 ? "full_attention" : "sliding_window");
}

static void kv_publisher_removed(const sluice_kv_event *event, Buf *out) {
    msgpack_map(out, 4);
    msgpack_text(out, "type");
    msgpack_text(out, "BlockRemoved");
    msgpack_text(out, "block_hashes");
    msgpack_array(out, 1);
    msgpack_uint(out, event->block_hash);
    msgpack_text(out, "medium");
    msgpack_text(out, event->medium == SLUICE_KV_HOST ? "CPU" : "GPU");
    msgpack_text(out, "group_idx");
    msgpack_uint(out, (uint64_t)event->group);
}

static void kv_publisher_cleared(Buf *out) {
    msgpack_map(out, 1);
    msgpack_text(out, "type");
    msgpack_text(out, "AllBlocksCleared");
}

static void kv_publisher_event(const sluice_kv_event *event, Buf *out) {
    switch (event->kind) {
        case SLUICE_KV_STORED: kv_publisher_stored(event, out); return;
        case SLUICE_KV_REMOVED: kv_publisher_removed(event, out); return;
        case SLUICE_KV_CLEARED: break;
    }
    kv_publisher_cleared(out);
}

/* Waits a moment for events and appends those that are there; returns how many events out then
 * has. Where the engine had to drop some before they were read, readers are told to begin anew:
 * they then know of fewer blocks than there are, never of more. */
static uint32_t kv_publisher_take(KvPublisher *p, Buf *out) {
    sluice_kv_event event = {.size = sizeof event};
    uint32_t n = 0;
    while (n < KV_PUBLISHER_EVENTS &&
           sluice_engine_read_kv_event(p->engine, p->n_events, n == 0 ? KV_PUBLISHER_WAIT_US : 0,
                                       &event)) {
        if (event.number != p->n_events) {
            log_line(LOG_WARN, "kv-events", "%llu events were lost: readers begin anew",
                     (unsigned long long)(event.number - p->n_events));
            kv_publisher_cleared(out);
            n++;
        }
        p->n_events = event.number + 1;
        kv_publisher_event(&event, out);
        n++;
    }
    return n;
}

/* ---- sending ---- */

static void kv_publisher_number(uint64_t number, unsigned char out[8]) {
    for (int i = 0; i < 8; i++) out[i] = (unsigned char)(number >> (56 - 8 * i));
}

static void kv_publisher_drop(KvPublisher *p) {
    Buf *oldest = &p->batch[p->n_dropped++ % KV_PUBLISHER_BATCHES];
    p->kept_bytes -= oldest->len;
    buf_free(oldest);
}

/* Takes the batch's memory. */
static void kv_publisher_keep(KvPublisher *p, Buf *batch) {
    while (p->n_dropped < p->n_batches && (p->n_batches - p->n_dropped >= KV_PUBLISHER_BATCHES ||
                                           p->kept_bytes + batch->len > KV_PUBLISHER_BYTES))
        kv_publisher_drop(p);
    p->kept_bytes += batch->len;
    p->batch[p->n_batches % KV_PUBLISHER_BATCHES] = *batch;
    *batch = (Buf){0};
}

static void kv_publisher_send(KvPublisher *p, const Buf *events, uint32_t n) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    Buf batch = {0};
    msgpack_array(&batch, 3);
    msgpack_f64(&batch, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    msgpack_array(&batch, n);
    buf_append_str(&batch, buf_str(events));
    msgpack_uint(&batch, 0); /* data-parallel rank */
    unsigned char number[8];
    kv_publisher_number(p->n_batches, number);
    /* Never waits: what a reader has no room for it can ask for again. */
    if (zmq_send(p->pub, p->topic, strlen(p->topic), ZMQ_SNDMORE) < 0 ||
        zmq_send(p->pub, number, sizeof number, ZMQ_SNDMORE) < 0 ||
        zmq_send(p->pub, batch.data, batch.len, 0) < 0)
        log_line(LOG_WARN, "kv-events", "cannot send: %s", zmq_strerror(errno));
    kv_publisher_keep(p, &batch);
    p->n_batches++;
}

/* ---- replay ---- */

/* One frame of the request into out; its bytes (more than capacity: cut), or -1. */
static int kv_publisher_frame(KvPublisher *p, void *out, size_t capacity, bool *more) {
    int rest = 0;
    size_t rest_bytes = sizeof rest;
    const int n = zmq_recv(p->replay, out, capacity, ZMQ_DONTWAIT);
    if (n < 0 || zmq_getsockopt(p->replay, ZMQ_RCVMORE, &rest, &rest_bytes) != 0) return -1;
    *more = rest != 0;
    return n;
}

static bool kv_publisher_reply(KvPublisher *p, const void *id, size_t id_bytes, uint64_t number,
                               const Buf *batch) {
    unsigned char frame[8];
    kv_publisher_number(number, frame);
    return zmq_send(p->replay, id, id_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
           zmq_send(p->replay, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
           zmq_send(p->replay, frame, sizeof frame, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
           zmq_send(p->replay, batch->data, batch->len, ZMQ_DONTWAIT) >= 0;
}

/* Answers one request [id, "", start]; false when there is none. Requests of another shape are
 * passed over. */
static bool kv_publisher_replay(KvPublisher *p) {
    unsigned char id[KV_PUBLISHER_ID_BYTES], empty[1], start[8];
    bool more;
    const int id_bytes = kv_publisher_frame(p, id, sizeof id, &more);
    if (id_bytes < 0) return false;
    bool good = more && kv_publisher_frame(p, empty, sizeof empty, &more) == 0 && more &&
                kv_publisher_frame(p, start, sizeof start, &more) == sizeof start && !more;
    while (more && kv_publisher_frame(p, empty, sizeof empty, &more) >= 0) good = false;
    if (!good || id_bytes > KV_PUBLISHER_ID_BYTES) return true;
    uint64_t number = 0;
    for (int i = 0; i < 8; i++) number = number << 8 | start[i];
    for (number = MAX(number, p->n_dropped); good && number < p->n_batches; number++)
        good = kv_publisher_reply(p, id, (size_t)id_bytes, number,
                                  &p->batch[number % KV_PUBLISHER_BATCHES]);
    const Buf nothing = {0};
    (void)(good && kv_publisher_reply(p, id, (size_t)id_bytes, UINT64_MAX, &nothing));
    return true;
}

/* ---- the thread ---- */

static void *kv_publisher_main(void *context) {
    KvPublisher *p = context;
    (void)pthread_setname_np(pthread_self(), "kv-events");
    Buf events = {0};
    while (!atomic_load(&p->stop)) {
        buf_clear(&events);
        const uint32_t n = kv_publisher_take(p, &events);
        if (n > 0) kv_publisher_send(p, &events, n);
        while (p->replay != NULL && kv_publisher_replay(p)) {
        }
    }
    buf_free(&events);
    return NULL;
}

static Status kv_publisher_socket(KvPublisher *p, void **out, int type, const char *endpoint,
                                  bool bind, Err *err) {
    const int none = 0, watermark = KV_PUBLISHER_WATERMARK;
    void *socket = *out = zmq_socket(p->context, type);
    if (socket == NULL || zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none) != 0 ||
        zmq_setsockopt(socket, ZMQ_SNDHWM, &watermark, sizeof watermark) != 0)
        FAIL(err, ERR_IO, "cannot make a ZeroMQ socket: %s", zmq_strerror(errno));
    if ((bind ? zmq_bind(socket, endpoint) : zmq_connect(socket, endpoint)) != 0)
        FAIL(err, ERR_IO, "cannot %s '%s': %s", bind ? "listen at" : "connect to", endpoint,
             zmq_strerror(errno));
    return OK;
}

static bool kv_publisher_binds(const char *endpoint) {
    return strchr(endpoint, '*') != NULL || strstr(endpoint, "::") != NULL ||
           strncmp(endpoint, "ipc://", 6) == 0;
}

Status kv_publisher_open(KvPublisher **out, sluice_engine *engine,
                         const KvPublisherOptions *options, Err *err) {
    KvPublisher *p = mem_alloc(sizeof *p);
    p->engine = engine;
    p->topic = mem_strdup(options->topic);
    p->context = zmq_ctx_new();
    Status status = kv_publisher_socket(p, &p->pub, ZMQ_PUB, options->endpoint,
                                        kv_publisher_binds(options->endpoint), err);
    if (status == OK && options->replay != NULL)
        status = kv_publisher_socket(p, &p->replay, ZMQ_ROUTER, options->replay, true, err);
    if (status == OK && pthread_create(&p->thread, NULL, kv_publisher_main, p) != 0)
        status = err_set(err, ERR_IO, "cannot start the thread of the KV events");
    if (status != OK) {
        kv_publisher_close(p);
        return status;
    }
    p->has_thread = true;
    *out = p;
    return OK;
}

void kv_publisher_close(KvPublisher *p) {
    if (p == NULL) return;
    atomic_store(&p->stop, true);
    if (p->has_thread) pthread_join(p->thread, NULL);
    if (p->pub != NULL) zmq_close(p->pub);
    if (p->replay != NULL) zmq_close(p->replay);
    zmq_ctx_term(p->context);
    while (p->n_dropped < p->n_batches) kv_publisher_drop(p);
    mem_free(p->topic);
    mem_free(p);
}
