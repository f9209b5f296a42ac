/* jformat: format(value, spec), str.format and the % operator. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include "text/jinja_priv.h"

enum { JFORMAT_PRECISION_MAX = 1000, JFORMAT_NUMBER_BYTES = 1600 };

typedef struct Spec {
    JStr fill;
    char fill_text[4];
    char align; /* 0: none given */
    char sign;
    bool alternate, zero;
    int64_t width;     /* -1: none */
    char grouping;     /* 0, ',' or '_' */
    int64_t precision; /* -1: none */
    char type;         /* 0: none */
} Spec;

/* Whether c is one of the set; unlike with strchr, NUL never is. */
static bool jformat_in(const char *set, char c) {
    return c != '\0' && strchr(set, c) != NULL;
}

static Status jformat_digits(JRun *run, const JStr *s, size_t *i, int64_t *out) {
    *out = -1;
    while (*i < s->len && isdigit((unsigned char)s->ptr[*i])) {
        *out = MAX(*out, (int64_t)0) * 10 + (s->ptr[(*i)++] - '0');
        if (*out > INT32_MAX)
            return jrun_raise(run, "ValueError", "Too many decimal digits in format string");
    }
    return OK;
}

static Status jformat_parse(JRun *run, const JStr *s, JVal v, Spec *spec) {
    *spec = (Spec){.width = -1, .precision = -1};
    size_t i = 0, after = 0;
    if (s->len > 0) jstr_next(s, &after);
    if (after > 0 && after < s->len && jformat_in("<>=^", s->ptr[after])) {
        memcpy(spec->fill_text, s->ptr, after);
        spec->fill.len = after;
        spec->align = s->ptr[after];
        i = after + 1;
    } else if (s->len > 0 && jformat_in("<>=^", s->ptr[0])) {
        spec->align = s->ptr[0];
        i = 1;
    }
    if (i < s->len && jformat_in("+- ", s->ptr[i])) spec->sign = s->ptr[i++];
    if (i < s->len && s->ptr[i] == 'z') return jrun_unsupported(run, "the format flag 'z'");
    if (i < s->len && s->ptr[i] == '#') spec->alternate = s->ptr[i++] == '#';
    if (i < s->len && s->ptr[i] == '0') {
        spec->zero = true;
        i++;
    }
    TRY(jformat_digits(run, s, &i, &spec->width));
    if (i < s->len && (s->ptr[i] == ',' || s->ptr[i] == '_')) spec->grouping = s->ptr[i++];
    if (i < s->len && s->ptr[i] == '.') {
        i++;
        TRY(jformat_digits(run, s, &i, &spec->precision));
        if (spec->precision < 0)
            return jrun_raise(run, "ValueError", "Format specifier missing precision");
    }
    if (s->len - i > 1)
        return jrun_raise(run, "ValueError",
                          "Invalid format specifier '%.*s' for object of type '%s'",
                          STR_ARG(jstr_bytes(s)), jval_type_name(v));
    if (i < s->len) spec->type = s->ptr[i];
    if (spec->fill.len == 0) {
        spec->fill_text[0] = spec->zero && spec->align == 0 ? '0' : spec->zero ? '0' : ' ';
        spec->fill.len = 1;
    }
    if (spec->zero && spec->align == 0 && v.tag != J_STR) spec->align = '=';
    return OK;
}

/* Puts `text` (with `head` bytes of sign and prefix) in its field. */
static void jformat_pad(JOut *out, const Spec *spec, const JStr *text, size_t head, char align) {
    int64_t pad = MAX(spec->width - (int64_t)text->n_chars, (int64_t)0);
    JStr fill = {.ptr = spec->fill_text, .len = spec->fill.len, .n_chars = 1};
    int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    if (align == '=') jout_sub(out, text, 0, head);
    jout_fill(out, &fill, left);
    jout_sub(out, text, align == '=' ? head : 0, text->len);
    jout_fill(out, &fill, pad - left);
}

