/* server_priv: the server's insides, for the files of this folder. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "server/admission.h"
#include "server/block_map.h"
#include "server/http.h"
#include "server/receipt_log.h"
#include "server/server.h"
#include "server/server_metrics.h"
#include "sluice.h"

struct Server {
    ServerOptions options;
    sluice_engine *engine;
    const sluice_model *model;
    sluice_model_info info;
    HttpServer *http;
    char *model_name;
    int64_t created; /* seconds since the epoch */
    int64_t start_us;
    sluice_sampling defaults; /* of absent fields */
    uint64_t id_seed;
    atomic_uint_fast64_t n_ids;
    atomic_bool draining;
    pthread_t events; /* polls the engine and writes replies */
    atomic_bool stop_events;
    bool events_started;
    /* Held while a call is submitted, and while an event is handled: an event must not come before
     * the call knows the id of its request. */
    pthread_mutex_t submit_lock;
    Admission admission; /* under submit_lock */
    ServerMetrics metrics;
    atomic_uint_fast64_t n_stalls; /* times that the engine stood still too long */
    bool stalled;                  /* the last of them is not over; server_watch's */
    pthread_rwlock_t keys_lock;    /* guards the keys */
    char *key[SERVER_KEYS_MAX];
    int32_t n_keys;
    ReceiptLog *receipts;       /* NULL: none are written */
    pthread_mutex_t calls_lock; /* guards the list */
    struct ApiCall *calls;      /* submitted and not over, for the dashboard */
    BlockMap blocks;
    atomic_int_fast64_t service_us; /* that a request spends running: a moving average */
};

typedef struct Server Server;

/* A fresh id: the prefix and 24 hexadecimal digits. */
void server_new_id(Server *server, const char *prefix, char *out, size_t out_bytes);
/* A seed for a request that gives none. */
uint64_t server_new_seed(Server *server);
/* A request has ended, with this usage. The event thread's. */
void server_note_service(Server *server, const sluice_usage *usage);
/* In how many seconds those that wait now will have run, as far as one can tell: 1 to 60. */
int32_t server_retry_seconds(const Server *server);
/* Whether one more request may wait. Under the lock of submissions. */
bool server_admit(Server *server, sluice_error *failure);
void server_submit_lock(Server *server);
void server_submit_unlock(Server *server);
