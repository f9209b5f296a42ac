/* jpprint: pprint.pformat: values on one line of up to 80 characters, else broken up. */
#include "text/jinja_priv.h"

enum { JPPRINT_WIDTH = 80 };

typedef struct Printer {
    JRun *run;
    JOut out;
} Printer;

static Status jpprint_value(Printer *printer, JVal v, int64_t indent, int64_t allowance, int level);

/* Dicts print with their keys in order, where they have one. */
static Status jpprint_sorted(JRun *run, const JDict *dict, JVal *order) {
    JVal *key = jrun_alloc(run, dict->n, sizeof(JVal));
    if (key == NULL) return jrun_no_memory(run);
    bool sortable = true;
    for (size_t i = 0; i < dict->n; i++) {
        key[i] = dict->item[i].key;
        order[i] = jval_int((int64_t)i);
        bool text = key[i].tag == J_STR && key[0].tag == J_STR;
        sortable &= text || (jval_is_number(key[i]) && jval_is_number(key[0]));
    }
    return sortable ? jsort(run, order, key, dict->n, false) : OK;
}

/* repr with sorted dicts. */
static Status jpprint_repr(JRun *run, JVal v, JOut *out) {
    bool is_seq = v.tag == J_LIST || (v.tag == J_TUPLE && !v.list->group);
    if (!is_seq && v.tag != J_DICT) {
        jtext_repr(out, v);
        return OK;
    }
    TRY(jrun_enter(run));
    if (is_seq) {
        jout_text(out, v.tag == J_LIST ? "[" : "(");
        for (size_t i = 0; i < v.list->n; i++) {
            if (i > 0) jout_text(out, ", ");
            TRY(jpprint_repr(run, v.list->v[i], out));
        }
        jout_text(out, v.tag == J_LIST ? "]" : v.list->n == 1 ? ",)" : ")");
    } else {
        JVal *order = jrun_alloc(run, v.dict->n, sizeof(JVal));
        if (order == NULL) return jrun_no_memory(run);
        TRY(jpprint_sorted(run, v.dict, order));
        jout_text(out, "{");
        for (size_t i = 0; i < v.dict->n; i++) {
            const JDictItem *item = &v.dict->item[order[i].i];
            if (i > 0) jout_text(out, ", ");
            TRY(jpprint_repr(run, item->key, out));
            jout_text(out, ": ");
            TRY(jpprint_repr(run, item->value, out));
        }
        jout_text(out, "}");
    }
    jrun_leave(run);
    return OK;
}

static Status jpprint_text(JRun *run, JVal v, JVal *out) {
    JOut text = {.run = run};
    TRY(jpprint_repr(run, v, &text));
    return jout_finish(&text, out);
}

static void jpprint_newline(Printer *printer, const char *before, int64_t indent) {
    jout_text(&printer->out, before);
    jout_text(&printer->out, "\n");
    jout_fill(&printer->out, &(JStr){.ptr = " ", .len = 1, .n_chars = 1}, indent);
}

static Status jpprint_items(Printer *printer, JVal v, int64_t indent, int64_t allowance,
                            int level) {
    bool is_list = v.tag == J_LIST;
    const char *end = is_list ? "]" : v.list->n == 1 ? ",)" : ")";
    allowance += (int64_t)strlen(end);
    jout_text(&printer->out, is_list ? "[" : "(");
    for (size_t i = 0; i < v.list->n; i++) {
        if (i > 0) jpprint_newline(printer, ",", indent + 1);
        TRY(jpprint_value(printer, v.list->v[i], indent + 1, i + 1 == v.list->n ? allowance : 1,
                          level));
    }
    jout_text(&printer->out, end);
    return OK;
}

static Status jpprint_dict(Printer *printer, const JDict *dict, int64_t indent, int64_t allowance,
                           int level) {
    JVal *order = jrun_alloc(printer->run, dict->n, sizeof(JVal));
    if (order == NULL) return jrun_no_memory(printer->run);
    TRY(jpprint_sorted(printer->run, dict, order));
    jout_text(&printer->out, "{");
    for (size_t i = 0; i < dict->n; i++) {
        const JDictItem *item = &dict->item[order[i].i];
        JVal key;
        if (i > 0) jpprint_newline(printer, ",", indent + 1);
        TRY(jpprint_text(printer->run, item->key, &key));
        jout_str(&printer->out, key.s);
        jout_text(&printer->out, ": ");
        TRY(jpprint_value(printer, item->value, indent + 1 + (int64_t)key.s->n_chars + 2,
                          i + 1 == dict->n ? allowance + 1 : 1, level));
    }
    jout_text(&printer->out, "}");
    return OK;
}