/* Groups the digits [0, n) of `digits` from the right; zeros in front until min_width. */
static size_t jformat_group(const char *digits, size_t n, const Spec *spec, int64_t min_width,
                            char *to) {
    size_t every =
        spec->type == 'x' || spec->type == 'X' || spec->type == 'b' || spec->type == 'o' ? 4 : 3;
    char reversed[JFORMAT_NUMBER_BYTES * 2];
    size_t len = 0;
    for (size_t k = 0; (k < n || (int64_t)len < min_width) && len + 2 < sizeof(reversed); k++) {
        if (spec->grouping != 0 && k > 0 && k % every == 0) reversed[len++] = spec->grouping;
        reversed[len++] = k < n ? digits[n - 1 - k] : '0';
    }
    for (size_t i = 0; i < len; i++) to[i] = reversed[len - 1 - i];
    return len;
}

/* A number's text: sign, prefix, whole digits, rest (fraction, exponent, %). */
static Status jformat_number(JRun *run, const Spec *spec, const char *text, const char *prefix,
                             JOut *out) {
    char field[JFORMAT_NUMBER_BYTES * 3];
    size_t head = 0;
    bool negative = text[0] == '-';
    text += negative;
    if (negative || spec->sign == '+' || spec->sign == ' ')
        field[head++] = negative ? '-' : spec->sign;
    for (; *prefix != 0; prefix++) field[head++] = *prefix;
    size_t whole = spec->type == 'x' || spec->type == 'X' ? strspn(text, "0123456789abcdefABCDEF")
                                                          : strspn(text, "0123456789");
    size_t rest = strlen(text + whole), len = head;
    bool fill_zero = spec->align == '=' && spec->fill_text[0] == '0' && spec->fill.len == 1;
    int64_t min_width =
        fill_zero && spec->grouping != 0 && whole > 0
            ? MIN(spec->width, (int64_t)JFORMAT_NUMBER_BYTES) - (int64_t)(head + rest)
            : 0;
    if (spec->width > JFORMAT_NUMBER_BYTES && spec->grouping != 0)
        return jrun_unsupported(run, "grouping in a field of more than 1,600 characters");
    len += jformat_group(text, whole, spec, min_width, field + len);
    memcpy(field + len, text + whole, rest);
    len += rest;
    JStr s = {.ptr = field, .len = len, .n_chars = len};
    jformat_pad(out, spec, &s, head, spec->align != 0 ? spec->align : '>');
    return OK;
}

static Status jformat_bad_type(JRun *run, const Spec *spec, JVal v) {
    return jrun_raise(run, "ValueError", "Unknown format code '%c' for object of type '%s'",
                      spec->type, v.tag == J_BOOL ? "bool" : jval_type_name(v));
}

/* printf keeps ".0" of no float; repr does. */
static Status jformat_float(JRun *run, JVal v, const Spec *spec, JOut *out) {
    char text[JFORMAT_NUMBER_BYTES], format[8] = "%.*";
    double f = jval_as_float(v);
    if (spec->precision > JFORMAT_PRECISION_MAX)
        return jrun_unsupported(run, "a precision beyond 1,000 digits");
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    char type = spec->type == '%' ? 'f' : spec->type;
    if (type == 'n') type = 'g';
    bool upper = type == 'F' || type == 'E' || type == 'G';
    if (isnan(f) || isinf(f)) {
        snprintf(text, sizeof(text), "%s%s%s", isinf(f) && f < 0 ? "-" : "",
                 isnan(f) ? upper ? "NAN" : "nan"
                 : upper  ? "INF"
                          : "inf",
                 spec->type == '%' ? "%" : "");
    } else if (type == 0 && spec->precision < 0) {
        jnum_repr(f, text);
    } else if (type == 0) {
        /* as 'g', but the exponent begins one digit earlier and a digit follows the point */
        snprintf(text, sizeof(text), "%.*g", MAX(precision, 1), f);
        int exponent = f == 0 ? 0 : (int)floor(log10(fabs(f)));
        if (exponent == MAX(precision, 1) - 1 && strchr(text, 'e') == NULL &&
            strchr(text, '.') == NULL)
            snprintf(text, sizeof(text), "%.*e", MAX(precision, 1) - 1, f);
        if (strpbrk(text, ".e") == NULL) memcpy(text + strlen(text), ".0", sizeof ".0");
        char *e = strchr(text, 'e'), *dot = strchr(text, '.');
        if (e != NULL && dot != NULL) { /* no zeros at the end of the fraction */
            char *last = e - 1;
            while (*last == '0') last--;
            if (*last == '.') last--;
            memmove(last + 1, e, strlen(e) + 1);
        }
    } else {
        format[3] = type;
        if (spec->alternate) {
            memcpy(format, "%#.*", 4);
            format[4] = type;
        }
        snprintf(text, sizeof(text) - 1, format, precision, spec->type == '%' ? f * 100 : f);
        if (spec->type == '%') memcpy(text + strlen(text), "%", sizeof "%");
    }
    return jformat_number(run, spec, text, "", out);
}

