/* api_openai: chat and text completions in OpenAI's shapes.
 *
 * source: openai-openapi 2.3.0, CreateChatCompletion and CreateCompletion. */
#include "server/api_openai.h"

#include <stdlib.h>
#include <string.h>

#include "server/api_answer.h"
#include "server/api_error.h"
#include "server/server_priv.h"

/* ---- logprobs ---- */

/* A token's text for JSON: its bytes, with what is not UTF-8 replaced. */
static void api_openai_token_text(const ApiCall *call, int32_t token, char **text, size_t *len) {
    *text = NULL;
    *len = 0;
    (void)sluice_detokenize(call->server->model, &token, 1, true, text, len, NULL);
}

/* A logprob for JSON, which has no infinity: OpenAI's stand-in. */
static double api_openai_number(float logprob) {
    return (double)MAX(logprob, -9999.0F);
}

/* {"token": ..., "logprob": ..., "bytes": [...]} without the closing brace. */
static void api_openai_chat_logprob(const ApiCall *call, sluice_logprob token, Buf *out) {
    char *text;
    size_t len;
    api_openai_token_text(call, token.token, &text, &len);
    Str s = {text == NULL ? "" : text, len};
    buf_append_text(out, "{\"token\":");
    if (call->params.token_ids_as_text) {
        buf_append_format(out, "\"token_id:%d\"", token.token);
    } else {
        json_write_str(out, s);
    }
    buf_append_format(out, ",\"logprob\":%.9g,\"bytes\":[", api_openai_number(token.logprob));
    for (size_t i = 0; i < s.len; i++)
        buf_append_format(out, "%s%u", i > 0 ? "," : "", (unsigned char)s.ptr[i]);
    buf_append_byte(out, ']');
    sluice_free(text);
}

/* The entries of choices[].logprobs.content for an event's tokens. */
static void api_openai_chat_logprobs(const ApiCall *call, const sluice_event *event, Buf *out) {
    for (int32_t i = 0; i < event->n_tokens && event->chosen != NULL; i++) {
        if (out->len > 0) buf_append_byte(out, ',');
        api_openai_chat_logprob(call, event->chosen[i], out);
        buf_append_text(out, ",\"top_logprobs\":[");
        for (int32_t k = 0; k < event->n_top; k++) {
            if (k > 0) buf_append_byte(out, ',');
            api_openai_chat_logprob(call, event->top[(int64_t)i * event->n_top + k], out);
            buf_append_byte(out, '}');
        }
        buf_append_text(out, "]}");
    }
}

/* {"ID": {"logprob", "rank", "decoded_token"}: vLLM's shape. The rank is known of the likeliest. */
static void api_openai_ranked(const ApiCall *call, sluice_logprob token, int32_t rank, Buf *out) {
    char *text;
    size_t len;
    api_openai_token_text(call, token.token, &text, &len);
    buf_append_format(out, "\"%d\":{\"logprob\":%.9g,\"rank\":", token.token,
                      api_openai_number(token.logprob));
    if (rank > 0) {
        buf_append_format(out, "%d", rank);
    } else {
        buf_append_text(out, "null");
    }
    buf_append_text(out, ",\"decoded_token\":");
    json_write_str(out, (Str){text == NULL ? "" : text, len});
    buf_append_byte(out, '}');
    sluice_free(text);
}

/* The prompt's tokens with the likeliest in their places; of the first nothing is known. */
static void api_openai_prompt_logprobs(const ApiCall *call, const sluice_event *event, Buf *out) {
    const ApiPrompt *prompt = &call->prompt[event->index / call->params.request.n];
    const int32_t n = event->n_prompt_top;
    buf_append_text(out, "[null");
    for (size_t i = 1; i < prompt->n; i++) {
        const sluice_logprob *top = event->prompt_top + i * (size_t)n;
        int32_t rank = 0;
        for (int32_t k = 0; k < n && rank == 0; k++)
            if (top[k].token == prompt->ids[i]) rank = k + 1;
        buf_append_text(out, ",{");
        api_openai_ranked(call, event->prompt_chosen[i], rank, out);
        for (int32_t k = 0; k < n; k++) {
            if (k + 1 == rank) continue;
            buf_append_byte(out, ',');
            api_openai_ranked(call, top[k], k + 1, out);
        }
        buf_append_byte(out, '}');
    }
    buf_append_byte(out, ']');
}

