/* api_openai: chat and text completions in OpenAI's shapes.
 *
 * source: openai-openapi 2.3.0, CreateChatCompletion and CreateCompletion. */
#include "server/api_openai.h"

#include "server/api_answer.h"
#include "server/api_error.h"
#include "server/api_logprobs.h"
#include "server/server_priv.h"

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
static void api_openai_note_prompt(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    if (call->params.tell_prompt && event->prompt_chosen != NULL)
        api_logprobs_prompt(call, event, &choice->prompt_logprobs);
}

static void api_openai_note_tokens(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    api_openai_note_prompt(call, choice, event);
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
    api_logprobs_lists_clear(&choice->lists);
    buf_clear(&choice->token_ids);
}

/* ---- chat ---- */

/* "name":text with a comma before it unless it is the object's first. */
static void api_openai_text_field(const char *name, Str text, Buf *out) {
    if (out->data[out->len - 1] != '{') buf_append_byte(out, ',');
    buf_append_format(out, "\"%s\":", name);
    json_write_str(out, text);
}

/* Under its older name too, where that is wanted. */
static void api_openai_reasoning(const ApiCall *call, Str text, Buf *out) {
    api_openai_text_field("reasoning", text, out);
    if (call->server->options.reasoning_content)
        api_openai_text_field("reasoning_content", text, out);
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
    if (delta->reasoning.len > 0) api_openai_reasoning(call, buf_str(&delta->reasoning), &chunk);
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
    if (call->params.logprobs) api_logprobs_chat(call, event, &choice->logprobs);
    if (!call->params.stream) return;
    ApiDelta delta = {0};
    if (api_openai_chat_news(choice, &delta) || choice->logprobs.len > 0 || !choice->started ||
        event->finish != SLUICE_FINISH_NONE)
        api_openai_chat_chunk(call, event->index, choice, &delta);
    buf_free(&delta.content);
    buf_free(&delta.reasoning);
    buf_free(&delta.calls);
}

static void api_openai_chat_message(const ApiCall *call, const ApiChoice *choice, Buf *out) {
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
        api_openai_reasoning(call, buf_str(&reasoning), out);
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
    api_openai_chat_message(call, choice, out);
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

static void api_openai_text_choice(const ApiCall *call, int32_t index, Buf *out) {
    const ApiChoice *choice = &call->choice[index];
    buf_append_format(out, "{\"index\":%d,\"text\":", index);
    json_write_str(out, buf_str(&choice->text));
    buf_append_text(out, ",\"logprobs\":");
    if (call->params.logprobs) {
        api_logprobs_lists_write(&choice->lists, out);
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

/* With echo the prompt's text comes first, and the figures of its tokens: they come with its first
 * sequence, which is the first to speak. */
static void api_openai_text_echo(ApiCall *call, const sluice_event *event, ApiChoice *choice) {
    const int32_t n = call->params.request.n;
    const ApiPrompt *prompt = &call->prompt[event->index / n];
    char *text = NULL;
    size_t len = 0;
    if (sluice_detokenize(call->server->model, prompt->ids, prompt->n,
                          call->params.request.with_special, &text, &len, NULL) == SLUICE_OK)
        buf_append(&choice->text, text, len);
    sluice_free(text);
    if (!call->params.logprobs) return;
    ApiChoice *first = &call->choice[event->index / n * n];
    if (event->prompt_chosen != NULL) api_logprobs_lists_prompt(call, event, &first->prompt_lists);
    api_logprobs_lists_copy(&choice->lists, &first->prompt_lists);
}

/* Of a request about its prompt alone: the token behind it is not told. */
static void api_openai_text_echoed(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    api_openai_note_prompt(call, choice, event);
    if (event->finish != SLUICE_FINISH_NONE)
        choice->finish = event->finish == SLUICE_FINISH_STOP ? SLUICE_FINISH_LENGTH : event->finish;
}

static void api_openai_text_more(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    buf_append(&choice->text, event->text, event->text_len);
    api_openai_note_tokens(call, choice, event);
    if (event->finish != SLUICE_FINISH_NONE) {
        choice->finish = event->finish;
        choice->stop_index = event->stop_index;
        choice->stop_id = event->stop_id;
    }
    if (call->params.logprobs) api_logprobs_lists(call, event, &choice->lists);
}

static void api_openai_text_event(ApiCall *call, const sluice_event *event) {
    ApiChoice *choice = &call->choice[event->index];
    if (!choice->started && call->params.echo) api_openai_text_echo(call, event, choice);
    choice->started = true;
    if (call->params.echo_only) {
        api_openai_text_echoed(call, choice, event);
    } else {
        api_openai_text_more(call, choice, event);
    }
    if (!call->params.stream) return;
    if (choice->text.len == 0 && choice->lists.tokens.len == 0 &&
        event->finish == SLUICE_FINISH_NONE)
        return;
    Buf chunk = {0};
    api_openai_head(call, "text_completion", &chunk);
    buf_append_text(&chunk, ",\"choices\":[");
    api_openai_text_choice(call, event->index, &chunk);
    buf_append_byte(&chunk, ']');
    api_openai_end_chunk(call, choice, &chunk);
}

static void api_openai_text_finish(ApiCall *call) {
    if (call->params.stream) {
        api_openai_end_stream(call, "text_completion");
    } else {
        api_openai_reply(call, "text_completion", api_openai_text_choice);
    }
}

const ApiFormat API_OPENAI_TEXT = {api_openai_text_event, api_openai_text_finish};