static Status jformat_int(JRun *run, JVal v, Spec *spec, JOut *out) {
    char text[80];
    int64_t i = jval_as_int(v);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *prefix = "";
    if (spec->type != 0 && jformat_in("eEfFgG%", spec->type))
        return jformat_float(run, jval_float((double)i), spec, out);
    if (spec->precision >= 0)
        return jrun_raise(run, "ValueError", "Precision not allowed in integer format specifier");
    size_t n = 0;
    if (i < 0) text[n++] = '-';
    switch (spec->type) {
        case 0:
        case 'd':
        case 'n': snprintf(text + n, sizeof(text) - n, "%llu", (unsigned long long)u); break;
        case 'x':
        case 'X':
            snprintf(text + n, sizeof(text) - n, spec->type == 'x' ? "%llx" : "%llX",
                     (unsigned long long)u);
            prefix = spec->type == 'x' ? "0x" : "0X";
            break;
        case 'o':
            snprintf(text + n, sizeof(text) - n, "%llo", (unsigned long long)u);
            prefix = "0o";
            break;
        case 'b': {
            int bit = u == 0 ? 0 : 63 - __builtin_clzll(u);
            for (; bit >= 0; bit--) text[n++] = (char)('0' + (u >> bit & 1));
            text[n] = 0;
            prefix = "0b";
            break;
        }
        case 'c': {
            if (i < 0 || i > 0x10ffff || (i >= 0xd800 && i < 0xe000))
                return jrun_raise(run, "OverflowError", "%%c arg not in range(0x110000)");
            char utf8[4];
            JStr s = {.ptr = utf8, .len = jstr_utf8((uint32_t)i, utf8), .n_chars = 1};
            jformat_pad(out, spec, &s, 0, spec->align != 0 ? spec->align : '<');
            return OK;
        }
        default: return jformat_bad_type(run, spec, v);
    }
    return jformat_number(run, spec, text, spec->alternate ? prefix : "", out);
}

Status jformat_spec(JRun *run, JVal v, const JStr *text, JOut *out) {
    Spec spec;
    if (text->len == 0) {
        jtext_put(out, v);
        return OK;
    }
    if (v.tag != J_STR && !jval_is_number(v))
        return jrun_raise(run, "TypeError", "unsupported format string passed to %s.__format__",
                          jval_type_name(v));
    TRY(jformat_parse(run, text, v, &spec));
    if (v.tag == J_FLOAT) {
        if (spec.type != 0 && !jformat_in("eEfFgGn%", spec.type))
            return jformat_bad_type(run, &spec, v);
        return jformat_float(run, v, &spec, out);
    }
    if (v.tag != J_STR) return jformat_int(run, v, &spec, out);
    if (spec.type != 0 && spec.type != 's') return jformat_bad_type(run, &spec, v);
    if (spec.sign != 0)
        return jrun_raise(run, "ValueError", "Sign not allowed in string format specifier");
    if (spec.align == '=')
        return jrun_raise(run, "ValueError",
                          "'=' alignment not allowed in string format specifier");
    if (spec.alternate)
        return jrun_raise(run, "ValueError",
                          "Alternate form (#) not allowed in string format specifier");
    if (spec.grouping != 0)
        return jrun_raise(run, "ValueError", "Cannot specify '%c' with 's'.", spec.grouping);
    JVal part = v;
    if (spec.precision >= 0 && (size_t)spec.precision < v.s->n_chars)
        TRY(jstr_sub(run, v.s, 0, jstr_offset(v.s, (size_t)spec.precision), &part));
    jformat_pad(out, &spec, part.s, 0, spec.align != 0 ? spec.align : '<');
    return OK;
}

