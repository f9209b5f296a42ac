/* server: puts an engine on the network. */
#pragma once

#include "base/json.h"
#include "base/status.h"
#include "server/http.h"
#include "server/receipt.h"
#include "sluice.h"

typedef struct Server Server;

enum { SERVER_KEYS_MAX = 1024 };

/* What a request may cost. */
typedef struct ServerLimits {
    HttpLimits http;
    JsonLimits json;
    int32_t messages_max, parts_max; /* of a chat, and of all their contents */
    int64_t logprobs_max;            /* figures of one request: see api_logprobs_check */
    int64_t queue_us_max;            /* until the engine begins with a request */
    int64_t request_us_max;          /* until its last token */
    int64_t ping_us;                 /* of silence, then a stream gets a comment; 0: never */
} ServerLimits;

/* What may change while the server runs. */
typedef struct ServerSecrets {
    const char *tls_cert, *tls_key; /* PEM text, or NULL */
    int32_t n_keys;
    const char *const *key; /* API keys; none: everybody may ask */
} ServerSecrets;

typedef struct ServerOptions {
    const char *address; /* to listen at */
    int32_t port;
    const char *model_name; /* that clients ask for; NULL: the last part of the model's path */
    ServerSecrets secrets;
    int32_t n_workers;
    const sluice_engine_plan *plan; /* of the engine */
    ServerLimits limits;
    /* An engine that stands still for so long ends the process; for a fifth of it: /ready says so;
     * for a thirtieth: /health says so, and the log. 0: never. */
    int64_t stall_us_max;
    bool log_content;         /* what clients ask and get goes into the log */
    bool reasoning_content;   /* reasoning of chats is told under that name too */
    const char *receipts_dir; /* NULL: no receipts are written */
    int64_t receipts_max;     /* files in it at most */
    ReceiptBuild build;       /* that they name */
} ServerOptions;

/* The defaults of every limit. */
ServerLimits server_limits_default(void);

/* Listens and answers until closed. model, engine and the options' texts are borrowed, but for the
 * secrets, which are copied. */
MUST_USE Status server_open(Server **out, const sluice_model *model, sluice_engine *engine,
                            const ServerOptions *options, Err *err);
int32_t server_port(const Server *server);
const char *server_model_name(const Server *server);
/* Other keys, and another certificate for connections that come; on failure all stays as it was. A
 * server without keys or TLS gets none, one that has them keeps having some. */
MUST_USE Status server_set_secrets(Server *server, const ServerSecrets *secrets, Err *err);
/* How long the engine's loop has stood still; more than a moment only while a step takes long. */
int64_t server_stalled_us(const Server *server);
/* Whether the accelerator answers no more: then the process should end. */
bool server_lost(const Server *server);
/* To be called about once a second: logs and counts an engine that stands still. True: it has stood
 * for so long that the process should end. */
bool server_watch(Server *server);
/* No new connections or requests from now on. */
void server_drain(Server *server);
/* Requests that are not answered yet. */
int64_t server_n_open(const Server *server);
void server_close(Server *server);
