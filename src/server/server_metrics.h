/* server_metrics: what the server measures of its requests, under vLLM's names, so that dashboards
 * and routers made for it work unchanged. docs/metrics.md lists them. */
#pragma once

#include "base/metrics.h"
#include "base/recent.h"
#include "server/route.h"
#include "sluice.h"

struct Server;

enum { SERVER_FINISHES = 4, SERVER_CODES = 18 };

typedef struct ServerMetrics {
    Histogram first_token, inter_token, per_output_token, e2e, queue, prefill, decode, inference;
    Histogram prompt_tokens, output_tokens, longest, max_tokens, n;
    Recent recent_first, recent_gap;                /* of the first two, for the dashboard */
    atomic_uint_fast64_t finished[SERVER_FINISHES]; /* stop, length, abort, error */
    atomic_uint_fast64_t http[ROUTE_MAX + 1][SERVER_CODES]; /* the last row: unknown paths */
} ServerMetrics;

void server_metrics_init(ServerMetrics *metrics);
void server_metrics_free(ServerMetrics *metrics);
/* The event thread's: tokens of a sequence came; since_us: when its last came, or (first) when its
 * request did. */
void server_metrics_tokens(ServerMetrics *metrics, int64_t now_us, int64_t since_us, bool first);
/* A sequence ended: an event with usage. */
void server_metrics_end(ServerMetrics *metrics, const sluice_event *event);
/* A request ended; its longest sequence has so many tokens. */
void server_metrics_longest(ServerMetrics *metrics, int32_t n_tokens);
/* A request was accepted. */
void server_metrics_request(ServerMetrics *metrics, const sluice_request *request);
/* A request of this route (ROUTE_MAX: of none) is over. */
void server_metrics_http_done(ServerMetrics *metrics, int32_t route, int32_t code);
/* Everything as text. */
void server_metrics_write(struct Server *server, Buf *out);
