/* route: which function answers which path. */
#pragma once

#include "server/http.h"
#include "server/server.h"

enum { ROUTE_MAX = 48 };

/* Answers every request: checks the key, finds the row, calls it; 404 and 405 otherwise. */
void route_handle(void *server, HttpExchange *exchange);
/* The row that a request fell to, ROUTE_MAX: none. "/v1/models/ID" is "/v1/models". */
int32_t route_find(const char *method, const char *path);
/* A row's path and method; "none" and "" for ROUTE_MAX. */
const char *route_path(int32_t route);
const char *route_method(int32_t route);
/* Asked so often, by machines, that it is no news for the log. */
bool route_is_probe(int32_t route);
