/* fuzz_jinja: any bytes as a template over a fixed context render or are refused with a sentence,
 * within the bounds; what comes out is UTF-8 and every byte has its mark. */
#include <utf8proc.h>

#include "base/mem.h"
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char FUZZ_JINJA_CONTEXT[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"H\\u00e9llo <b>\"}, {\"role\": "
    "\"assistant\","
    " \"content\": \"4\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": "
    "1.5}}}]}],"
    " \"tools\": [{\"type\": \"function\"}], \"text\": \"a b  c\", \"user\": {\"name\": \"Ann\", "
    "\"n\": 3},"
    " \"items\": [3, 1, 2, null, true]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const JinjaLimits limits = {.output_bytes_max = 1 << 20,
                                       .memory_bytes_max = 16 << 20,
                                       .steps_max = 20000,
                                       .depth_max = 300};
    Jinja *jinja = NULL;
    Err err = {0};
    if (jinja_open(&jinja, (Str){(const char *)data, size}, &err) != OK) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    json_t *context = json_loads(FUZZ_JINJA_CONTEXT, 0, NULL);
    Buf out = {0}, marks = {0};
    Status status = jinja_render_marked(jinja, context, NULL, 0, &limits, &out, &marks, &err);
    CHECK(status == OK || err.text[0] != '\0');
    CHECK(out.len == marks.len);
    for (size_t i = 0; i < out.len;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)out.data + i,
                                              (utf8proc_ssize_t)(out.len - i), &cp);
        CHECK(n > 0);
        i += (size_t)n;
    }
    buf_free(&out);
    buf_free(&marks);
    json_decref(context);
    jinja_close(jinja);
    return 0;
}
