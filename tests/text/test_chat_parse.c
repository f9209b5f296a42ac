/* test_chat_parse: tool calls and reasoning in what models write. Goal: the shapes that the vendors
 * document come out as calls, everything else as the text it was, however the answer is cut.
 * Method: answers written by hand after the model cards with the parts that a reader sees in them;
 * each is fed whole, byte by byte, and cut in two at every place. */
#include "text/chat_parse.h"

#include "base/json.h"
#include "testing.h"

typedef struct Case {
    const char *name;
    ChatStyle style;
    bool thinks, thinking;
    const char *answer, *parts;
} Case;

/* Parts are written "T text", "R reasoning", "C name", "A arguments", each behind a newline. */
#define CALL(name, arguments) "\nC " name "\nA " arguments

static const Case CASES[] = {
    {"plain", CHAT_PLAIN, false, false, "Hello <tool_call>{\"name\": \"f\"}",
     "\nT Hello <tool_call>{\"name\": \"f\"}"},
    {"no answer", CHAT_HERMES, true, false, "", ""},

    /* Llama 3.1's model card: a JSON object is the whole answer. */
    {"llama", CHAT_LLAMA, false, false,
     "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"San Francisco\", \"n\": [1, {}]}}",
     CALL("get_weather", "{\"city\": \"San Francisco\", \"n\": [1, {}]}")},
    {"llama with the tag and spaces", CHAT_LLAMA, false, false,
     "\n<|python_tag|> {\"name\":\"f\",\"parameters\":{}}\n", "\nT \n" CALL("f", "{}")},
    {"llama, two", CHAT_LLAMA, false, false,
     "{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}}; {\"name\": \"g\", \"parameters\": {}}",
     CALL("f", "{\"a\": \"}\"}") CALL("g", "{}")},
    {"llama with a type first", CHAT_LLAMA, false, false,
     "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"x\": 1}}",
     CALL("f", "{\"x\":1}")},
    {"llama, text", CHAT_LLAMA, false, false, " It is {\"name\": 5}", "\nT  It is {\"name\": 5}"},
    {"llama, JSON that is no call", CHAT_LLAMA, false, false,
     "{\"name\": \"Bob\", \"age\": 5} is it", "\nT {\"name\": \"Bob\", \"age\": 5} is it"},
    {"llama, code behind the tag", CHAT_LLAMA, false, false,
     "<|python_tag|>brave_search.call(query=\"x\")",
     "\nT <|python_tag|>brave_search.call(query=\"x\")"},
    {"llama, text behind", CHAT_LLAMA, false, false,
     "{\"name\": \"f\", \"parameters\": {}}; and so on", CALL("f", "{}") "\nT ; and so on"},
    {"llama, cut in the arguments", CHAT_LLAMA, false, false,
     "{\"name\": \"f\", \"parameters\": {\"a\": \"b", CALL("f", "{\"a\": \"b")},
    {"llama, cut in the name", CHAT_LLAMA, false, false, "{\"name\": \"f", "\nT {\"name\": \"f"},
    {"llama, no name", CHAT_LLAMA, false, false, "{\"name\": \"\", \"parameters\": {}}",
     "\nT {\"name\": \"\", \"parameters\": {}}"},

    /* Qwen 2.5 and 3, Hermes 2 Pro: the template's own words. */
    {"hermes", CHAT_HERMES, false, false,
     "<tool_call>\n{\"name\": \"get_temp\", \"arguments\": {\"place\": \"Paris, \\\"FR\\\"\"}}\n"
     "</tool_call>",
     CALL("get_temp", "{\"place\": \"Paris, \\\"FR\\\"\"}")},
    {"hermes, text and two calls", CHAT_HERMES, false, false,
     "Let me see.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n"
     "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call> Done.",
     "\nT Let me see.\n\n" CALL("f", "{\"a\": 1}") CALL("g", "{}") "\nT Done."},
    {"hermes, arguments first", CHAT_HERMES, false, false,
     "<tool_call>{\"arguments\": {\"a\": \"\\u00e9\"}, \"name\": \"f\"}</tool_call>",
     CALL("f", "{\"a\":\"\xc3\xa9\"}")},
    {"hermes, arguments as a string", CHAT_HERMES, false, false,
     "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
     CALL("f", "{\"a\":1}")},
    {"hermes, a brace is missing", CHAT_HERMES, false, false,
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}\n</tool_call>",
     CALL("f", "{\"a\": 1}")},
    {"hermes, the closing mark is missing", CHAT_HERMES, false, false,
     "<tool_call>{\"name\": \"f\", \"arguments\": {}} tail", CALL("f", "{}") "\nT tail"},
    {"hermes, cut in the closing mark", CHAT_HERMES, false, false,
     "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool", CALL("f", "{}")},
    {"hermes, brackets cross", CHAT_HERMES, false, false,
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1}}</tool_call>",
     CALL("f", "{\"a\": [1") "\nT }}</tool_call>"},
    {"hermes, not JSON", CHAT_HERMES, false, false, "<tool_call>call f</tool_call> x",
     "\nT <tool_call>call f</tool_call> x"},
    {"hermes, half marks", CHAT_HERMES, false, false, "a <<tool_<tool_call> <tool_c",
     "\nT a <<tool_<tool_call> <tool_c"},
    {"hermes, an object without name", CHAT_HERMES, false, false,
     "<tool_call>{\"tool\": \"f\"}</tool_call>", "\nT <tool_call>{\"tool\": \"f\"}</tool_call>"},
    {"hermes, arguments that are a number", CHAT_HERMES, false, false,
     "<tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>",
     "\nT <tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>"},

    /* Mistral: tokenizers 3 to 7 write a list, with an id behind; 11 and 13 name and arguments. */
    {"mistral", CHAT_MISTRAL, false, false,
     "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {\"u\": \"[x]\"}, \"id\": \"9Ae3bDc2F\"}]",
     CALL("get", "{\"u\": \"[x]\"}")},
    {"mistral, two", CHAT_MISTRAL, false, false,
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}] x",
     CALL("f", "{}") CALL("g", "{}") "\nT x"},
    {"mistral, empty list", CHAT_MISTRAL, false, false, "[TOOL_CALLS][]", "\nT [TOOL_CALLS][]"},
    {"mistral 11", CHAT_MISTRAL_ARGS, false, false,
     "Sure.[TOOL_CALLS]get_weather{\"city\": \"Paris\"}[TOOL_CALLS]f-2{}",
     "\nT Sure." CALL("get_weather", "{\"city\": \"Paris\"}") CALL("f-2", "{}")},
    {"mistral 13", CHAT_MISTRAL_ARGS, false, false,
     "[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{\"k\": {\"l\": 1}} [TOOL_CALLS]g[ARGS]{}",
     CALL("f", "{\"k\": {\"l\": 1}}") CALL("g", "{}")},
    {"mistral 13, no call", CHAT_MISTRAL_ARGS, false, false, "[TOOL_CALLS]f[ARGS], [TOOL",
     "\nT [TOOL_CALLS]f[ARGS], [TOOL"},

    /* Reasoning: Qwen 3 writes the mark, the template of DeepSeek R1 ends with it. */
    {"reasoning", CHAT_HERMES, true, false, "<think>\nHm <b.\n</think>\n\nYes.",
     "\nR \nHm <b.\n\nT Yes."},
    {"reasoning, then a call", CHAT_HERMES, true, false,
     "<think>a</think>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
     "\nR a" CALL("f", "{}")},
    {"reasoning, begun by the prompt", CHAT_PLAIN, true, true, "so</think>\n\nYes",
     "\nR so\nT Yes"},
    {"reasoning without end", CHAT_PLAIN, true, false, "<think>so </thin", "\nR so </thin"},
    {"no reasoning", CHAT_PLAIN, true, false, "\n<thing> <think>", "\nT \n<thing> <think>"},
    {"reasoning, then llama's call", CHAT_LLAMA, true, false,
     "<think>a</think> {\"name\": \"f\", \"parameters\": {}}", "\nR a" CALL("f", "{}")},
};

