/* jnum: Python's numbers: arithmetic, reading and the shortest text. Ints have 64 bits; what
 * would need more is an error, never a wrong number. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "text/jinja_priv.h"

static Status jnum_overflow(JRun *run) {
    return jrun_unsupported(run, "an integer beyond 64 bits");
}

Status jnum_index(JRun *run, JVal v, int64_t *out) {
    if (!jval_is_int(v))
        return jrun_raise(run, "TypeError", "'%s' object cannot be interpreted as an integer",
                          jval_type_name(v));
    *out = jval_as_int(v);
    return OK;
}

Status jnum_negate(JRun *run, JVal v, JVal *out) {
    if (v.tag == J_UNDEFINED) return jval_undefined_fail(run, v);
    if (v.tag == J_FLOAT) {
        *out = jval_float(-v.f);
        return OK;
    }
    if (!jval_is_int(v))
        return jrun_raise(run, "TypeError", "bad operand type for unary -: '%s'",
                          jval_type_name(v));
    if (jval_as_int(v) == INT64_MIN) return jnum_overflow(run);
    *out = jval_int(-jval_as_int(v));
    return OK;
}

static int64_t jnum_floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int64_t jnum_floor_mod(int64_t a, int64_t b) {
    if (b == -1) return 0;
    int64_t m = a % b;
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}

static Status jnum_int_pow(JRun *run, int64_t base, int64_t exp, JVal *out) {
    if (exp < 0) {
        if (base == 0)
            return jrun_raise(run, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
        *out = jval_float(pow((double)base, (double)exp));
        return OK;
    }
    int64_t result = 1;
    bool overflow = false;
    for (; exp > 0; exp >>= 1) {
        if (exp & 1) overflow |= __builtin_mul_overflow(result, base, &result);
        if (exp > 1) overflow |= __builtin_mul_overflow(base, base, &base);
        if (overflow) return jnum_overflow(run);
    }
    *out = jval_int(result);
    return OK;
}

static Status jnum_int(JRun *run, TokenType op, int64_t a, int64_t b, JVal *out) {
    int64_t r = 0;
    bool overflow = false;
    switch (op) {
        case TOK_ADD: overflow = __builtin_add_overflow(a, b, &r); break;
        case TOK_SUB: overflow = __builtin_sub_overflow(a, b, &r); break;
        case TOK_MUL: overflow = __builtin_mul_overflow(a, b, &r); break;
        case TOK_DIV:
            if (b == 0) return jrun_raise(run, "ZeroDivisionError", "division by zero");
            *out = jval_float((double)((long double)a / (long double)b));
            return OK;
        case TOK_FLOORDIV:
            if (b == 0)
                return jrun_raise(run, "ZeroDivisionError", "integer division or modulo by zero");
            overflow = a == INT64_MIN && b == -1;
            if (!overflow) r = jnum_floor_div(a, b);
            break;
        case TOK_MOD:
            if (b == 0) return jrun_raise(run, "ZeroDivisionError", "integer modulo by zero");
            r = jnum_floor_mod(a, b);
            break;
        default: return jnum_int_pow(run, a, b, out);
    }
    if (overflow) return jnum_overflow(run);
    *out = jval_int(r);
    return OK;
}

/* CPython's float_divmod. */
static double jnum_float_floor_div(double a, double b, double *mod_out) {
    double mod = fmod(a, b), div = (a - mod) / b, floored;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1.0;
        }
    } else {
        mod = copysign(0.0, b);
    }
    if (div != 0) {
        floored = floor(div);
        if (div - floored > 0.5) floored += 1.0;
    } else {
        floored = copysign(0.0, a / b);
    }
    *mod_out = mod;
    return floored;
}