/* ---- str.format
 * ----------------------------------------------------------------------------------- */

typedef struct Braces {
    JRun *run;
    const JArgs *args;
    JVal mapping;      /* of format_map; J_MISSING: none */
    int64_t next_auto; /* -1: numbered by hand */
    bool markup;
} Braces;

static Status jformat_field_first(Braces *braces, const JStr *name, JVal *out) {
    JRun *run = braces->run;
    int64_t index;
    bool overflow;
    bool digits = name->len > 0;
    for (size_t i = 0; i < name->len; i++) digits &= isdigit((unsigned char)name->ptr[i]) != 0;
    if (name->len == 0 || digits) {
        if (name->len == 0) {
            if (braces->next_auto < 0)
                return jrun_raise(
                    run, "ValueError",
                    "cannot switch from manual field specification to automatic field numbering");
            index = braces->next_auto++;
        } else {
            if (braces->next_auto > 0)
                return jrun_raise(
                    run, "ValueError",
                    "cannot switch from manual field specification to automatic field numbering");
            braces->next_auto = -1;
            if (!jnum_parse_int(name, 10, &index, &overflow))
                return jrun_raise(run, "ValueError", "Too many decimal digits in format string");
        }
        if ((uint64_t)index >= braces->args->n)
            return jrun_raise(run, "IndexError",
                              "Replacement index %lld out of range for positional args tuple",
                              (long long)index);
        *out = braces->args->pos[index];
        return OK;
    }
    for (size_t i = 0; i < braces->args->n_kw; i++) {
        if (!jstr_same(braces->args->kw_name[i].s, name)) continue;
        *out = braces->args->kw[i];
        return OK;
    }
    if (braces->mapping.tag == J_UNDEFINED) return jval_undefined_fail(run, braces->mapping);
    if (braces->mapping.tag == J_DICT) {
        *out = jdict_get(braces->mapping.dict, name);
        if (out->tag != J_MISSING) return OK;
    }
    return jrun_raise(run, "KeyError", "'%.*s'", STR_ARG(jstr_bytes(name)));
}

/* "a.b[0]" */
static Status jformat_field(Braces *braces, const JStr *path, JVal *out) {
    JRun *run = braces->run;
    size_t i = 0;
    JVal part;
    while (i < path->len && path->ptr[i] != '.' && path->ptr[i] != '[') i++;
    TRY(jstr_sub(run, path, 0, i, &part));
    TRY(jformat_field_first(braces, part.s, out));
    while (i < path->len) {
        bool item = path->ptr[i] == '[';
        if (!item && path->ptr[i] != '.')
            return jrun_raise(run, "ValueError",
                              "Only '.' or '[' may follow ']' in format field specifier");
        size_t from = ++i;
        while (i < path->len &&
               (item ? path->ptr[i] != ']' : path->ptr[i] != '.' && path->ptr[i] != '['))
            i++;
        if (item && i >= path->len)
            return jrun_raise(run, "ValueError", "Missing ']' in format string");
        if (i == from) return jrun_raise(run, "ValueError", "Empty attribute in format string");
        TRY(jstr_sub(run, path, from, i, &part));
        i += item;
        int64_t index;
        bool overflow;
        if (!item) {
            TRY(jattr_get(run, *out, part.s, out));
        } else if (isdigit((unsigned char)part.s->ptr[0]) &&
                   jnum_parse_int(part.s, 10, &index, &overflow)) {
            TRY(jattr_item(run, *out, jval_int(index), out));
        } else {
            TRY(jattr_item(run, *out, part, out));
        }
    }
    return OK;
}

static Status jformat_convert(JRun *run, char how, JVal v, JVal *out) {
    JOut text = {.run = run};
    *out = v;
    if (how == 0) return OK;
    if (how == 's') return jtext_str(run, v, out);
    if (how != 'r' && how != 'a')
        return jrun_raise(run, "ValueError", "Unknown conversion specifier %c", how);
    if (how == 'a' && v.tag == J_STR) {
        jtext_repr_str(&text, v.s, true);
    } else {
        jtext_repr(&text, v);
    }
    return jout_finish(&text, out);
}

