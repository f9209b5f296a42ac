/* route: which function answers which path. */
#pragma once

#include "server/http.h"
#include "server/server.h"

/* Answers every request: checks the key, finds the row, calls it; 404 and 405 otherwise. */
void route_handle(void *server, HttpExchange *exchange);
