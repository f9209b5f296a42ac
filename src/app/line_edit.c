#include "app/line_edit.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { LINE_EDIT_HISTORY = 1000 };

struct LineEdit {
    EditLine *el;     /* NULL: standard input is not a terminal */
    History *history; /* likewise */
    const char *prompt;
    char *history_path;
};

static char *line_edit_prompt(EditLine *el) {
    LineEdit *edit = NULL;
    el_get(el, EL_CLIENTDATA, &edit);
    return (char *)(uintptr_t)edit->prompt;
}

LineEdit *line_edit_open(const char *history_path) {
    LineEdit *edit = mem_alloc(sizeof *edit);
    edit->prompt = "";
    if (!isatty(STDIN_FILENO)) return edit;
    /* So that a character of several bytes is one to the editor. */
    const char *locale = setlocale(LC_CTYPE, "");
    if (locale == NULL || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    edit->el = el_init("sluice", stdin, stdout, stderr);
    edit->history = history_init();
    if (edit->el == NULL || edit->history == NULL) return edit;
    HistEvent event;
    history(edit->history, &event, H_SETSIZE, LINE_EDIT_HISTORY);
    history(edit->history, &event, H_SETUNIQUE, 1);
    if (history_path != NULL) {
        edit->history_path = mem_strdup(history_path);
        history(edit->history, &event, H_LOAD, history_path);
    }
    el_set(edit->el, EL_CLIENTDATA, edit);
    el_set(edit->el, EL_PROMPT_ESC, line_edit_prompt, '\1');
    el_set(edit->el, EL_EDITOR, "emacs");
    el_set(edit->el, EL_HIST, history, edit->history);
    /* Ctrl-C comes as a key, and empties the line. */
    el_set(edit->el, EL_SETTY, "-d", "-isig", NULL);
    el_set(edit->el, EL_BIND, "^C", "em-kill-line", NULL);
    return edit;
}

void line_edit_close(LineEdit *edit) {
    if (edit == NULL) return;
    if (edit->history != NULL) {
        HistEvent event;
        if (edit->history_path != NULL) {
            history(edit->history, &event, H_SAVE, edit->history_path);
            chmod(edit->history_path, 0600);
        }
        history_end(edit->history);
    }
    if (edit->el != NULL) el_end(edit->el);
    mem_free(edit->history_path);
    mem_free(edit);
}

bool line_edit_read(LineEdit *edit, const char *prompt, Buf *out) {
    buf_clear(out);
    if (edit->el != NULL) {
        edit->prompt = prompt;
        int count = 0;
        const char *line = el_gets(edit->el, &count);
        if (line == NULL || count <= 0) return false;
        buf_append(out, line, (size_t)count);
    } else {
        char *line = NULL;
        size_t cap = 0;
        ssize_t len = getline(&line, &cap, stdin);
        if (len > 0) buf_append(out, line, (size_t)len);
        free(line);
        if (len <= 0) return false;
    }
    while (out->len > 0 && (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == '\r'))
        out->data[--out->len] = '\0';
    return true;
}

void line_edit_remember(LineEdit *edit, const char *line) {
    HistEvent event;
    if (edit->history != NULL && line[0] != '\0') history(edit->history, &event, H_ENTER, line);
}
