/* The structure of a pattern: groups, repeats, look-around, anchors. Writes the same structure for
 * PCRE2 with every character replaced by a mark for its set. */
#include "text/pattern_priv.h"
#include "text/utf8.h"

/* Writes the mark of a set and takes the set over. */
static Status pattern_parse_emit(PatternParse *parse, PatternSet *set, Err *err) {
    int32_t i = 0;
    if (set->failed) {
        pattern_set_free(set);
        FAIL(err, ERR_NOMEM, "pattern: no memory for a class of characters");
    }
    for (; i < parse->n_sets; i++) {
        const PatternSet *known = &parse->set[i];
        if (known->n == set->n &&
            (set->n == 0 || memcmp(known->ranges, set->ranges, set->n * sizeof *set->ranges) == 0))
            break;
    }
    if (i < parse->n_sets) {
        pattern_set_free(set);
    } else if (parse->n_sets == PATTERN_SETS_MAX) {
        pattern_set_free(set);
        FAIL(err, ERR_UNSUPPORTED, "pattern: more than %d different classes of characters",
             PATTERN_SETS_MAX);
    } else {
        parse->set[parse->n_sets++] = *set;
    }
    buf_append_byte(&parse->out, PATTERN_SET_MARK);
    buf_append_byte(&parse->out, (char)i);
    return OK;
}

static Status pattern_parse_point(PatternParse *parse, uint32_t c, Err *err) {
    PatternSet set = {0};
    pattern_set_add(&set, c, c);
    if (parse->ignore_case[parse->depth]) pattern_set_fold(&set);
    parse->atom_at = parse->out.len;
    return pattern_parse_emit(parse, &set, err);
}

/* The letters of (?imsx-imsx. Returns false for one that is not known. */
static bool pattern_parse_flags(PatternParse *parse, bool *ignore_case, bool *dot_all) {
    bool on = true;
    for (; parse->at < parse->source.len; parse->at++) {
        char c = parse->source.ptr[parse->at];
        if (c == ')' || c == ':') return true;
        if (c == '-')
            on = false;
        else if (c == 'i')
            *ignore_case = on;
        else if (c == 's' || c == 'm') /* Ruby's m is what others call s */
            *dot_all = on;
        else
            return false;
    }
    return false;
}

