#include "text/jstr.h"

#include <stdarg.h>
#include <stdio.h>
#include <utf8proc.h>

#include "base/hash.h"
#include "text/jinja_priv.h"

uint64_t jstr_hash(JStr *s) {
    if (s->hash == 0) s->hash = hash_bytes(s->ptr, s->len, 0x6a696e6a61) | 1;
    return s->hash;
}

size_t jstr_count(const char *ptr, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)ptr[i] & 0xc0) != 0x80;
    return n;
}

Status jstr_new(JRun *run, const char *ptr, size_t len, bool marked, JVal *out) {
    JStr *s = jrun_alloc(run, 1, sizeof(*s));
    if (s == NULL) return jrun_no_memory(run);
    *s = (JStr){.ptr = ptr, .len = len, .n_chars = jstr_count(ptr, len), .all_marked = marked};
    *out = jval_of_str(s);
    return OK;
}

Status jstr_copy(JRun *run, const char *ptr, size_t len, JVal *out) {
    char *copy = jrun_alloc(run, len + 1, 1);
    if (copy == NULL) return jrun_no_memory(run);
    memcpy(copy, ptr, len);
    return jstr_new(run, copy, len, false, out);
}

Status jstr_sub(JRun *run, const JStr *s, size_t from, size_t to, JVal *out) {
    DCHECK(from <= to && to <= s->len);
    TRY(jrun_step(run, (int64_t)((to - from) / 256)));
    TRY(jstr_new(run, s->ptr + from, to - from, s->all_marked, out));
    if (s->mark != NULL) out->s->mark = s->mark + from;
    out->s->markup = s->markup;
    return OK;
}

Str jstr_bytes(const JStr *s) {
    return (Str){s->ptr, s->len};
}

bool jstr_is(const JStr *s, const char *literal) {
    return str_is(jstr_bytes(s), literal);
}

bool jstr_same(const JStr *a, const JStr *b) {
    return a == b || (a->len == b->len && memcmp(a->ptr, b->ptr, a->len) == 0);
}

size_t jstr_offset(const JStr *s, size_t n) {
    if (s->n_chars == s->len) return MIN(n, s->len);
    size_t i = 0;
    while (i < s->len) {
        if (((unsigned char)s->ptr[i] & 0xc0) != 0x80 && n-- == 0) break;
        i++;
    }
    return i;
}

size_t jstr_index(const JStr *s, size_t offset) {
    return s->n_chars == s->len ? offset : jstr_count(s->ptr, offset);
}

/* The bytes were checked where they came in; a broken sequence can only come from a bug. */
uint32_t jstr_next(const JStr *s, size_t *offset) {
    const unsigned char *p = (const unsigned char *)s->ptr + *offset;
    size_t left = s->len - *offset;
    if (p[0] < 0x80 || left < 2) {
        *offset += 1;
        return p[0];
    }
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (len > left) len = left;
    uint32_t cp = p[0] & (0xff >> (len + 1));
    for (size_t i = 1; i < len; i++) cp = cp << 6 | (p[i] & 0x3f);
    *offset += len;
    return cp;
}

size_t jstr_utf8(uint32_t cp, char out[4]) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
}

size_t jstr_find(const JStr *a, const JStr *b, size_t from) {
    if (from > a->len || b->len > a->len - from) return SIZE_MAX;
    if (b->len == 0) return from;
    const char *p = memmem(a->ptr + from, a->len - from, b->ptr, b->len);
    return p == NULL ? SIZE_MAX : (size_t)(p - a->ptr);
}

Status jstr_rfind(JRun *run, const JStr *a, const JStr *b, size_t to, size_t *at) {
    size_t n_compared = 0;
    *at = SIZE_MAX;
    if (b->len > to) return OK;
    for (size_t i = to - b->len + 1; i-- > 0;) {
        if (b->len > 0 && a->ptr[i] != b->ptr[0]) {
            n_compared++;
        } else if (memcmp(a->ptr + i, b->ptr, b->len) == 0) {
            *at = i;
            break;
        } else {
            n_compared += b->len;
        }
        if (n_compared >= 1 << 16) {
            TRY(jrun_step(run, (int64_t)(n_compared / 64)));
            n_compared = 0;
        }
    }
    return jrun_step(run, (int64_t)(n_compared / 64));
}

/* Doubles the room at each copy, so that a template that collects its output piece by piece costs
 * time and memory linear in the result. */
Status jstr_concat(JRun *run, const JStr *a, const JStr *b, JVal *out) {
    TRY(jrun_step(run, (int64_t)(b->len / 64)));
    bool uniform = a->mark == NULL && b->mark == NULL &&
                   (a->all_marked == b->all_marked || a->len == 0 || b->len == 0);
    if (a->tail != NULL && a->tail->used == a->len && b->len <= a->tail->cap - a->len && uniform &&
        !a->markup && !b->markup) {
        memcpy((char *)a->ptr + a->len, b->ptr, b->len);
        JStr *s = jrun_alloc(run, 1, sizeof(*s));
        if (s == NULL) return jrun_no_memory(run);
        *s = *a;
        s->len += b->len;
        s->n_chars += b->n_chars;
        s->hash = 0;
        s->all_marked = a->len == 0 ? b->all_marked : a->all_marked;
        s->tail->used = s->len;
        *out = jval_of_str(s);
        return OK;
    }
    JOut text = {.run = run};
    if (a->len + b->len > 256 && uniform) {
        text.cap = (a->len + b->len) * 2;
        text.data = jrun_alloc(run, text.cap, 1);
        if (text.data == NULL) return jrun_no_memory(run);
    }
    jout_str(&text, a);
    jout_str(&text, b);
    TRY(jout_finish(&text, out));
    if (text.cap > out->s->len && uniform) {
        JTail *tail = jrun_alloc(run, 1, sizeof(*tail));
        if (tail == NULL) return jrun_no_memory(run);
        *tail = (JTail){.used = out->s->len, .cap = text.cap};
        out->s->tail = tail;
    }
    return OK;
}

