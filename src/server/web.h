/* web: the page, embedded in the binary. */
#pragma once

#include "base/str.h"

/* The file at a path ("/", "/chat.js"); false when there is none. */
bool web_find(const char *path, Str *content, const char **content_type);
