/* jfilters_priv: the tables of filters: those of text, of sequences, of HTML. */
#pragma once

#include "text/jinja_priv.h"

extern const JSig jfilters_text[], jfilters_seq[], jfilters_html[];
extern const size_t jfilters_n_text, jfilters_n_seq, jfilters_n_html;

/* An argument's truth; absent: fallback. */
MUST_USE Status jfilters_flag(JRun *run, JVal v, bool fallback, bool *out);
/* An int argument; absent: fallback. */
MUST_USE Status jfilters_int(JRun *run, JVal v, int64_t fallback, int64_t *out);
/* A string argument; absent: fallback. */
MUST_USE Status jfilters_str(JRun *run, JVal v, const char *fallback, const JStr **out);
/* soft_str: a string as it is, Markup or not; else str(v). */
MUST_USE Status jwrap_filter(JRun *run, const JVal *arg, JVal *out);
MUST_USE Status jfilters_soft(JRun *run, JVal v, JVal *out);