static Status jnum_float_pow(JRun *run, double a, double b, JVal *out) {
    if (a == 0 && b < 0)
        return jrun_raise(run, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return jrun_unsupported(run, "a complex number");
    double r = pow(a, b);
    if (isinf(r) && isfinite(a) && isfinite(b))
        return jrun_raise(run, "OverflowError", "(34, 'Numerical result out of range')");
    *out = jval_float(r);
    return OK;
}

static Status jnum_float(JRun *run, TokenType op, double a, double b, JVal *out) {
    double mod;
    switch (op) {
        case TOK_ADD: *out = jval_float(a + b); return OK;
        case TOK_SUB: *out = jval_float(a - b); return OK;
        case TOK_MUL: *out = jval_float(a * b); return OK;
        case TOK_DIV:
            if (b == 0) return jrun_raise(run, "ZeroDivisionError", "float division by zero");
            *out = jval_float(a / b);
            return OK;
        case TOK_FLOORDIV:
            if (b == 0) return jrun_raise(run, "ZeroDivisionError", "float floor division by zero");
            *out = jval_float(jnum_float_floor_div(a, b, &mod));
            return OK;
        case TOK_MOD:
            if (b == 0) return jrun_raise(run, "ZeroDivisionError", "float modulo");
            jnum_float_floor_div(a, b, &mod);
            *out = jval_float(mod);
            return OK;
        default: return jnum_float_pow(run, a, b, out);
    }
}

static Status jnum_repeat(JRun *run, JVal v, int64_t times, JVal *out) {
    if (times < 0) times = 0;
    if (v.tag == J_STR) {
        JOut text = {.run = run};
        jout_fill(&text, v.s, times);
        TRY(jout_finish(&text, out));
        out->s->markup = v.s->markup;
        return OK;
    }
    size_t n = v.list->n;
    if (n > 0 && (uint64_t)times > SIZE_MAX / 64 / n) return jrun_no_memory(run);
    TRY(jrun_step(run, (int64_t)(n * (size_t)times / 16)));
    TRY(jval_list_new(run, n * (size_t)times, out));
    out->tag = v.tag;
    for (int64_t i = 0; i < times && n > 0; i++)
        for (size_t k = 0; k < n; k++) TRY(jval_list_push(run, out->list, v.list->v[k]));
    return OK;
}

/* A list that ends where its room is used up is continued in place. */
static Status jnum_join_lists(JRun *run, JVal a, JVal b, JVal *out) {
    JList *list = jrun_alloc(run, 1, sizeof(*list));
    if (list == NULL) return jrun_no_memory(run);
    *list = (JList){.v = a.list->v, .n = a.list->n, .tail = a.list->tail};
    *out = (JVal){.tag = a.tag, .list = list};
    TRY(jrun_step(run, (int64_t)(b.list->n / 16)));
    for (size_t i = 0; i < b.list->n; i++) TRY(jval_list_push(run, list, b.list->v[i]));
    return OK;
}

static Status jnum_add_str(JRun *run, JVal a, JVal b, JVal *out) {
    bool markup = a.s->markup || b.s->markup;
    if (markup) {
        TRY(jhtml_escape(run, a, &a));
        TRY(jhtml_escape(run, b, &b));
    }
    TRY(jstr_concat(run, a.s, b.s, out));
    out->s->markup = markup;
    return OK;
}

static bool jnum_is_seq(JVal v) {
    return v.tag == J_STR || v.tag == J_LIST || v.tag == J_TUPLE;
}

static Status jnum_unsupported(JRun *run, TokenType op, JVal a, JVal b) {
    static const char *const names[TOK_COUNT] = {
        [TOK_ADD] = "+",       [TOK_SUB] = "-", [TOK_MUL] = "*",          [TOK_DIV] = "/",
        [TOK_FLOORDIV] = "//", [TOK_MOD] = "%", [TOK_POW] = "** or pow()"};
    if (op == TOK_ADD && jnum_is_seq(a)) {
        const char *type = a.tag == J_STR ? "str" : a.tag == J_LIST ? "list" : "tuple";
        return jrun_raise(run, "TypeError", "can only concatenate %s (not \"%s\") to %s", type,
                          jval_type_name(b), type);
    }
    if (op == TOK_MUL && (jnum_is_seq(a) || jnum_is_seq(b)))
        return jrun_raise(run, "TypeError", "can't multiply sequence by non-int of type '%s'",
                          jval_type_name(jnum_is_seq(a) ? b : a));
    return jrun_raise(run, "TypeError", "unsupported operand type(s) for %s: '%s' and '%s'",
                      names[op], jval_type_name(a), jval_type_name(b));
}

Status jnum_binary(JRun *run, TokenType op, JVal a, JVal b, JVal *out) {
    if (jval_is_int(a) && jval_is_int(b))
        return jnum_int(run, op, jval_as_int(a), jval_as_int(b), out);
    if (jval_is_number(a) && jval_is_number(b))
        return jnum_float(run, op, jval_as_float(a), jval_as_float(b), out);
    if (op == TOK_MOD && a.tag == J_STR) return jformat_percent(run, a.s, b, out);
    if (a.tag == J_UNDEFINED) return jval_undefined_fail(run, a);
    if (b.tag == J_UNDEFINED) return jval_undefined_fail(run, b);
    if (op == TOK_ADD && a.tag == b.tag) {
        if (a.tag == J_STR) return jnum_add_str(run, a, b, out);
        if (jnum_is_seq(a)) return jnum_join_lists(run, a, b, out);
    }
    if (op == TOK_MUL && jnum_is_seq(a) && jval_is_int(b))
        return jnum_repeat(run, a, jval_as_int(b), out);
    if (op == TOK_MUL && jnum_is_seq(b) && jval_is_int(a))
        return jnum_repeat(run, b, jval_as_int(a), out);
    return jnum_unsupported(run, op, a, b);
}

/* The shortest digits that read back as f: 15 always suffice to tell decimals apart, 17 to tell
 * doubles apart; only below the normal numbers fewer may do. */
void jnum_repr(double f, char out[32]) {
    if (isnan(f) || isinf(f)) {
        snprintf(out, 32, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char text[40];
    for (int digits = fabs(f) < 1e-300 ? 1 : 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*e", digits - 1, f);
        if (strtod(text, NULL) == f) break;
    }
    char *e = strchr(text, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10);
    char digit[20];
    int n = 0;
    for (char *p = text; p < e; p++)
        if (isdigit((unsigned char)*p)) digit[n++] = *p;
    while (n > 1 && digit[n - 1] == '0') n--;
    char *to = out;
    if (text[0] == '-') *to++ = '-';
    if (exponent < -4 || exponent >= 16) {
        *to++ = digit[0];
        if (n > 1) *to++ = '.';
        for (int i = 1; i < n; i++) *to++ = digit[i];
        snprintf(to, (size_t)(out + 32 - to), "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        *to++ = '0';
        *to++ = '.';
        for (int i = -1; i > exponent; i--) *to++ = '0';
        for (int i = 0; i < n; i++) *to++ = digit[i];
    } else {
        for (int i = 0; i <= exponent; i++) *to++ = i < n ? digit[i] : '0';
        *to++ = '.';
        if (n <= exponent + 1) *to++ = '0';
        for (int i = exponent + 1; i < n; i++) *to++ = digit[i];
    }
    *to = 0;
}

/* The text without white space around it and without the underscores that Python allows between
 * digits. False when it is too long or an underscore stands elsewhere. */
static bool jnum_clean(const JStr *s, char *out, size_t size) {
    size_t from = 0, to = s->len, n = 0;
    while (from < to) {
        size_t next = from;
        if (!jstr_is_space(jstr_next(s, &next))) break;
        from = next;
    }
    while (to > from) {
        size_t i = to - 1;
        while (i > from && ((unsigned char)s->ptr[i] & 0xc0) == 0x80) i--;
        size_t next = i;
        if (!jstr_is_space(jstr_next(s, &next))) break;
        to = i;
    }
    for (size_t i = from; i < to; i++) {
        char c = s->ptr[i];
        if (c == '_') {
            bool between = i > from && i + 1 < to && isalnum((unsigned char)s->ptr[i - 1]) &&
                           isalnum((unsigned char)s->ptr[i + 1]);
            if (!between) return false;
            continue;
        }
        if (n + 1 >= size) return false;
        out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

bool jnum_parse_int(const JStr *s, int64_t base, int64_t *out, bool *overflow) {
    char text[600];
    *overflow = false;
    if (!jnum_clean(s, text, sizeof(text))) return false;
    const char *p = text;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    int prefix = p[0] == '0' ? (p[1] | 32) : 0;
    int implied = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (implied != 0 && (base == 0 || base == implied)) {
        base = implied;
        p += 2;
    } else if (base == 0) {
        base = 10;
        if (p[0] == '0' && strspn(p, "0") != strlen(p)) return false;
    }
    if (*p == 0) return false;
    uint64_t value = 0;
    for (; *p != 0; p++) {
        int digit = isdigit((unsigned char)*p)   ? *p - '0'
                    : isalpha((unsigned char)*p) ? (*p | 32) - 'a' + 10
                                                 : 99;
        if (digit >= base) return false;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit, &value))
            *overflow = true;
    }
    if (value > (uint64_t)INT64_MAX + negative) *overflow = true;
    if (*overflow) return false;
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

bool jnum_parse_float(const JStr *s, double *out) {
    char text[600];
    if (!jnum_clean(s, text, sizeof(text))) return false;
    const char *p = text + (text[0] == '-' || text[0] == '+');
    if (isalpha((unsigned char)*p)) {
        bool is_inf = strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0;
        if (!is_inf && strcasecmp(p, "nan") != 0) return false;
        *out = is_inf ? INFINITY : NAN;
        if (text[0] == '-') *out = -*out;
        return true;
    }
    if (strspn(p, "0123456789.eE+-") != strlen(p)) return false;
    char *end;
    *out = strtod(text, &end);
    return *end == 0 && end != text;
}

double jnum_round(double x, int64_t digits) {
    if (!isfinite(x) || x == 0) return x;
    if (digits > 320) return x;
    if (digits < -310) return copysign(0.0, x);
    if (digits >= 0) {
        char text[JNUM_DOUBLE_TEXT * 2];
        snprintf(text, sizeof(text), "%.*f", (int)digits, x);
        return strtod(text, NULL);
    }
    double scale = pow(10, (double)-digits);
    return rint(x / scale) * scale;
}
