/* The interpreter's front: compiling, one render, its bounds. */
#include "text/jinja.h"

#include <stdarg.h>
#include <stdio.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/jinja_priv.h"

/* A step costs 20 to 60 ns, so the step bound stops a template within about 200 ms. The longest
 * honest templates (15 KB, 100 messages with tools) take some 50,000 steps. */
const JinjaLimits JINJA_LIMITS_DEFAULT = {
    .output_bytes_max = 64 << 20,
    .memory_bytes_max = 256 << 20,
    .steps_max = 4000000,
    .depth_max = 600,
};

Status jinja_open(Jinja **out, Str source, Err *err) {
    if (source.len > JINJA_SOURCE_BYTES_MAX)
        FAIL(err, ERR_LIMIT, "template of %zu bytes, at most %d are taken", source.len,
             JINJA_SOURCE_BYTES_MAX);
    for (size_t i = 0; i < source.len;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)source.ptr + i,
                                              (utf8proc_ssize_t)(source.len - i), &cp);
        if (n <= 0) FAIL(err, ERR_TEMPLATE, "template: byte %zu is not valid UTF-8", i);
        i += (size_t)n;
    }
    Jinja *jinja = mem_alloc(sizeof(*jinja));
    jinja->arena.bytes_max = JINJA_COMPILE_BYTES_MAX;
    jinja->source = source;
    Status status = jinja_lex(jinja, err);
    if (status == OK) status = jinja_parse(jinja, err);
    if (status == OK) status = jinja_scope(jinja, err);
    if (status != OK) {
        jinja_close(jinja);
        return status;
    }
    *out = jinja;
    return OK;
}

void jinja_close(Jinja *jinja) {
    if (jinja == NULL) return;
    arena_free(&jinja->arena);
    mem_free(jinja);
}

Status jinja_syntax(Err *err, int32_t line, const char *format, ...) {
    char text[ERR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return err_set(err, ERR_TEMPLATE, "template line %d: TemplateSyntaxError: %s", line, text);
}

JStr *jinja_const(Jinja *jinja, const char *ptr, size_t len) {
    JStr *s = arena_alloc(&jinja->arena, sizeof(*s));
    if (s == NULL) return NULL;
    *s = (JStr){.ptr = ptr, .len = len, .n_chars = jstr_count(ptr, len)};
    jstr_hash(s); /* now: threads that render share the template and only read it */
    return s;
}

void *jrun_alloc(JRun *run, size_t n, size_t bytes) {
    if (bytes != 0 && n > SIZE_MAX / 2 / bytes) return NULL;
    return arena_alloc(&run->arena, n * bytes);
}

Status jrun_no_memory(JRun *run) {
    return err_set(run->err, ERR_LIMIT,
                   "template line %d: more than %zu bytes of memory are needed to render",
                   run->line, run->limits.memory_bytes_max);
}

Status jrun_raise(JRun *run, const char *exc, const char *format, ...) {
    char text[ERR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return err_set(run->err, ERR_TEMPLATE, "template line %d: %s: %s", run->line, exc, text);
}

Status jrun_unsupported(JRun *run, const char *what) {
    return err_set(run->err, ERR_UNSUPPORTED, "template line %d: %s is not supported", run->line,
                   what);
}

Status jrun_step(JRun *run, int64_t n) {
    run->steps_left -= n;
    if (run->steps_left < 0 || n < 0) {
        run->steps_left = 0;
        return err_set(run->err, ERR_LIMIT, "template line %d: more than %lld steps to render",
                       run->line, (long long)run->limits.steps_max);
    }
    return OK;
}

Status jrun_enter(JRun *run) {
    if (run->depth >= run->limits.depth_max)
        return err_set(run->err, ERR_LIMIT,
                       "template line %d: RecursionError: nested deeper than %d levels", run->line,
                       run->limits.depth_max);
    run->depth++;
    return OK;
}

void jrun_leave(JRun *run) {
    run->depth--;
}

static Status jinja_from_json(JRun *run, const json_t *json, bool marked, JVal *out);

static Status jinja_from_object(JRun *run, const json_t *json, bool marked, JDict *dict) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value) {
        JVal k, v;
        TRY(jstr_new(run, key, strlen(key), marked, &k));
        TRY(jinja_from_json(run, value, marked, &v));
        TRY(jdict_put(run, dict, k, v));
    }
    return OK;
}