/* "prompt_logprobs" and "prompt_token_ids" of one prompt, where they are wanted. */
static void api_openai_prompt(const ApiCall *call, int32_t prompt, Buf *out) {
    if (call->params.tell_prompt) {
        buf_append_text(out, ",\"prompt_logprobs\":");
        buf_append_str(out,
                       buf_str(&call->choice[prompt * call->params.request.n].prompt_logprobs));
    }
    if (!call->params.return_token_ids) return;
    const ApiPrompt *p = &call->prompt[prompt];
    for (size_t i = 0; i < p->n; i++)
        buf_append_format(out, "%s%d", i == 0 ? ",\"prompt_token_ids\":[" : ",", p->ids[i]);
    buf_append_byte(out, ']');
}

/* ---- shared pieces ---- */

/* {"id":...,"object":...,"created":...,"model":... */
static void api_openai_head(const ApiCall *call, const char *object, Buf *out) {
    buf_append_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", call->id,
                      object, (long long)call->created);
    json_write_str(out, str_from(call->server->model_name));
}

static void api_openai_usage(const ApiCall *call, Buf *out) {
    buf_append_format(out,
                      "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                      "\"prompt_tokens_details\":{\"cached_tokens\":%lld,\"cache_miss\":\"%s\","
                      "\"cache_miss_at\":%d},\"completion_tokens_details\":{"
                      "\"reasoning_tokens\":%lld}}",
                      (long long)call->n_prompt_tokens, (long long)call->n_output_tokens,
                      (long long)(call->n_prompt_tokens + call->n_output_tokens),
                      (long long)call->n_cached_tokens, api_call_miss_text(call->miss),
                      call->miss_at, (long long)call->n_reasoning_tokens);
}

static void api_openai_finish_reason(const ApiChoice *choice, Buf *out) {
    if (choice->finish == SLUICE_FINISH_NONE) {
        buf_append_text(out, "\"finish_reason\":null");
        return;
    }
    bool calls = choice->finish == SLUICE_FINISH_STOP && api_answer_n_calls(choice) > 0;
    buf_append_format(out, "\"finish_reason\":\"%s\"",
                      calls ? "tool_calls" : api_call_finish_text(choice->finish));
}

/* vLLM's stop_reason: the stop string or token that ended the text, or null. */
static void api_openai_stop_reason(const ApiCall *call, const ApiChoice *choice, Buf *out) {
    buf_append_text(out, ",\"stop_reason\":");
    if (choice->stop_index >= 0 && choice->stop_index < call->params.request.n_stop) {
        json_write_str(out, str_from(call->params.request.stop[choice->stop_index]));
    } else if (choice->stop_id >= 0) {
        buf_append_format(out, "%d", choice->stop_id);
    } else {
        buf_append_text(out, "null");
    }
}

/* Notes an event's tokens in its choice. Streams empty them and `logprobs` after each chunk. */
static void api_openai_note_tokens(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    if (call->params.tell_prompt && event->prompt_chosen != NULL)
        api_openai_prompt_logprobs(call, event, &choice->prompt_logprobs);
    for (int32_t i = 0; i < event->n_tokens && call->params.return_token_ids; i++)
        buf_append_format(&choice->token_ids, "%s%d", choice->token_ids.len > 0 ? "," : "",
                          event->tokens[i]);
}