bool jstr_is_space(uint32_t cp) {
    return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f) || cp == 0x85 ||
           cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool jstr_is_word(uint32_t cp) {
    if (cp < 0x80)
        return (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') ||
               cp == '_';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

bool jstr_is_printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= 0x20;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c != UTF8PROC_CATEGORY_CC && c != UTF8PROC_CATEGORY_CF && c != UTF8PROC_CATEGORY_CS &&
           c != UTF8PROC_CATEGORY_CO && c != UTF8PROC_CATEGORY_CN && c != UTF8PROC_CATEGORY_ZL &&
           c != UTF8PROC_CATEGORY_ZP && c != UTF8PROC_CATEGORY_ZS;
}

static bool jout_reserve(JOut *out, size_t extra) {
    if (out->failed) return false;
    size_t need = out->len + extra;
    if (need < extra || (out->bytes_max != 0 && need > out->bytes_max) ||
        jrun_step(out->run, (int64_t)(extra / 128)) != OK) {
        out->failed = true;
        return false;
    }
    if (need <= out->cap) return true;
    size_t cap = MAX(out->cap * 2, MAX(need, (size_t)64));
    char *data = jrun_alloc(out->run, cap, 1);
    uint8_t *mark = out->mark != NULL ? jrun_alloc(out->run, cap, 1) : NULL;
    if (data == NULL || (out->mark != NULL && mark == NULL)) {
        out->failed = true;
        return false;
    }
    if (out->len > 0) memcpy(data, out->data, out->len);
    if (mark != NULL) memcpy(mark, out->mark, out->len);
    out->data = data;
    out->mark = mark;
    out->cap = cap;
    return true;
}

/* Makes room for marks that differ from byte to byte. */
static bool jout_split_marks(JOut *out) {
    if (out->mark != NULL) return true;
    out->mark = jrun_alloc(out->run, MAX(out->cap, (size_t)1), 1);
    if (out->mark == NULL) {
        out->failed = true;
        return false;
    }
    memset(out->mark, out->all_marked, out->len);
    return true;
}

void jout_put(JOut *out, const char *ptr, size_t len, bool marked) {
    if (len == 0 || !jout_reserve(out, len)) return;
    if (out->len == 0 && out->mark == NULL) out->all_marked = marked;
    if (out->mark == NULL && out->all_marked != marked && !jout_split_marks(out)) return;
    memcpy(out->data + out->len, ptr, len);
    if (out->mark != NULL) memset(out->mark + out->len, marked, len);
    out->len += len;
}

/* As jout_str, where there is room already and the steps are paid. */
static void jout_put_reserved(JOut *out, const JStr *s) {
    bool uniform = s->mark == NULL && (out->len == 0 || out->all_marked == s->all_marked);
    if (out->mark != NULL || !uniform) {
        jout_str(out, s);
        return;
    }
    out->all_marked = s->all_marked;
    memcpy(out->data + out->len, s->ptr, s->len);
    out->len += s->len;
}

void jout_text(JOut *out, const char *text) {
    jout_put(out, text, strlen(text), false);
}

void jout_byte(JOut *out, char c, bool marked) {
    jout_put(out, &c, 1, marked);
}

void jout_cp(JOut *out, uint32_t cp, bool marked) {
    char utf8[4];
    jout_put(out, utf8, jstr_utf8(cp, utf8), marked);
}

void jout_sub(JOut *out, const JStr *s, size_t from, size_t to) {
    if (s->mark == NULL) {
        jout_put(out, s->ptr + from, to - from, s->all_marked);
        return;
    }
    if (to == from || !jout_reserve(out, to - from) || !jout_split_marks(out)) return;
    memcpy(out->data + out->len, s->ptr + from, to - from);
    memcpy(out->mark + out->len, s->mark + from, to - from);
    out->len += to - from;
}

void jout_str(JOut *out, const JStr *s) {
    jout_sub(out, s, 0, s->len);
}

void jout_fill(JOut *out, const JStr *fill, int64_t times) {
    if (times <= 0 || fill->len == 0 || out->failed) return;
    size_t total;
    if (__builtin_mul_overflow(fill->len, (size_t)times, &total) ||
        total > out->run->limits.memory_bytes_max || !jout_reserve(out, total)) {
        out->failed = true;
        return;
    }
    for (int64_t i = 0; i < times && !out->failed; i++) jout_put_reserved(out, fill);
}

void jout_format(JOut *out, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    jout_put(out, text, MIN((size_t)MAX(n, 0), sizeof(text) - 1), false);
}

Status jout_finish(JOut *out, JVal *value) {
    if (out->failed) {
        if (out->bytes_max != 0 && out->run->steps_left > 0 && out->len >= out->bytes_max / 2)
            return err_set(out->run->err, ERR_LIMIT,
                           "template line %d: more than %zu bytes of output", out->run->line,
                           out->bytes_max);
        return jrun_no_memory(out->run); /* keeps the sentence of a step bound, if that was it */
    }
    TRY(jstr_new(out->run, out->len > 0 ? out->data : "", out->len, out->all_marked, value));
    value->s->mark = out->mark;
    return OK;
}
