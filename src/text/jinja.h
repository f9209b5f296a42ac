/* jinja: the part of Jinja2 that chat templates use, interpreted with bounds.
 *
 * Renders what Python's sandboxed Jinja2 (trim_blocks, lstrip_blocks, loopcontrols, as Hugging Face
 * transformers sets it up) renders, byte for byte. No host objects, no files, no clock but
 * `now`. */
#pragma once

#include "base/json.h"

typedef struct Jinja Jinja;

typedef struct JinjaLimits {
    size_t output_bytes_max;
    size_t memory_bytes_max;
    int64_t steps_max;
    int32_t depth_max;
} JinjaLimits;

extern const JinjaLimits JINJA_LIMITS_DEFAULT;

/* Compiles; ERR_TEMPLATE with line number for a syntax error. The source is copied. */
MUST_USE Status jinja_open(Jinja **out, Str source, Err *err);
void jinja_close(Jinja *jinja);
/* Renders with the object's fields as variables; `now` (seconds since the epoch, UTC) is what
 * strftime_now shows. Appends to out. ERR_TEMPLATE: an error or exception of the template, with its
 * text; ERR_LIMIT: a bound was passed. Any thread; the Jinja is not changed. */
MUST_USE Status jinja_render(const Jinja *jinja, const json_t *variables, int64_t now,
                             const JinjaLimits *limits, Buf *out, Err *err);
/* As jinja_render. trusted: more variables (they win over `variables`), or NULL. marks: gets one
 * byte per byte of out, 1 where it came out of a string of `variables`, 0 where the template or
 * a trusted variable wrote it; or NULL. */
MUST_USE Status jinja_render_marked(const Jinja *jinja, const json_t *variables,
                                    const json_t *trusted, int64_t now, const JinjaLimits *limits,
                                    Buf *out, Buf *marks, Err *err);