static void api_openai_token_ids(const ApiCall *call, const ApiChoice *choice, Buf *out) {
    if (!call->params.return_token_ids) return;
    buf_append_text(out, ",\"token_ids\":[");
    buf_append_str(out, buf_str(&choice->token_ids));
    buf_append_byte(out, ']');
}

static void api_openai_end_stream(ApiCall *call, const char *object) {
    if (call->params.include_usage) {
        Buf chunk = {0};
        api_openai_head(call, object, &chunk);
        buf_append_text(&chunk, ",\"choices\":[],\"usage\":");
        api_openai_usage(call, &chunk);
        buf_append_byte(&chunk, '}');
        api_call_send(call, buf_str(&chunk));
        buf_free(&chunk);
    }
    api_call_send(call, STR_LIT("[DONE]"));
    http_stream_end(call->exchange);
}

static void api_openai_end_chunk(ApiCall *call, ApiChoice *choice, Buf *chunk) {
    if (call->params.include_usage) buf_append_text(chunk, ",\"usage\":null");
    buf_append_byte(chunk, '}');
    api_call_send(call, buf_str(chunk));
    buf_free(chunk);
    buf_clear(&choice->text);
    buf_clear(&choice->logprobs);
    buf_clear(&choice->token_ids);
}

/* ---- chat ---- */

/* "name":text with a comma before it unless it is the object's first. */
static void api_openai_text_field(const char *name, Str text, Buf *out) {
    if (out->data[out->len - 1] != '{') buf_append_byte(out, ',');
    buf_append_format(out, "\"%s\":", name);
    json_write_str(out, text);
}

/* A call's beginning (id, type, name) and its next arguments; or only these. */
static void api_openai_chat_call(const ApiItem *item, int32_t index, Str arguments, Buf *out) {
    buf_append_byte(out, '{');
    if (index >= 0) buf_append_format(out, "\"index\":%d", index);
    if (!item->begun) {
        api_openai_text_field("id", str_from(item->id), out);
        buf_append_text(out, ",\"type\":\"function\",\"function\":{");
        api_openai_text_field("name", buf_str(&item->name), out);
    } else {
        buf_append_text(out, ",\"function\":{");
    }
    api_openai_text_field("arguments", arguments, out);
    buf_append_text(out, "}}");
}

/* The news of a delta: text, reasoning and calls of one event. */
typedef struct ApiDelta {
    Buf content, reasoning, calls;
} ApiDelta;

static bool api_openai_chat_news(ApiChoice *choice, ApiDelta *delta) {
    ApiItem *item;
    while ((item = api_answer_untold(choice)) != NULL) {
        bool fresh = item->kind == CHAT_CALL && !item->begun;
        Str news = api_answer_news(item);
        if (item->kind == CHAT_TEXT) {
            buf_append_str(&delta->content, news);
        } else if (item->kind == CHAT_REASONING) {
            buf_append_str(&delta->reasoning, news);
        } else if (fresh || news.len > 0) {
            int32_t index = -1;
            for (const ApiItem *it = choice->item; it <= item; it++) index += it->kind == CHAT_CALL;
            if (delta->calls.len > 0) buf_append_byte(&delta->calls, ',');
            api_openai_chat_call(item, index, news, &delta->calls);
            item->begun = true;
        }
        if (!api_answer_is_over(choice, item)) break;
    }
    return delta->content.len + delta->reasoning.len + delta->calls.len > 0;
}

static void api_openai_chat_logprobs_field(const ApiCall *call, const ApiChoice *choice, Buf *out) {
    buf_append_text(out, "\"logprobs\":");
    if (!call->params.logprobs) {
        buf_append_text(out, "null");
        return;
    }
    buf_append_text(out, "{\"content\":[");
    buf_append_str(out, buf_str(&choice->logprobs));
    buf_append_text(out, "],\"refusal\":null}");
}

