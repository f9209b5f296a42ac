/* jfilters: finding filters, and the ones about single values: numbers, defaults, JSON. */
#include "text/jfilters_priv.h"

#include <math.h>
#include <stdio.h>

Status jfilters_flag(JRun *run, JVal v, bool fallback, bool *out) {
    *out = fallback;
    return v.tag == J_MISSING ? OK : jval_truth(run, v, out);
}

Status jfilters_int(JRun *run, JVal v, int64_t fallback, int64_t *out) {
    *out = fallback;
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    return v.tag == J_MISSING ? OK : jnum_index(run, v, out);
}

Status jfilters_str(JRun *run, JVal v, const char *fallback, const JStr **out) {
    JVal text = v;
    if (v.tag == J_MISSING) TRY(jstr_new(run, fallback, strlen(fallback), false, &text));
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (text.tag != J_STR)
        return jrun_raise(run, "TypeError", "expected a str, not %s", jval_type_name(text));
    *out = text.s;
    return OK;
}

Status jfilters_soft(JRun *run, JVal v, JVal *out) {
    *out = v;
    return v.tag == J_STR ? OK : jtext_str(run, v, out);
}

static Status jfilters_abs(JRun *run, const JVal *arg, JVal *out) {
    JVal v = arg[0];
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (!jval_is_number(v))
        return jrun_raise(run, "TypeError", "bad operand type for abs(): '%s'", jval_type_name(v));
    if (v.tag == J_FLOAT) {
        *out = jval_float(fabs(v.f));
        return OK;
    }
    *out = jval_int(jval_as_int(v));
    return out->i < 0 ? jnum_negate(run, *out, out) : OK;
}

static Status jfilters_default(JRun *run, const JVal *arg, JVal *out) {
    bool boolean, truth = true;
    TRY(jfilters_flag(run, arg[2], false, &boolean));
    if (boolean && arg[0].tag != J_UNDEFINED) TRY(jval_truth(run, arg[0], &truth));
    *out = arg[0];
    if (arg[0].tag != J_UNDEFINED && truth) return OK;
    *out = arg[1];
    return arg[1].tag == J_MISSING ? jstr_new(run, "", 0, false, out) : OK;
}

static Status jfilters_float(JRun *run, const JVal *arg, JVal *out) {
    JVal v = arg[0];
    double f;
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (jval_is_number(v)) {
        *out = jval_float(jval_as_float(v));
    } else if (v.tag == J_STR && jnum_parse_float(v.s, &f)) {
        *out = jval_float(f);
    } else {
        *out = arg[1].tag == J_MISSING ? jval_float(0) : arg[1];
    }
    return OK;
}

/* int(float): truncates; false for infinities and NaN. */
static bool jfilters_trunc(JRun *run, double f, JVal *out, Status *status) {
    *status = OK;
    if (!isfinite(f)) return false;
    if (fabs(f) >= 9.2e18) {
        *status = jrun_unsupported(run, "an integer beyond 64 bits");
        return true;
    }
    *out = jval_int((int64_t)f);
    return true;
}

static Status jfilters_to_int(JRun *run, const JVal *arg, JVal *out) {
    JVal v = arg[0];
    int64_t base, i;
    bool overflow = false;
    double f;
    Status status;
    TRY(jfilters_int(run, arg[2], 10, &base));
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    *out = arg[1].tag == J_MISSING ? jval_int(0) : arg[1];
    if (jval_is_int(v)) {
        *out = jval_int(jval_as_int(v));
        return OK;
    }
    if (v.tag == J_FLOAT) {
        /* int(inf) raises an OverflowError that the filter does not catch */
        if (isinf(v.f))
            return jrun_raise(run, "OverflowError", "cannot convert float infinity to integer");
        return jfilters_trunc(run, v.f, out, &status) ? status : OK;
    }
    if (v.tag != J_STR) return OK;
    if ((base == 0 || (base >= 2 && base <= 36)) && jnum_parse_int(v.s, base, &i, &overflow)) {
        *out = jval_int(i);
        return OK;
    }
    if (overflow) return jrun_unsupported(run, "an integer beyond 64 bits");
    if (jnum_parse_float(v.s, &f) && jfilters_trunc(run, f, out, &status)) return status;
    return OK;
}

