/* api_admin: models, version, health, readiness. */
#include <stdio.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"
#include "server/server_priv.h"
#include "server/web.h"

static json_t *api_model_object(const Server *server) {
    return json_pack("{s:s,s:s,s:I,s:s,s:i}", "id", server->model_name, "object", "model",
                     "created", (json_int_t)server->created, "owned_by", "sluice", "max_model_len",
                     (int)server->info.context);
}

void api_admin_models(Server *server, HttpExchange *exchange) {
    const char *path = http_path(exchange), *prefix = "/v1/models/";
    if (strncmp(path, prefix, strlen(prefix)) != 0) {
        api_reply_json(
            exchange, json_pack("{s:s,s:[o]}", "object", "list", "data", api_model_object(server)));
    } else if (strcmp(path + strlen(prefix), server->model_name) == 0) {
        api_reply_json(exchange, api_model_object(server));
    } else {
        api_error_reply_text(exchange, 404, &API_NO_MODEL);
    }
}

void api_admin_version(Server *server, HttpExchange *exchange) {
    (void)server;
    api_reply_json(exchange, json_pack("{s:s}", "version", sluice_version()));
}

void api_admin_metrics(Server *server, HttpExchange *exchange) {
    Buf text = {0};
    server_metrics_write(server, &text);
    http_reply(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}

/* 503 when the accelerator is lost, or the engine has stood still for that share of what is let
 * pass (0: for whatever). */
static bool api_admin_stands(const Server *server, HttpExchange *exchange, int32_t share) {
    const int64_t most_us = server->options.stall_us_max / share;
    const int64_t stalled_us = server_stalled_us(server);
    if (server_lost(server)) {
        api_error_reply(exchange, 503, "the accelerator answers no more", NULL);
        return true;
    }
    if (most_us == 0 || stalled_us < most_us) return false;
    char text[80];
    snprintf(text, sizeof text, "the engine has stood still for %.1f s", (double)stalled_us * 1e-6);
    api_error_reply(exchange, 503, text, NULL);
    return true;
}

static void api_admin_well(HttpExchange *exchange) {
    api_reply_json(exchange, json_pack("{s:s}", "status", "ok"));
}

void api_admin_health(Server *server, HttpExchange *exchange) {
    if (!api_admin_stands(server, exchange, 30)) api_admin_well(exchange);
}

void api_admin_ready(Server *server, HttpExchange *exchange) {
    if (atomic_load(&server->draining)) {
        api_error_reply(exchange, 503, "the server is shutting down", NULL);
    } else if (!api_admin_stands(server, exchange, 5)) {
        api_admin_well(exchange);
    }
}

void api_admin_page(Server *server, HttpExchange *exchange) {
    (void)server;
    Str content;
    const char *type;
    if (!web_find(http_path(exchange), &content, &type)) {
        api_error_reply(exchange, 404, "there is nothing at this path", NULL);
        return;
    }
    Buf body = {0};
    buf_append_str(&body, content);
    http_reply_header(exchange, "content-security-policy",
                      "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
                      "form-action 'none'; frame-ancestors 'none'");
    http_reply_header(exchange, "x-content-type-options", "nosniff");
    http_reply_header(exchange, "referrer-policy", "no-referrer");
    http_reply_header(exchange, "cache-control", "no-cache");
    http_reply(exchange, 200, type, &body);
}