static void api_openai_chat_chunk(ApiCall *call, int32_t index, ApiChoice *choice,
                                  const ApiDelta *delta) {
    Buf chunk = {0};
    api_openai_head(call, "chat.completion.chunk", &chunk);
    buf_append_format(&chunk, ",\"choices\":[{\"index\":%d,\"delta\":{", index);
    if (!choice->started) api_openai_text_field("role", STR_LIT("assistant"), &chunk);
    choice->started = true;
    if (delta->content.len > 0 || delta->reasoning.len + delta->calls.len == 0)
        api_openai_text_field("content", buf_str(&delta->content), &chunk);
    if (delta->reasoning.len > 0)
        api_openai_text_field("reasoning", buf_str(&delta->reasoning), &chunk);
    if (delta->calls.len > 0) {
        if (chunk.data[chunk.len - 1] != '{') buf_append_byte(&chunk, ',');
        buf_append_text(&chunk, "\"tool_calls\":[");
        buf_append_str(&chunk, buf_str(&delta->calls));
        buf_append_byte(&chunk, ']');
    }
    buf_append_text(&chunk, "},");
    api_openai_chat_logprobs_field(call, choice, &chunk);
    buf_append_byte(&chunk, ',');
    api_openai_finish_reason(choice, &chunk);
    if (choice->finish != SLUICE_FINISH_NONE) api_openai_stop_reason(call, choice, &chunk);
    api_openai_token_ids(call, choice, &chunk);
    buf_append_text(&chunk, "}]");
    api_openai_end_chunk(call, choice, &chunk);
}

static void api_openai_chat_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[event->index];
    api_answer_note(call, choice, event);
    api_openai_note_tokens(call, choice, event);
    if (call->params.logprobs) api_openai_chat_logprobs(call, event, &choice->logprobs);
    if (!call->params.stream) return;
    ApiDelta delta = {0};
    if (api_openai_chat_news(choice, &delta) || choice->logprobs.len > 0 || !choice->started ||
        event->finish != SLUICE_FINISH_NONE)
        api_openai_chat_chunk(call, event->index, choice, &delta);
    buf_free(&delta.content);
    buf_free(&delta.reasoning);
    buf_free(&delta.calls);
}

static void api_openai_chat_message(const ApiChoice *choice, Buf *out) {
    Buf content = {0}, reasoning = {0};
    int32_t n_calls = api_answer_n_calls(choice), n = 0;
    buf_append_text(out, "{\"role\":\"assistant\"");
    if (api_answer_text(choice, CHAT_TEXT, &content) || n_calls == 0) {
        api_openai_text_field("content", buf_str(&content), out);
    } else {
        buf_append_text(out, ",\"content\":null");
    }
    buf_append_text(out, ",\"refusal\":null");
    if (api_answer_text(choice, CHAT_REASONING, &reasoning))
        api_openai_text_field("reasoning", buf_str(&reasoning), out);
    for (int32_t i = 0; i < choice->n_items; i++) {
        if (choice->item[i].kind != CHAT_CALL) continue;
        buf_append_text(out, n++ == 0 ? ",\"tool_calls\":[" : ",");
        api_openai_chat_call(&choice->item[i], -1, buf_str(&choice->item[i].text), out);
    }
    buf_append_text(out, n > 0 ? "]}" : "}");
    buf_free(&content);
    buf_free(&reasoning);
}

static void api_openai_chat_choice(const ApiCall *call, int32_t index, Buf *out) {
    const ApiChoice *choice = &call->choice[index];
    buf_append_format(out, "{\"index\":%d,\"message\":", index);
    api_openai_chat_message(choice, out);
    buf_append_byte(out, ',');
    api_openai_chat_logprobs_field(call, choice, out);
    buf_append_byte(out, ',');
    api_openai_finish_reason(choice, out);
    api_openai_stop_reason(call, choice, out);
    api_openai_token_ids(call, choice, out);
    buf_append_byte(out, '}');
}