static Status jfilters_round_int(JRun *run, int64_t v, int64_t digits, JVal *out) {
    *out = jval_int(v);
    if (digits >= 0) return OK;
    if (digits < -18) {
        *out = jval_int(0);
        return OK;
    }
    int64_t scale = 1;
    for (int64_t i = 0; i < -digits; i++) scale *= 10;
    int64_t rest = v % scale, half = scale / 2;
    if (rest < 0) rest += scale;
    int64_t low = v - rest;
    bool up = rest > half || (rest == half && (low / scale) % 2 != 0);
    if (up && __builtin_add_overflow(low, scale, &low))
        return jrun_unsupported(run, "an integer beyond 64 bits");
    *out = jval_int(low);
    return OK;
}

static Status jfilters_round(JRun *run, const JVal *arg, JVal *out) {
    const JStr *method;
    int64_t digits;
    JVal v = arg[0];
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    TRY(jfilters_str(run, arg[2], "common", &method));
    bool ceiling = jstr_is(method, "ceil");
    if (!ceiling && !jstr_is(method, "common") && !jstr_is(method, "floor"))
        return jrun_raise(run, "FilterArgumentError", "method must be common, ceil or floor");
    if (!jval_is_number(v))
        return jrun_raise(run, "TypeError", "type %s doesn't define __round__ method",
                          jval_type_name(v));
    if (jstr_is(method, "common") && arg[1].tag == J_NONE) {
        if (v.tag != J_FLOAT) return jfilters_round_int(run, jval_as_int(v), 0, out);
        Status status;
        if (jfilters_trunc(run, rint(v.f), out, &status)) return status;
        return jrun_raise(run, "ValueError", "cannot convert float NaN or infinity to integer");
    }
    TRY(jfilters_int(run, arg[1], 0, &digits));
    if (jstr_is(method, "common")) {
        if (v.tag != J_FLOAT) return jfilters_round_int(run, jval_as_int(v), digits, out);
        *out = jval_float(jnum_round(v.f, digits));
        return OK;
    }
    JVal scale, scaled;
    TRY(jnum_binary(run, TOK_POW, jval_int(10), jval_int(digits), &scale));
    TRY(jnum_binary(run, TOK_MUL, v, scale, &scaled));
    double f = jval_as_float(scaled);
    if (!isfinite(f))
        return jrun_raise(run, "OverflowError", "cannot convert float infinity to integer");
    JVal whole = scaled.tag == J_FLOAT ? jval_float(ceiling ? ceil(f) : floor(f)) : scaled;
    if (whole.tag == J_FLOAT && whole.f == 0) whole.f = 0; /* an int has no negative zero */
    return jnum_binary(run, TOK_DIV, whole, scale, out);
}