static Status jformat_braces(Braces *braces, const JStr *format, int depth, JOut *out);

/* The inside of one replacement field: name, !conversion, :spec. */
static Status jformat_replace(Braces *braces, const JStr *field, int depth, JOut *out) {
    JRun *run = braces->run;
    size_t i = 0, brackets = 0;
    while (i < field->len && (brackets > 0 || (field->ptr[i] != '!' && field->ptr[i] != ':'))) {
        brackets += field->ptr[i] == '[';
        if (field->ptr[i] == ']' && brackets > 0) brackets--;
        i++;
    }
    JVal path, v, spec;
    char conversion = 0;
    TRY(jstr_sub(run, field, 0, i, &path));
    if (i < field->len && field->ptr[i] == '!') {
        if (i + 1 >= field->len)
            return jrun_raise(run, "ValueError",
                              "end of string while looking for conversion specifier");
        conversion = field->ptr[i + 1];
        i += 2;
        if (i < field->len && field->ptr[i] != ':')
            return jrun_raise(run, "ValueError", "expected ':' after conversion specifier");
    }
    TRY(jformat_field(braces, path.s, &v));
    TRY(jformat_convert(run, conversion, v, &v));
    JOut spec_text = {.run = run};
    if (i < field->len) {
        JVal raw;
        TRY(jstr_sub(run, field, i + 1, field->len, &raw));
        TRY(jformat_braces(braces, raw.s, depth - 1, &spec_text));
    }
    TRY(jout_finish(&spec_text, &spec));
    if (!braces->markup) return jformat_spec(run, v, spec.s, out);
    if (v.tag == J_STR && v.s->markup && spec.s->len > 0)
        return jrun_raise(run, "ValueError", "Unsupported format specification for Markup.");
    JOut one = {.run = run};
    JVal text;
    bool safe = v.tag == J_STR && v.s->markup;
    TRY(jformat_spec(run, v, spec.s, &one));
    TRY(jout_finish(&one, &text));
    if (safe) {
        jout_str(out, text.s);
    } else {
        jhtml_put(out, text.s);
    }
    return OK;
}

static Status jformat_braces(Braces *braces, const JStr *format, int depth, JOut *out) {
    JRun *run = braces->run;
    if (depth < 0) return jrun_raise(run, "ValueError", "Max string recursion exceeded");
    for (size_t i = 0; i < format->len && !out->failed;) {
        char c = format->ptr[i];
        if (c != '{' && c != '}') {
            size_t from = i;
            while (i < format->len && format->ptr[i] != '{' && format->ptr[i] != '}') i++;
            jout_sub(out, format, from, i);
            continue;
        }
        if (i + 1 < format->len && format->ptr[i + 1] == c) {
            jout_sub(out, format, i, i + 1);
            i += 2;
            continue;
        }
        if (c == '}')
            return jrun_raise(run, "ValueError", "Single '}' encountered in format string");
        if (i + 1 >= format->len)
            return jrun_raise(run, "ValueError", "Single '{' encountered in format string");
        size_t nest = 1, from = ++i;
        for (; i < format->len && nest > 0; i++) {
            nest += format->ptr[i] == '{';
            nest -= format->ptr[i] == '}';
        }
        if (nest > 0) return jrun_raise(run, "ValueError", "expected '}' before end of string");
        JVal field;
        TRY(jstr_sub(run, format, from, i - 1, &field));
        TRY(jformat_replace(braces, field.s, depth, out));
    }
    return OK;
}

Status jformat_brace(JRun *run, const JStr *format, const JArgs *args, JVal mapping, JVal *out) {
    Braces braces = {.run = run, .args = args, .mapping = mapping, .markup = format->markup};
    JOut text = {.run = run};
    TRY(jformat_braces(&braces, format, 2, &text));
    TRY(jout_finish(&text, out));
    out->s->markup = format->markup;
    return OK;
}

/* ---- the % operator
 * -------------------------------------------------------------------------------- */

typedef struct Percent {
    JRun *run;
    JVal args; /* a tuple, or the one value */
    size_t used;
    bool is_mapping, markup;
} Percent;