static void api_openai_reply(ApiCall *call, const char *object,
                             void (*write_choice)(const ApiCall *, int32_t, Buf *)) {
    Buf body = {0};
    api_openai_head(call, object, &body);
    buf_append_text(&body, ",\"choices\":[");
    for (int32_t i = 0; i < call->n_choices; i++) {
        if (i > 0) buf_append_byte(&body, ',');
        write_choice(call, i, &body);
    }
    buf_append_text(&body, "],\"usage\":");
    api_openai_usage(call, &body);
    if (call->format == &API_OPENAI_CHAT) api_openai_prompt(call, 0, &body);
    buf_append_byte(&body, '}');
    http_reply(call->exchange, 200, "application/json", &body);
}

static void api_openai_chat_finish(ApiCall *call) {
    if (call->params.stream) {
        api_openai_end_stream(call, "chat.completion.chunk");
    } else {
        api_openai_reply(call, "chat.completion", api_openai_chat_choice);
    }
}

const ApiFormat API_OPENAI_CHAT = {api_openai_chat_event, api_openai_chat_finish};

/* ---- text completions ---- */

/* Completions have four parallel lists where chats have a list of entries: made from those. */
static void api_openai_text_logprobs(const ApiChoice *choice, Buf *out) {
    /* Our own text: however long the answer is, it is within limits. */
    static const JsonLimits limits = {
        .bytes_max = SIZE_MAX, .depth_max = 8, .values_max = INT64_MAX};
    json_t *entries = NULL;
    Buf list = {0};
    buf_append_byte(&list, '[');
    buf_append_str(&list, buf_str(&choice->logprobs));
    buf_append_byte(&list, ']');
    if (json_parse(&entries, buf_str(&list), &limits, "logprobs", NULL) != OK)
        entries = json_array();
    buf_free(&list);
    json_t *tokens = json_array(), *probs = json_array(), *tops = json_array(),
           *offsets = json_array();
    json_int_t offset = choice->text_at;
    size_t i, k;
    json_t *entry, *top;
    json_array_foreach(entries, i, entry) {
        json_t *text = json_object_get(entry, "token"), *map = json_object();
        json_array_append(tokens, text);
        if (json_is_true(json_object_get(entry, "unknown"))) {
            json_array_append_new(probs, json_null());
        } else {
            json_array_append(probs, json_object_get(entry, "logprob"));
        }
        json_array_foreach(json_object_get(entry, "top_logprobs"), k, top) {
            json_object_set(map, json_string_value(json_object_get(top, "token")),
                            json_object_get(top, "logprob"));
        }
        json_array_append_new(tops, map);
        json_array_append_new(offsets, json_integer(offset));
        offset += (json_int_t)json_array_size(json_object_get(entry, "bytes"));
    }
    json_t *lists = json_pack("{s:o,s:o,s:o,s:o}", "tokens", tokens, "token_logprobs", probs,
                              "top_logprobs", tops, "text_offset", offsets);
    char *text = json_dumps(lists, JSON_COMPACT);
    buf_append_text(out, text == NULL ? "null" : text);
    free(text);
    json_decref(lists);
    json_decref(entries);
}

static void api_openai_text_choice(const ApiCall *call, int32_t index, Buf *out) {
    const ApiChoice *choice = &call->choice[index];
    buf_append_format(out, "{\"index\":%d,\"text\":", index);
    json_write_str(out, buf_str(&choice->text));
    buf_append_text(out, ",\"logprobs\":");
    if (call->params.logprobs) {
        api_openai_text_logprobs(choice, out);
    } else {
        buf_append_text(out, "null");
    }
    buf_append_byte(out, ',');
    api_openai_finish_reason(choice, out);
    if (choice->finish != SLUICE_FINISH_NONE) api_openai_stop_reason(call, choice, out);
    api_openai_token_ids(call, choice, out);
    if (!call->params.stream) api_openai_prompt(call, index / call->params.request.n, out);
    buf_append_byte(out, '}');
}