static void take(ChatParse *parse, Buf *out, int32_t *last) {
    static const char letters[] = "TRCA";
    for (size_t i = 0; i < parse->n_parts; i++) {
        const ChatPart *part = &parse->part[i];
        if (part->kind == CHAT_CALL || *last != (int32_t)part->kind)
            buf_append_format(out, "\n%c ", letters[part->kind]);
        buf_append_str(out, chat_parse_text(parse, part));
        *last = (int32_t)part->kind;
    }
    chat_parse_clear(parse);
}

/* The parts of an answer fed in pieces: [0, cut), then `step` bytes at a time. */
static void run(const Case *c, size_t cut, size_t step, Buf *out) {
    ChatParse parse;
    int32_t last = -1;
    Str answer = str_from(c->answer);
    chat_parse_init(&parse, c->style, c->thinks, c->thinking);
    for (size_t at = 0, to = cut; at < answer.len; at = to, to = MIN(to + step, answer.len)) {
        chat_parse_feed(&parse, str_slice(answer, at, to));
        take(&parse, out, &last);
    }
    chat_parse_end(&parse);
    take(&parse, out, &last);
    chat_parse_free(&parse);
}

static void test_answers(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        const Case *c = &CASES[i];
        size_t len = strlen(c->answer);
        for (size_t cut = 0; cut <= len; cut++) {
            Buf got = {0};
            run(c, cut, cut == 0 ? 1 : len, &got);
            if (strcmp(got.len > 0 ? got.data : "", c->parts) != 0)
                fail_msg("%s, cut at %zu:%s", c->name, cut, got.len > 0 ? got.data : " nothing");
            buf_free(&got);
        }
    }
}