static Status jformat_percent_next(Percent *percent, JVal *out) {
    if (percent->args.tag == J_TUPLE) {
        if (percent->used < percent->args.list->n) {
            *out = percent->args.list->v[percent->used++];
            return OK;
        }
    } else if (percent->used == 0) {
        percent->used = 1;
        *out = percent->args;
        return OK;
    }
    return jrun_raise(percent->run, "TypeError", "not enough arguments for format string");
}

static Status jformat_percent_star(Percent *percent, int64_t *out) {
    JVal v;
    TRY(jformat_percent_next(percent, &v));
    if (!jval_is_int(v)) return jrun_raise(percent->run, "TypeError", "* wants int");
    *out = jval_as_int(v);
    return OK;
}

static Status jformat_percent_number(JRun *run, char type, JVal v, Spec *spec, JOut *out) {
    if (v.tag == J_UNDEFINED && jformat_in("diueEfFgG", type) && !jformat_in("diu", type))
        return jval_undefined_fail(run, v);
    if (!jval_is_number(v)) {
        if (jformat_in("eEfFgG", type))
            return jrun_raise(run, "TypeError", "must be real number, not %s", jval_type_name(v));
        return jrun_raise(run, "TypeError", "%%%c format: %s is required, not %s", type,
                          jformat_in("diu", type) ? "a real number" : "an integer",
                          jval_type_name(v));
    }
    spec->type = type == 'i' || type == 'u' ? 'd' : type;
    if (jformat_in("eEfFgG", type)) return jformat_float(run, v, spec, out);
    if (v.tag == J_FLOAT) {
        if (!jformat_in("diu", type))
            return jrun_raise(run, "TypeError", "%%%c format: an integer is required, not float",
                              type);
        if (!isfinite(v.f) || fabs(v.f) >= 9.2e18)
            return jrun_unsupported(run, "an integer beyond 64 bits");
        v = jval_int((int64_t)v.f);
    }
    int64_t precision = spec->precision;
    spec->precision = -1;
    if (precision < 0) return jformat_int(run, v, spec, out);
    /* precision: at least so many digits */
    Spec bare = {.width = precision + (jval_as_int(v) < 0),
                 .precision = -1,
                 .type = spec->type,
                 .align = '=',
                 .fill = {.len = 1},
                 .fill_text = "0",
                 .alternate = spec->alternate};
    bare.sign = spec->sign;
    JOut digits = {.run = run};
    JVal text;
    TRY(jformat_int(run, v, &bare, &digits));
    TRY(jout_finish(&digits, &text));
    jformat_pad(out, spec, text.s, 0,
                spec->align == '=' ? '>'
                : spec->align != 0 ? spec->align
                                   : '>');
    return OK;
}

static Status jformat_percent_text(Percent *percent, char type, JVal v, const Spec *spec,
                                   JOut *out) {
    JRun *run = percent->run;
    JVal text = v;
    if (type == 'c') {
        if (jval_is_int(v)) {
            char utf8[4];
            int64_t i = jval_as_int(v);
            if (i < 0 || i > 0x10ffff || (i >= 0xd800 && i < 0xe000))
                return jrun_raise(run, "OverflowError", "%%c arg not in range(0x110000)");
            TRY(jstr_copy(run, utf8, jstr_utf8((uint32_t)i, utf8), &text));
        } else if (v.tag != J_STR || v.s->n_chars != 1) {
            return jrun_raise(run, "TypeError", "%%c requires int or char");
        }
    } else {
        TRY(jformat_convert(run, type, v, &text));
    }
    if (percent->markup && type == 's') TRY(jhtml_escape(run, v, &text));
    if (percent->markup && type != 's') TRY(jhtml_escape(run, text, &text));
    if (spec->precision >= 0 && (size_t)spec->precision < text.s->n_chars && type != 'c')
        TRY(jstr_sub(run, text.s, 0, jstr_offset(text.s, (size_t)spec->precision), &text));
    jformat_pad(out, spec, text.s, 0, spec->align == '<' ? '<' : '>');
    return OK;
}