/* With echo the prompt's text comes first. Returns its bytes. */
static int32_t api_openai_text_echo(ApiCall *call, int32_t index, ApiChoice *choice) {
    const ApiPrompt *prompt = &call->prompt[index / call->params.request.n];
    char *text = NULL;
    size_t len = 0;
    if (sluice_detokenize(call->server->model, prompt->ids, prompt->n,
                          call->params.request.with_special, &text, &len, NULL) == SLUICE_OK) {
        buf_append(&choice->text, text, len);
        choice->text_at = (int32_t)len;
    }
    sluice_free(text);
    return choice->text_at;
}

/* With echo and logprobs the prompt's tokens come first; the first has no probability. The places
 * of the tokens then count from the prompt's beginning. */
static void api_openai_text_prompt(const ApiCall *call, const sluice_event *event,
                                   ApiChoice *choice) {
    const ApiPrompt *prompt = &call->prompt[event->index / call->params.request.n];
    for (size_t i = 0; i < prompt->n; i++) {
        sluice_logprob token = {prompt->ids[i], event->prompt_chosen[i].logprob};
        if (i > 0) buf_append_byte(&choice->logprobs, ',');
        api_openai_chat_logprob(call, token, &choice->logprobs);
        buf_append_format(&choice->logprobs, ",\"unknown\":%s,\"top_logprobs\":[",
                          i == 0 ? "true" : "false");
        const int32_t n = MIN(event->n_prompt_top, call->params.request.sampling.n_logprobs);
        for (int32_t k = 0; k < n && i > 0; k++) {
            if (k > 0) buf_append_byte(&choice->logprobs, ',');
            api_openai_chat_logprob(call, event->prompt_top[i * (size_t)event->n_prompt_top + k],
                                    &choice->logprobs);
            buf_append_byte(&choice->logprobs, '}');
        }
        buf_append_text(&choice->logprobs, "]}");
    }
}

static void api_openai_text_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[event->index];
    int32_t echoed = 0;
    if (!choice->started && call->params.echo)
        echoed = api_openai_text_echo(call, event->index, choice);
    if (!choice->started && call->params.echo && call->params.logprobs) {
        /* The prompt's figures come with its first sequence, which is the first to speak. */
        ApiChoice *first = &call->choice[event->index - event->index % call->params.request.n];
        if (event->prompt_chosen != NULL) api_openai_text_prompt(call, event, choice);
        if (choice == first) buf_append_str(&first->prompt_entries, buf_str(&first->logprobs));
        if (choice != first) buf_append_str(&choice->logprobs, buf_str(&first->prompt_entries));
        choice->text_at = 0;
        echoed = 0;
    }
    choice->started = true;
    buf_append(&choice->text, event->text, event->text_len);
    api_openai_note_tokens(call, choice, event);
    if (event->finish != SLUICE_FINISH_NONE) {
        choice->finish = event->finish;
        choice->stop_index = event->stop_index;
        choice->stop_id = event->stop_id;
    }
    if (call->params.logprobs) api_openai_chat_logprobs(call, event, &choice->logprobs);
    if (!call->params.stream) return;
    if (choice->text.len == 0 && choice->logprobs.len == 0 && event->finish == SLUICE_FINISH_NONE)
        return;
    int32_t text_len = (int32_t)choice->text.len;
    Buf chunk = {0};
    api_openai_head(call, "text_completion", &chunk);
    buf_append_text(&chunk, ",\"choices\":[");
    api_openai_text_choice(call, event->index, &chunk);
    buf_append_byte(&chunk, ']');
    api_openai_end_chunk(call, choice, &chunk);
    choice->text_at += text_len - echoed;
}

static void api_openai_text_finish(ApiCall *call) {
    if (call->params.stream) {
        api_openai_end_stream(call, "text_completion");
    } else {
        api_openai_reply(call, "text_completion", api_openai_text_choice);
    }
}

const ApiFormat API_OPENAI_TEXT = {api_openai_text_event, api_openai_text_finish};