/* Words of a line, each with the white space behind it, joined while their repr fits. */
static Status jpprint_words(JRun *run, const JStr *line, int64_t width, int64_t last_width,
                            JVal chunks) {
    size_t from = 0, to = 0;
    while (to < line->len) {
        size_t end = to, next = to;
        while (end < line->len && (next = end, !jstr_is_space(jstr_next(line, &next)))) end = next;
        while (end < line->len && (next = end, jstr_is_space(jstr_next(line, &next)))) end = next;
        JVal part, text;
        TRY(jstr_sub(run, line, from, end, &part));
        TRY(jpprint_text(run, part, &text));
        if ((int64_t)text.s->n_chars > (end >= line->len ? last_width : width) && to > from) {
            TRY(jstr_sub(run, line, from, to, &part));
            TRY(jpprint_text(run, part, &text));
            TRY(jval_list_push(run, chunks.list, text));
            from = to;
        }
        to = end;
    }
    if (to == from) return OK;
    JVal part, text;
    TRY(jstr_sub(run, line, from, to, &part));
    TRY(jpprint_text(run, part, &text));
    return jval_list_push(run, chunks.list, text);
}

static Status jpprint_str(Printer *printer, const JStr *s, int64_t indent, int64_t allowance,
                          int level) {
    JVal lines, chunks, text = {0};
    TRY(jmethods_str_do_splitlines(printer->run, s, true, &lines));
    TRY(jval_list_new(printer->run, 4, &chunks));
    indent += level == 1;
    allowance += level == 1;
    int64_t width = JPPRINT_WIDTH - indent;
    for (size_t i = 0; i < lines.list->n; i++) {
        int64_t last_width = i + 1 == lines.list->n ? width - allowance : width;
        TRY(jpprint_text(printer->run, lines.list->v[i], &text));
        if ((int64_t)text.s->n_chars <= last_width) {
            TRY(jval_list_push(printer->run, chunks.list, text));
        } else {
            TRY(jpprint_words(printer->run, lines.list->v[i].s, width, last_width, chunks));
        }
    }
    if (chunks.list->n <= 1) {
        if (text.tag == J_STR) jout_str(&printer->out, text.s);
        return OK;
    }
    if (level == 1) jout_text(&printer->out, "(");
    for (size_t i = 0; i < chunks.list->n; i++) {
        if (i > 0) jpprint_newline(printer, "", indent);
        jout_str(&printer->out, chunks.list->v[i].s);
    }
    if (level == 1) jout_text(&printer->out, ")");
    return OK;
}

static Status jpprint_value(Printer *printer, JVal v, int64_t indent, int64_t allowance,
                            int level) {
    JVal text;
    TRY(jrun_step(printer->run, v.tag == J_STR ? 1 + (int64_t)v.s->len : 1));
    TRY(jpprint_text(printer->run, v, &text));
    bool fits = (int64_t)text.s->n_chars <= JPPRINT_WIDTH - indent - allowance;
    TRY(jrun_enter(printer->run));
    if (!fits && v.tag == J_DICT) {
        TRY(jpprint_dict(printer, v.dict, indent, allowance, level + 1));
    } else if (!fits && (v.tag == J_LIST || (v.tag == J_TUPLE && !v.list->group))) {
        TRY(jpprint_items(printer, v, indent, allowance, level + 1));
    } else if (!fits && v.tag == J_STR && !v.s->markup) {
        TRY(jpprint_str(printer, v.s, indent, allowance, level + 1));
    } else {
        jout_str(&printer->out, text.s);
    }
    jrun_leave(printer->run);
    return OK;
}

Status jpprint_format(JRun *run, JVal v, JVal *out) {
    Printer printer = {.run = run, .out = {.run = run}};
    TRY(jpprint_value(&printer, v, 0, 0, 0));
    return jout_finish(&printer.out, out);
}
