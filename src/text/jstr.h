/* jstr: strings of a template: code points, marks, and a builder that keeps the marks. */
#pragma once

#include "text/jval.h"

/* Hash of the bytes, kept in the string. */
uint64_t jstr_hash(JStr *s);
/* A string of the given bytes, which must be UTF-8 and outlive the run. */
MUST_USE Status jstr_new(JRun *run, const char *ptr, size_t len, bool marked, JVal *out);
/* As jstr_new, of a copy of the bytes; unmarked. */
MUST_USE Status jstr_copy(JRun *run, const char *ptr, size_t len, JVal *out);
/* The bytes [from, to) of s, sharing them. */
MUST_USE Status jstr_sub(JRun *run, const JStr *s, size_t from, size_t to, JVal *out);
Str jstr_bytes(const JStr *s);
bool jstr_is(const JStr *s, const char *literal);
bool jstr_same(const JStr *a, const JStr *b);
/* Whether the byte came out of the request. */
static inline bool jstr_marked(const JStr *s, size_t i) {
    return s->mark != NULL ? s->mark[i] != 0 : s->all_marked;
}

/* Byte offset of code point `n` (0 <= n <= n_chars). */
size_t jstr_offset(const JStr *s, size_t n);
/* Number of code points in the first `offset` bytes. */
size_t jstr_index(const JStr *s, size_t offset);
/* The code point at *offset, which moves behind it. */
uint32_t jstr_next(const JStr *s, size_t *offset);
size_t jstr_count(const char *ptr, size_t len);
/* Writes the UTF-8 of a code point; returns its length. */
size_t jstr_utf8(uint32_t cp, char out[4]);
/* First occurrence of b in a at or after byte `from`, or SIZE_MAX. */
size_t jstr_find(const JStr *a, const JStr *b, size_t from);
/* The last one before `to`. Pays steps for what it compares: a long b takes quadratic time. */
MUST_USE Status jstr_rfind(JRun *run, const JStr *a, const JStr *b, size_t to, size_t *at);
/* a + b without copying a where a was the last thing appended to. */
MUST_USE Status jstr_concat(JRun *run, const JStr *a, const JStr *b, JVal *out);

bool jstr_is_space(uint32_t cp); /* str.isspace and \s */
bool jstr_is_word(uint32_t cp);  /* \w */
bool jstr_is_printable(uint32_t cp);

/* Appends to a string under construction. A failure (memory, the bound) is remembered and comes out
 * of jout_finish. */
typedef struct JOut {
    JRun *run;
    char *data;
    uint8_t *mark; /* NULL while every byte is as all_marked says */
    size_t len, cap;
    size_t bytes_max; /* 0: none but memory */
    bool all_marked;
    bool failed;
} JOut;

void jout_put(JOut *out, const char *ptr, size_t len, bool marked);
void jout_text(JOut *out, const char *text);
void jout_byte(JOut *out, char c, bool marked);
void jout_cp(JOut *out, uint32_t cp, bool marked);
void jout_fill(JOut *out, const JStr *fill, int64_t times);
void jout_str(JOut *out, const JStr *s);
void jout_sub(JOut *out, const JStr *s, size_t from, size_t to);
void jout_format(JOut *out, const char *format, ...) PRINTF_LIKE(2, 3);
MUST_USE Status jout_finish(JOut *out, JVal *value);
