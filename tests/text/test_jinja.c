/* test_jinja: templates render to the bytes that Python's Jinja2 gives.
 *
 * jinja_cases.json was written by tools/make_jinja_cases.py from the real Jinja2; the golden
 * templates of the shared data are read where they are there. `test_jinja --lines` renders JSON
 * lines from stdin for tools/fuzz_jinja.py. */
#include "text/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"

static Status render(const char *template, const json_t *variables, int64_t now, Buf *out,
                     Err *err) {
    Jinja *jinja = NULL;
    Status status = jinja_open(&jinja, str_from(template), err);
    if (status == OK) status = jinja_render(jinja, variables, now, NULL, out, err);
    jinja_close(jinja);
    return status;
}

/* One JSON object per line: template, variables, now. Answers with {"out": ...} or {"error":
 * ...}. */
static int render_lines(void) {
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *in = json_loads(line, JSON_ALLOW_NUL, NULL);
        Buf out = {0};
        Err err = {0};
        Status status = render(json_string_value(json_object_get(in, "template")),
                               json_object_get(in, "variables"),
                               json_integer_value(json_object_get(in, "now")), &out, &err);
        json_t *answer = status == OK
                             ? json_pack("{s:s%}", "out", out.len ? out.data : "", out.len)
                             : json_pack("{s:s,s:i}", "error", err.text, "status", (int)status);
        if (answer == NULL) answer = json_pack("{s:s}", "error", "output is not UTF-8");
        char *text = json_dumps(answer, JSON_ENSURE_ASCII);
        puts(text);
        fflush(stdout);
        free(text);
        json_decref(answer);
        json_decref(in);
        buf_free(&out);
    }
    free(line);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--lines") == 0) return render_lines();
    return 0;
}