/* Strings are borrowed from the tree, which outlives the run. Recursion: as deep as the tree, and
 * bounded like every walk. */
static Status jinja_from_json(JRun *run, const json_t *json, bool marked, JVal *out) {
    switch (json_typeof(json)) {
        case JSON_NULL: *out = jval_none(); return OK;
        case JSON_TRUE: *out = jval_bool(true); return OK;
        case JSON_FALSE: *out = jval_bool(false); return OK;
        case JSON_INTEGER: *out = jval_int(json_integer_value(json)); return OK;
        case JSON_REAL: *out = jval_float(json_real_value(json)); return OK;
        case JSON_STRING:
            return jstr_new(run, json_string_value(json), json_string_length(json), marked, out);
        default: break;
    }
    TRY(jrun_enter(run));
    if (json_is_array(json)) {
        size_t n = json_array_size(json);
        TRY(jval_list_new(run, n, out));
        for (size_t i = 0; i < n; i++) {
            JVal v;
            TRY(jinja_from_json(run, json_array_get(json, i), marked, &v));
            TRY(jval_list_push(run, out->list, v));
        }
    } else {
        JDict *dict;
        TRY(jdict_new(run, json_object_size(json), &dict));
        TRY(jinja_from_object(run, json, marked, dict));
        *out = (JVal){.tag = J_DICT, .dict = dict};
    }
    jrun_leave(run);
    return OK;
}

static Status jinja_run(JRun *run, const json_t *variables, const json_t *trusted) {
    TRY(jdict_new(run, 16, &run->variables));
    TRY(jdict_new(run, 16, &run->exported));
    if (variables != NULL) TRY(jinja_from_object(run, variables, true, run->variables));
    if (trusted != NULL) TRY(jinja_from_object(run, trusted, false, run->variables));
    const JNode *root = run->jinja->root;
    JAct *act = jrun_alloc(run, 1, sizeof(*act));
    if (act == NULL) return jrun_no_memory(run);
    act->slot = jrun_alloc(run, root->func->n_slots, sizeof(JVal));
    if (act->slot == NULL) return jrun_no_memory(run);
    run->act = act;
    if (root->func->has_self) act->slot[root->func->self_slot] = (JVal){.tag = J_SELF};
    jinja_exec_enter(run, root->frame);
    return jinja_exec(run, root);
}

Status jinja_render_marked(const Jinja *jinja, const json_t *variables, const json_t *trusted,
                           int64_t now, const JinjaLimits *limits, Buf *out, Buf *marks, Err *err) {
    CHECK(variables == NULL || json_is_object(variables));
    JRun run = {.jinja = jinja,
                .err = err,
                .limits = limits != NULL ? *limits : JINJA_LIMITS_DEFAULT,
                .now = now,
                .line = 1};
    run.arena.bytes_max = run.limits.memory_bytes_max;
    run.steps_left = run.limits.steps_max;
    JOut text = {.run = &run, .bytes_max = run.limits.output_bytes_max};
    run.out = &text;
    JVal result;
    Status status = jinja_run(&run, variables, trusted);
    if (status == OK) status = jout_finish(&text, &result);
    if (status == OK) {
        buf_append(out, result.s->ptr, result.s->len);
        for (size_t i = 0; marks != NULL && i < result.s->len; i++)
            buf_append_byte(marks, jstr_marked(result.s, i) ? 1 : 0);
        if (out->failed || (marks != NULL && marks->failed))
            status = err_set(err, ERR_NOMEM, "no memory for the rendered chat");
    }
    arena_free(&run.arena);
    return status;
}

Status jinja_render(const Jinja *jinja, const json_t *variables, int64_t now,
                    const JinjaLimits *limits, Buf *out, Err *err) {
    return jinja_render_marked(jinja, variables, NULL, now, limits, out, NULL, err);
}