/* A call whose fields come in another order is held back, up to the limit and no further. */
static void test_limits(void **state) {
    (void)state;
    static const char head[] = "<tool_call>{\"arguments\": {\"a\": \"",
                      tail[] = "\"}, \"name\": \"f\"}";
    size_t fixed = sizeof head - 1 + sizeof tail - 1;
    for (int32_t extra = -1; extra <= 1; extra++) {
        size_t len = (size_t)(CHAT_HELD_MAX - 1 + extra) - fixed;
        ChatParse parse;
        chat_parse_init(&parse, CHAT_HERMES, false, false);
        chat_parse_feed(&parse, STR_LIT(head));
        for (size_t i = 0; i < len; i++) chat_parse_feed(&parse, STR_LIT("x"));
        chat_parse_feed(&parse, STR_LIT(tail));
        chat_parse_end(&parse);
        assert_int_equal(parse.part[0].kind, extra <= 0 ? CHAT_CALL : CHAT_TEXT);
        assert_int_equal(parse.part[extra <= 0 ? 1 : 0].len, extra <= 0 ? len + 8 : fixed + len);
        chat_parse_free(&parse);
    }
    ChatParse parse;
    chat_parse_init(&parse, CHAT_HERMES, false, false);
    for (int32_t i = 0; i < CHAT_CALLS_MAX + 3; i++)
        chat_parse_feed(&parse,
                        STR_LIT("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"));
    chat_parse_end(&parse);
    assert_int_equal(parse.n_calls, CHAT_CALLS_MAX);
    assert_int_equal(parse.n_parts, 2 * CHAT_CALLS_MAX + 1);
    assert_int_equal(parse.part[2 * CHAT_CALLS_MAX].len, 3 * 50);
    chat_parse_free(&parse);
}

/* A forced beginning is a call of that function in every style. */
static void test_force(void **state) {
    (void)state;
    for (ChatStyle style = CHAT_LLAMA; style <= CHAT_MISTRAL_ARGS; style++) {
        Buf begin = {0};
        ChatParse parse;
        chat_parse_force(style, STR_LIT("get_it"), &begin);
        chat_parse_init(&parse, style, false, false);
        chat_parse_feed(&parse, buf_str(&begin));
        assert_int_equal(parse.n_parts, 2);
        assert_int_equal(parse.part[0].kind, CHAT_CALL);
        assert_true(str_is(chat_parse_text(&parse, &parse.part[0]), "get_it"));
        assert_true(str_is(chat_parse_text(&parse, &parse.part[1]), "{"));
        chat_parse_free(&parse);
        buf_free(&begin);
    }
}

/* The vendors' templates say how their models call. */
static void test_styles(void **state) {
    (void)state;
    static const struct {
        const char *file;
        ChatStyle style;
        bool thinks;
    } rows[] = {
        {"chujiezheng_chat_templates__qwen2.5-instruct", CHAT_HERMES, false},
        {"chujiezheng_chat_templates__zephyr", CHAT_PLAIN, false},
        {"llama.cpp-templates__NousResearch-Hermes-3-Llama-3.1-8B-tool_use", CHAT_HERMES, false},
        {"llama.cpp-templates__Qwen-Qwen2.5-7B-Instruct", CHAT_HERMES, false},
        {"llama.cpp-templates__Qwen3-Coder", CHAT_PLAIN, false},
        {"llama.cpp-templates__GLM-4.7-Flash", CHAT_PLAIN, true},
        {"llama.cpp-templates__meta-llama-Llama-3.1-8B-Instruct", CHAT_LLAMA, false},
        {"llama.cpp-templates__meta-llama-Llama-3.3-70B-Instruct", CHAT_LLAMA, false},
        {"llama.cpp-templates__meetkai-functionary-medium-v3.1", CHAT_PLAIN, false},
        {"vllm-examples__tool_chat_template_llama3.2_json", CHAT_LLAMA, false},
        {"mistral-common-jinja__v3_spm", CHAT_MISTRAL, false},
        {"mistral-common-jinja__v7_image_spm", CHAT_MISTRAL, false},
        {"mistral-common-jinja__v13", CHAT_MISTRAL_ARGS, false},
        {"llama.cpp-templates__deepseek-ai-DeepSeek-R1-Distill-Llama-8B", CHAT_PLAIN, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char name[256];
        snprintf(name, sizeof name, "data/chat-templates/golden/%s.jinja.json", rows[i].file);
        char *path = testing_shared(name);
        if (!file_exists(path)) {
            mem_free(path);
            skip();
        }
        json_t *golden = NULL;
        Err err = {0};
        ASSERT_OK(json_parse_file(&golden, path, &err), err);
        Str source = str_from(json_string_value(json_object_get(golden, "source")));
        if (chat_parse_style(source) != rows[i].style ||
            chat_parse_thinks(source) != rows[i].thinks)
            fail_msg("%s: style %d, thinks %d", name, (int)chat_parse_style(source),
                     chat_parse_thinks(source));
        json_decref(golden);
        mem_free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_force),
        cmocka_unit_test(test_styles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
