/* server_metrics: what the server measures of its requests, under vLLM's names, so that dashboards
 * and routers made for it work unchanged. */
#pragma once

#include "base/metrics.h"
#include "sluice.h"

struct ApiCall;
struct Server;

enum { SERVER_FINISHES = 4 };

typedef struct ServerMetrics {
    Histogram first_token, inter_token, per_output_token, e2e, queue, prefill, decode, inference;
    Histogram prompt_tokens, output_tokens, max_tokens, n;
    atomic_uint_fast64_t finished[SERVER_FINISHES]; /* stop, length, abort, error */
} ServerMetrics;

void server_metrics_init(ServerMetrics *metrics);
/* The event thread's: an event of a sequence; gap_us since its last tokens (0: its first). */
void server_metrics_event(ServerMetrics *metrics, const sluice_event *event, int64_t gap_us);
/* A request was accepted. */
void server_metrics_request(ServerMetrics *metrics, const sluice_request *request);
/* Everything as text. */
void server_metrics_write(struct Server *server, Buf *out);