static Status jfilters_filesizeformat(JRun *run, const JVal *arg, JVal *out) {
    static const char *const units[] = {"kB",  "MB",  "GB",  "TB",  "PB",  "EB",  "ZB",  "YB",
                                        "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    JVal v = arg[0];
    double bytes;
    bool binary;
    TRY(jfilters_flag(run, arg[1], false, &binary));
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (jval_is_number(v)) {
        bytes = jval_as_float(v);
    } else if (v.tag != J_STR) {
        return jrun_raise(run, "TypeError",
                          "float() argument must be a string or a real number, not '%s'",
                          jval_type_name(v));
    } else if (!jnum_parse_float(v.s, &bytes)) {
        return jrun_raise(run, "ValueError", "could not convert string to float: '%.*s'",
                          STR_ARG(jstr_bytes(v.s)));
    }
    double base = binary ? 1024 : 1000, unit = base;
    JOut text = {.run = run};
    if (bytes == 1) {
        jout_text(&text, "1 Byte");
    } else if (bytes < base) {
        jout_format(&text, "%.0f Bytes", trunc(bytes) + 0.0);
    } else {
        int i = 0;
        for (; i < 8; i++) {
            unit *= base;
            if (bytes < unit) break;
        }
        i = MIN(i, 7);
        jout_format(&text, "%.1f %s", base * bytes / unit, units[binary * 8 + i]);
    }
    return jout_finish(&text, out);
}

static Status jfilters_string(JRun *run, const JVal *arg, JVal *out) {
    return jfilters_soft(run, arg[0], out);
}

static Status jfilters_json_indent(JRun *run, JVal v, JJsonOptions *options) {
    if (v.tag == J_MISSING || v.tag == J_NONE) return OK;
    if (v.tag == J_STR) {
        options->indent = v.s;
        return OK;
    }
    int64_t n;
    JVal blank, indent;
    TRY(jnum_index(run, v, &n));
    TRY(jstr_new(run, " ", 1, false, &blank));
    TRY(jnum_binary(run, TOK_MUL, blank, jval_int(n), &indent));
    options->indent = indent.s;
    return OK;
}

static Status jfilters_tojson(JRun *run, const JVal *arg, JVal *out) {
    JJsonOptions options = {0};
    JVal item, key;
    TRY(jfilters_flag(run, arg[1], false, &options.ensure_ascii));
    TRY(jfilters_json_indent(run, arg[2], &options));
    TRY(jfilters_flag(run, arg[4], false, &options.sort_keys));
    bool lines = options.indent != NULL;
    TRY(jstr_new(run, lines ? "," : ", ", lines ? 1 : 2, false, &item));
    TRY(jstr_new(run, ": ", 2, false, &key));
    if (arg[3].tag != J_MISSING && arg[3].tag != J_NONE) {
        JVal list;
        TRY(jval_to_list(run, arg[3], &list));
        if (list.list->n != 2)
            return jrun_raise(run, "ValueError", "%s values to unpack (expected 2)",
                              list.list->n < 2 ? "not enough" : "too many");
        item = list.list->v[0];
        key = list.list->v[1];
        if (item.tag != J_STR || key.tag != J_STR)
            return jrun_raise(run, "TypeError", "separators must be strings");
    }
    options.item_separator = item.s;
    options.key_separator = key.s;
    return jjson_dump(run, arg[0], &options, out);
}

static Status jfilters_attr(JRun *run, const JVal *arg, JVal *out) {
    bool unsafe;
    if (arg[1].tag != J_STR)
        return jrun_raise(run, "TypeError", "attribute name must be string, not '%s'",
                          jval_type_name(arg[1]));
    TRY(jattr_raw(run, arg[0], arg[1].s, out, &unsafe));
    if (arg[0].tag == J_UNDEFINED) return jval_undefined_fail(run, arg[0]);
    if (out->tag == J_MISSING && !unsafe) return jval_undefined_new(run, arg[0], arg[1], out);
    return jattr_get(run, arg[0], arg[1].s, out);
}

static Status jfilters_pprint(JRun *run, const JVal *arg, JVal *out) {
    return jpprint_format(run, arg[0], out);
}

static const JSig jfilters_plain[] = {
    {"abs", jfilters_abs, NULL, 0, 0, NULL},
    {"attr", jfilters_attr, NULL, 1, 1, "name"},
    {"default", jfilters_default, NULL, 0, 2, "default_value boolean"},
    {"d", jfilters_default, NULL, 0, 2, "default_value boolean"},
    {"float", jfilters_float, NULL, 0, 1, "default"},
    {"int", jfilters_to_int, NULL, 0, 2, "default base"},
    {"round", jfilters_round, NULL, 0, 2, "precision method"},
    {"filesizeformat", jfilters_filesizeformat, NULL, 0, 1, "binary"},
    {"string", jfilters_string, NULL, 0, 0, NULL},
    {"tojson", jfilters_tojson, NULL, 0, 4, "ensure_ascii indent separators sort_keys"},
    {"pprint", jfilters_pprint, NULL, 0, 0, NULL},
    {"random", NULL, NULL, 0, 0, NULL}, /* no two renders would be the same */
};

static const JSig *jfilters_search(const JSig *sig, size_t n, const JStr *name) {
    for (size_t i = 0; i < n; i++)
        if (jstr_is(name, sig[i].name)) return &sig[i];
    return NULL;
}

const JSig *jfilters_find(const JStr *name) {
    const JSig *sig = jfilters_search(jfilters_plain, ARRAY_LEN(jfilters_plain), name);
    if (sig == NULL) sig = jfilters_search(jfilters_text, jfilters_n_text, name);
    if (sig == NULL) sig = jfilters_search(jfilters_seq, jfilters_n_seq, name);
    if (sig == NULL) sig = jfilters_search(jfilters_html, jfilters_n_html, name);
    return sig;
}