/* From behind "(": writes the group's head, or sets flags for the rest of this group. */
static Status pattern_parse_open(PatternParse *parse, Err *err) {
    static const char *const heads[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
    Str rest = str_slice(parse->source, parse->at, parse->source.len);
    bool ignore_case = parse->ignore_case[parse->depth], dot_all = parse->dot_all[parse->depth];
    const char *head = "?:";
    size_t skip = 0;
    for (size_t i = 0; i < ARRAY_LEN(heads) && skip == 0; i++)
        if (str_starts_with(rest, heads[i])) {
            head = heads[i];
            skip = strlen(head);
        }
    parse->at += skip;
    if (skip == 0 && str_starts_with(rest, "?")) {
        parse->at++;
        if (!pattern_parse_flags(parse, &ignore_case, &dot_all))
            FAIL(err, ERR_UNSUPPORTED, "pattern: the group at byte %zu is not supported",
                 parse->at);
        if (parse->source.ptr[parse->at++] == ')') {
            parse->ignore_case[parse->depth] = ignore_case;
            parse->dot_all[parse->depth] = dot_all;
            return OK;
        }
    }
    if (parse->depth == PATTERN_DEPTH_MAX)
        FAIL(err, ERR_UNSUPPORTED, "pattern: groups nested deeper than %d", PATTERN_DEPTH_MAX);
    parse->depth++;
    parse->ignore_case[parse->depth] = ignore_case;
    parse->dot_all[parse->depth] = dot_all;
    parse->group_at[parse->depth] = parse->out.len;
    parse->atom_at = SIZE_MAX;
    buf_append_byte(&parse->out, '(');
    buf_append_text(&parse->out, head);
    return OK;
}

/* {m}, {m,}, {,n} or {m,n} at the parser's place; false: a brace that is a character. */
static bool pattern_parse_counts(PatternParse *parse) {
    Str s = parse->source;
    size_t end = str_find(s, STR_LIT("}"), parse->at);
    if (end == SIZE_MAX) return false;
    Str inside = str_slice(s, parse->at + 1, end);
    size_t comma = str_find(inside, STR_LIT(","), 0);
    Str low = str_slice(inside, 0, comma), high = {0};
    if (comma != SIZE_MAX) high = str_slice(inside, comma + 1, inside.len);
    int64_t from = 0, to = 0;
    if (low.len == 0 && high.len == 0) return false;
    if (low.len > 0 && (!str_to_i64(low, &from) || from < 0 || from > 1000)) return false;
    if (high.len > 0 && (!str_to_i64(high, &to) || to < from || to > 1000)) return false;
    buf_append_format(&parse->out, "{%d", (int)from);
    if (comma != SIZE_MAX) buf_append_byte(&parse->out, ',');
    if (high.len > 0) buf_append_format(&parse->out, "%d", (int)to);
    buf_append_byte(&parse->out, '}');
    parse->at = end + 1;
    return true;
}

/* A repeat behind an atom. In Oniguruma's Ruby syntax "+" behind {m,n} repeats the repeat. */
static Status pattern_parse_repeat(PatternParse *parse, Err *err) {
    Str s = parse->source;
    bool counted = s.ptr[parse->at] == '{';
    if (parse->atom_at == SIZE_MAX)
        FAIL(err, ERR_FORMAT, "pattern: nothing to repeat at byte %zu", parse->at);
    if (counted) {
        if (!pattern_parse_counts(parse)) {
            parse->at++;
            return pattern_parse_point(parse, '{', err);
        }
    } else {
        buf_append_byte(&parse->out, s.ptr[parse->at++]);
    }
    if (parse->at < s.len && (s.ptr[parse->at] == '?' || (s.ptr[parse->at] == '+' && !counted)))
        buf_append_byte(&parse->out, s.ptr[parse->at++]);
    /* Whatever repeats this again repeats the whole: a group makes that so. */
    if (parse->at < s.len && memchr("*+?", s.ptr[parse->at], 3) != NULL) {
        Buf tail = {0};
        buf_append(&tail, parse->out.data + parse->atom_at, parse->out.len - parse->atom_at);
        parse->out.len = parse->atom_at;
        buf_append_text(&parse->out, "(?:");
        buf_append_str(&parse->out, buf_str(&tail));
        buf_append_byte(&parse->out, ')');
        parse->out.failed |= tail.failed;
        buf_free(&tail);
    }
    return OK;
}

/* Line ends: Ruby's ^ and $ work at every line. */
static Status pattern_parse_anchor(PatternParse *parse, const char *before, const char *after,
                                   Err *err) {
    PatternSet newline = {0};
    pattern_set_add(&newline, '\n', '\n');
    buf_append_text(&parse->out, before);
    TRY(pattern_parse_emit(parse, &newline, err));
    buf_append_text(&parse->out, after);
    parse->atom_at = SIZE_MAX;
    return OK;
}

/* \b or \B: written out, for PCRE2's own knows nothing of our classes. */
static Status pattern_parse_boundary(PatternParse *parse, bool inverted, Err *err) {
    static const char *const parts[2][5] = {{"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"},
                                            {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"}};
    for (size_t i = 0; i < 5; i++) {
        PatternSet word = {0};
        buf_append_text(&parse->out, parts[inverted][i]);
        if (i == 4) break;
        PatternParse inner = {.source = STR_LIT("w")};
        TRY(pattern_class_escape(&inner, &word, err));
        TRY(pattern_parse_emit(parse, &word, err));
    }
    parse->atom_at = SIZE_MAX;
    return OK;
}

static Status pattern_parse_escape(PatternParse *parse, Err *err) {
    Str s = parse->source;
    char c = parse->at < s.len ? s.ptr[parse->at] : '\0';
    if (c == 'b' || c == 'B') {
        parse->at++;
        return pattern_parse_boundary(parse, c == 'B', err);
    }
    if (c == 'z' || c == 'A') {
        parse->at++;
        parse->atom_at = SIZE_MAX;
        buf_append_text(&parse->out, c == 'z' ? "\\z" : "\\A");
        return OK;
    }
    if (c == 'Z') {
        parse->at++;
        return pattern_parse_anchor(parse, "(?=", "?\\z)", err);
    }
    PatternSet set = {0};
    Status status = pattern_class_escape(parse, &set, err);
    if (status != OK) {
        pattern_set_free(&set);
        return status;
    }
    if (parse->ignore_case[parse->depth]) pattern_set_fold(&set);
    parse->atom_at = parse->out.len;
    return pattern_parse_emit(parse, &set, err);
}

static Status pattern_parse_bracket(PatternParse *parse, Err *err) {
    PatternSet set = {0};
    Status status = pattern_class_bracket(parse, &set, 0, err);
    if (status != OK) {
        pattern_set_free(&set);
        return status;
    }
    parse->atom_at = parse->out.len;
    return pattern_parse_emit(parse, &set, err);
}

static Status pattern_parse_dot(PatternParse *parse, Err *err) {
    PatternSet set = {0};
    if (!parse->dot_all[parse->depth]) pattern_set_add(&set, '\n', '\n');
    pattern_set_invert(&set);
    parse->atom_at = parse->out.len;
    return pattern_parse_emit(parse, &set, err);
}

static Status pattern_parse_one(PatternParse *parse, Err *err) {
    uint32_t c;
    size_t at = parse->at;
    parse->at += (size_t)utf8_decode(parse->source.ptr + at, &c);
    switch (c) {
        case '\\': return pattern_parse_escape(parse, err);
        case '[': return pattern_parse_bracket(parse, err);
        case '.': return pattern_parse_dot(parse, err);
        case '(': return pattern_parse_open(parse, err);
        case '^': return pattern_parse_anchor(parse, "(?:\\A|(?<=", "))", err);
        case '$': return pattern_parse_anchor(parse, "(?:\\z|(?=", "))", err);
        case ')':
            if (parse->depth == 0) FAIL(err, ERR_FORMAT, "pattern: ) without its (");
            parse->atom_at = parse->group_at[parse->depth--];
            buf_append_byte(&parse->out, ')');
            return OK;
        case '|':
            parse->atom_at = SIZE_MAX;
            buf_append_byte(&parse->out, '|');
            return OK;
        case '*':
        case '+':
        case '?':
        case '{':
            parse->at = at;
            if (c == '{' && parse->atom_at == SIZE_MAX) {
                parse->at++;
                return pattern_parse_point(parse, c, err);
            }
            return pattern_parse_repeat(parse, err);
        default: return pattern_parse_point(parse, c, err);
    }
}

Status pattern_parse(PatternParse *parse, Err *err) {
    parse->atom_at = SIZE_MAX;
    parse->out.bytes_max = (size_t)PATTERN_BYTES_MAX * 8;
    if (parse->source.len > PATTERN_BYTES_MAX)
        FAIL(err, ERR_LIMIT, "pattern: %zu bytes long, the limit is %d", parse->source.len,
             PATTERN_BYTES_MAX);
    if (utf8_valid_bytes(parse->source) != parse->source.len)
        FAIL(err, ERR_FORMAT, "pattern: not valid UTF-8");
    while (parse->at < parse->source.len) TRY(pattern_parse_one(parse, err));
    if (parse->depth != 0) FAIL(err, ERR_FORMAT, "pattern: ( without its )");
    if (parse->out.failed) FAIL(err, ERR_LIMIT, "pattern: too long");
    return OK;
}

void pattern_parse_free(PatternParse *parse) {
    for (int32_t i = 0; i < parse->n_sets; i++) pattern_set_free(&parse->set[i]);
    buf_free(&parse->out);
}