/* One conversion; *i stands behind the '%'. */
static Status jformat_percent_one(Percent *percent, const JStr *s, size_t *i, JOut *out) {
    JRun *run = percent->run;
    Spec spec = {.width = -1, .precision = -1, .fill = {.len = 1}, .fill_text = " "};
    JVal v = {0};
    if (*i < s->len && s->ptr[*i] == '(') {
        if (!percent->is_mapping) return jrun_raise(run, "TypeError", "format requires a mapping");
        size_t from = *i + 1, nest = 1;
        for (*i = from; *i < s->len && nest > 0; *i += 1)
            nest = nest + (s->ptr[*i] == '(') - (s->ptr[*i] == ')');
        if (nest > 0) return jrun_raise(run, "ValueError", "incomplete format key");
        JVal key;
        TRY(jstr_sub(run, s, from, *i - 1, &key));
        if (percent->args.tag == J_UNDEFINED) return jval_undefined_fail(run, percent->args);
        if (percent->args.tag != J_DICT)
            return jrun_raise(run, "TypeError", "%s indices must be integers or slices, not str",
                              jval_type_name(percent->args));
        v = jdict_get(percent->args.dict, key.s);
        if (v.tag == J_MISSING)
            return jrun_raise(run, "KeyError", "'%.*s'", STR_ARG(jstr_bytes(key.s)));
    }
    for (; *i < s->len && jformat_in("-+ #0", s->ptr[*i]); *i += 1) {
        char c = s->ptr[*i];
        if (c == '-') spec.align = '<';
        if (c == '+' || (c == ' ' && spec.sign == 0)) spec.sign = c;
        if (c == '#') spec.alternate = true;
        if (c == '0') spec.zero = true;
    }
    if (*i < s->len && s->ptr[*i] == '*') {
        *i += 1;
        TRY(jformat_percent_star(percent, &spec.width));
        if (spec.width < 0) {
            spec.align = '<';
            spec.width = -spec.width;
        }
    } else {
        TRY(jformat_digits(run, s, i, &spec.width));
    }
    if (*i < s->len && s->ptr[*i] == '.') {
        *i += 1;
        if (*i < s->len && s->ptr[*i] == '*') {
            *i += 1;
            TRY(jformat_percent_star(percent, &spec.precision));
            spec.precision = MAX(spec.precision, (int64_t)0);
        } else {
            TRY(jformat_digits(run, s, i, &spec.precision));
            spec.precision = MAX(spec.precision, (int64_t)0);
        }
    }
    if (*i < s->len && jformat_in("hlL", s->ptr[*i])) *i += 1;
    if (*i >= s->len) return jrun_raise(run, "ValueError", "incomplete format");
    char type = s->ptr[(*i)++];
    if (type == '%') {
        jout_byte(out, '%', false);
        return OK;
    }
    if (!jformat_in("diouxXeEfFgGcrsa", type))
        return jrun_raise(run, "ValueError",
                          "unsupported format character '%c' (0x%x) at index %zu", type,
                          (unsigned char)type, *i - 1);
    if (v.tag == J_MISSING) TRY(jformat_percent_next(percent, &v));
    if (jformat_in("crsa", type)) return jformat_percent_text(percent, type, v, &spec, out);
    if (spec.zero && spec.align == 0) {
        spec.align = '=';
        spec.fill_text[0] = '0';
    }
    return jformat_percent_number(run, type, v, &spec, out);
}

Status jformat_percent(JRun *run, const JStr *format, JVal args, JVal *out) {
    Percent percent = {.run = run, .args = args, .markup = format->markup};
    percent.is_mapping =
        args.tag == J_DICT || args.tag == J_LIST || args.tag == J_UNDEFINED || args.tag == J_RANGE;
    JOut text = {.run = run};
    size_t from = 0;
    for (size_t i = 0; i < format->len && !text.failed;) {
        if (format->ptr[i] != '%') {
            i++;
            continue;
        }
        jout_sub(&text, format, from, i);
        i++;
        TRY(jformat_percent_one(&percent, format, &i, &text));
        from = i;
    }
    jout_sub(&text, format, from, format->len);
    size_t wanted = args.tag == J_TUPLE ? args.list->n : percent.is_mapping ? 0 : 1;
    if (percent.used < wanted)
        return jrun_raise(run, "TypeError", "not all arguments converted during string formatting");
    TRY(jout_finish(&text, out));
    out->s->markup = format->markup;
    return OK;
}
