#include "server/api_logprobs.h"

#include <string.h>

#include "base/json.h"
#include "server/server_priv.h"
#include "text/utf8.h"

/* ---- how many ---- */

/* Figures that the prompts have in the reply. */
static int64_t api_logprobs_of_prompts(const ApiCall *call) {
    int64_t n = 0;
    if (call->params.request.prompt_logprobs < 0) return 0;
    for (int32_t i = 0; i < call->n_prompts; i++)
        n += (int64_t)call->prompt[i].n * (call->params.request.prompt_logprobs + 1);
    return n;
}

Status api_logprobs_check(ApiCall *call, ApiFault *fault) {
    sluice_request *request = &call->params.request;
    const int64_t most = call->server->options.limits.logprobs_max;
    const int64_t n_prompt = api_logprobs_of_prompts(call);
    if (n_prompt > most)
        return api_params_fault(fault, "prompt_logprobs",
                                "'prompt_logprobs' comes to %lld figures for these prompts, at "
                                "most %lld are allowed",
                                (long long)n_prompt, (long long)most);
    if (request->sampling.n_logprobs < 0) return OK;
    const int64_t per_token =
        (int64_t)call->n_prompts * request->n * (request->sampling.n_logprobs + 1);
    const int64_t n_tokens = MAX(request->max_tokens, 1);
    if (n_tokens > (most - n_prompt) / per_token)
        return api_params_fault(fault, "logprobs",
                                "'logprobs' comes to %lld figures for %lld tokens of %d sequences, "
                                "at most %lld are allowed",
                                (long long)(n_prompt + n_tokens * per_token), (long long)n_tokens,
                                call->n_prompts * request->n, (long long)most);
    const int64_t room = call->server->options.plan->max_context - (int64_t)call->prompt[0].n;
    if (request->max_tokens == 0 && room > (most - n_prompt) / per_token)
        request->max_tokens = (int32_t)((most - n_prompt) / per_token);
    return OK;
}

/* ---- one token ---- */

/* The bytes of a token, which may be none; free with api_logprobs_token_free. */
typedef struct ApiToken {
    char *bytes;
    size_t len;
    size_t len_told; /* of them, in the text of the reply: specials may be left out there */
} ApiToken;

/* is_first: nothing of the text is before it. */
static ApiToken api_logprobs_token(const ApiCall *call, int32_t id, bool is_first) {
    const sluice_model *model = call->server->model;
    const bool with_special = call->params.request.with_special;
    ApiToken token = {0};
    (void)sluice_token_bytes(model, id, is_first, with_special, &token.bytes, &token.len, NULL);
    token.len_told = token.len;
    if (token.len == 0 && !with_special) {
        sluice_free(token.bytes);
        token.bytes = NULL;
        (void)sluice_token_bytes(model, id, is_first, true, &token.bytes, &token.len, NULL);
    }
    return token;
}

static void api_logprobs_token_free(ApiToken *token) {
    sluice_free(token->bytes);
}

static Str api_logprobs_str(const ApiToken *token) {
    return (Str){token->bytes == NULL ? "" : token->bytes, token->len};
}

/* A logprob for JSON, which has no infinity: OpenAI's stand-in. */
static double api_logprobs_number(float logprob) {
    return (double)MAX(logprob, -9999.0F);
}

/* A token's name: its text, with what is not UTF-8 replaced, or its number. */
static void api_logprobs_name(const ApiCall *call, int32_t id, const ApiToken *token, Buf *out) {
    if (call->params.token_ids_as_text) {
        buf_append_format(out, "\"token_id:%d\"", id);
    } else {
        json_write_str(out, api_logprobs_str(token));
    }
}

/* ---- chats ---- */

/* {"token": ..., "logprob": ..., "bytes": [...]} without the closing brace. */
static void api_logprobs_chat_token(const ApiCall *call, sluice_logprob figure, Buf *out) {
    ApiToken token = api_logprobs_token(call, figure.token, false);
    buf_append_text(out, "{\"token\":");
    api_logprobs_name(call, figure.token, &token, out);
    buf_append_format(out, ",\"logprob\":%.9g,\"bytes\":[", api_logprobs_number(figure.logprob));
    for (size_t i = 0; i < token.len; i++)
        buf_append_format(out, "%s%u", i > 0 ? "," : "", (unsigned char)token.bytes[i]);
    buf_append_byte(out, ']');
    api_logprobs_token_free(&token);
}

void api_logprobs_chat(const ApiCall *call, const sluice_event *event, Buf *out) {
    for (int32_t i = 0; i < event->n_tokens && event->chosen != NULL; i++) {
        if (out->len > 0) buf_append_byte(out, ',');
        api_logprobs_chat_token(call, event->chosen[i], out);
        buf_append_text(out, ",\"top_logprobs\":[");
        for (int32_t k = 0; k < event->n_top; k++) {
            if (k > 0) buf_append_byte(out, ',');
            api_logprobs_chat_token(call, event->top[(int64_t)i * event->n_top + k], out);
            buf_append_byte(out, '}');
        }
        buf_append_text(out, "]}");
    }
}

/* ---- prompts ---- */

/* {"ID": {"logprob", "rank", "decoded_token"}: vLLM's shape. The rank is known of the likeliest. */
static void api_logprobs_ranked(const ApiCall *call, sluice_logprob figure, int32_t rank,
                                Buf *out) {
    ApiToken token = api_logprobs_token(call, figure.token, false);
    buf_append_format(out, "\"%d\":{\"logprob\":%.9g,\"rank\":", figure.token,
                      api_logprobs_number(figure.logprob));
    if (rank > 0) {
        buf_append_format(out, "%d", rank);
    } else {
        buf_append_text(out, "null");
    }
    buf_append_text(out, ",\"decoded_token\":");
    json_write_str(out, api_logprobs_str(&token));
    buf_append_byte(out, '}');
    api_logprobs_token_free(&token);
}

void api_logprobs_prompt(const ApiCall *call, const sluice_event *event, Buf *out) {
    const ApiPrompt *prompt = &call->prompt[event->index / call->params.request.n];
    const int32_t n = event->n_prompt_top;
    buf_append_text(out, "[null");
    for (size_t i = 1; i < prompt->n; i++) {
        const sluice_logprob *top = event->prompt_top + i * (size_t)n;
        int32_t rank = 0;
        for (int32_t k = 0; k < n && rank == 0; k++)
            if (top[k].token == prompt->ids[i]) rank = k + 1;
        buf_append_text(out, ",{");
        api_logprobs_ranked(call, event->prompt_chosen[i], rank, out);
        for (int32_t k = 0; k < n; k++) {
            if (k + 1 == rank) continue;
            buf_append_byte(out, ',');
            api_logprobs_ranked(call, top[k], k + 1, out);
        }
        buf_append_byte(out, '}');
    }
    buf_append_byte(out, ']');
}

/* ---- text completions ---- */

/* {"token": logprob, ...}; of tokens of the same name the likeliest. */
static void api_logprobs_map(const ApiCall *call, const sluice_logprob *top, int32_t n,
                             bool is_first, Buf *out) {
    Buf name = {0};
    size_t end[API_LOGPROBS_MAX] = {0};
    int32_t n_names = 0;
    buf_append_byte(out, '{');
    for (int32_t k = 0; k < n; k++) {
        ApiToken token = api_logprobs_token(call, top[k].token, is_first);
        const size_t from = name.len;
        api_logprobs_name(call, top[k].token, &token, &name);
        api_logprobs_token_free(&token);
        const Str mine = str_slice(buf_str(&name), from, name.len);
        bool known = false;
        for (int32_t i = 0; i < n_names && !known; i++)
            known = str_eq(str_slice(buf_str(&name), i > 0 ? end[i - 1] : 0, end[i]), mine);
        if (known) {
            name.len = from;
            continue;
        }
        end[n_names++] = name.len;
        if (n_names > 1) buf_append_byte(out, ',');
        buf_append_str(out, mine);
        buf_append_format(out, ":%.9g", api_logprobs_number(top[k].logprob));
    }
    buf_append_byte(out, '}');
    buf_free(&name);
}

/* The place of the text's next byte: that of its character, or of the U+FFFD that stands for it. */
static int32_t api_logprobs_place(ApiLists *lists, char byte) {
    size_t n = (size_t)lists->n_held;
    lists->held[n++] = byte;
    if (n > 1 && utf8_char_bytes(lists->held, n) == 0 && !utf8_is_cut(lists->held, n)) {
        lists->n_chars++; /* what was held stays a beginning */
        lists->held[0] = byte;
        n = 1;
    }
    const int32_t place = lists->n_chars;
    const bool is_cut = utf8_is_cut(lists->held, n);
    lists->n_chars += !is_cut;
    lists->n_held = is_cut ? (int32_t)n : 0;
    return place;
}

/* Appends one token; a token that begins within a character has that character's place. known:
 * it has a probability. */
static void api_logprobs_lists_add(const ApiCall *call, sluice_logprob figure, bool known,
                                   const sluice_logprob *top, int32_t n_top, ApiLists *lists) {
    const bool is_first = call->params.echo && lists->n_chars + lists->n_held == 0;
    const char *comma = lists->tokens.len > 0 ? "," : "";
    ApiToken token = api_logprobs_token(call, figure.token, is_first);
    buf_append_text(&lists->tokens, comma);
    api_logprobs_name(call, figure.token, &token, &lists->tokens);
    if (known) {
        buf_append_format(&lists->logprobs, "%s%.9g", comma, api_logprobs_number(figure.logprob));
    } else {
        buf_append_format(&lists->logprobs, "%snull", comma);
    }
    buf_append_text(&lists->tops, comma);
    api_logprobs_map(call, top, n_top, is_first, &lists->tops);
    int32_t place = lists->n_chars;
    for (size_t i = 0; i < token.len_told; i++) {
        const int32_t mine = api_logprobs_place(lists, token.bytes[i]);
        if (i == 0) place = mine;
    }
    buf_append_format(&lists->offsets, "%s%d", comma, place);
    api_logprobs_token_free(&token);
}

void api_logprobs_lists(const ApiCall *call, const sluice_event *event, ApiLists *lists) {
    for (int32_t i = 0; i < event->n_tokens && event->chosen != NULL; i++)
        api_logprobs_lists_add(call, event->chosen[i], true, event->top + (int64_t)i * event->n_top,
                               event->n_top, lists);
}

void api_logprobs_lists_prompt(const ApiCall *call, const sluice_event *event, ApiLists *lists) {
    const ApiPrompt *prompt = &call->prompt[event->index / call->params.request.n];
    const int32_t n = MIN(event->n_prompt_top, call->params.request.sampling.n_logprobs);
    for (size_t i = 0; i < prompt->n; i++) {
        const sluice_logprob figure = {prompt->ids[i], event->prompt_chosen[i].logprob};
        api_logprobs_lists_add(call, figure, i > 0,
                               event->prompt_top + i * (size_t)event->n_prompt_top, i > 0 ? n : 0,
                               lists);
    }
}

void api_logprobs_lists_copy(ApiLists *to, const ApiLists *from) {
    buf_append_str(&to->tokens, buf_str(&from->tokens));
    buf_append_str(&to->logprobs, buf_str(&from->logprobs));
    buf_append_str(&to->tops, buf_str(&from->tops));
    buf_append_str(&to->offsets, buf_str(&from->offsets));
    to->n_chars = from->n_chars + (from->n_held > 0); /* the answer begins with a character */
}

void api_logprobs_lists_write(const ApiLists *lists, Buf *out) {
    buf_append_text(out, "{\"tokens\":[");
    buf_append_str(out, buf_str(&lists->tokens));
    buf_append_text(out, "],\"token_logprobs\":[");
    buf_append_str(out, buf_str(&lists->logprobs));
    buf_append_text(out, "],\"top_logprobs\":[");
    buf_append_str(out, buf_str(&lists->tops));
    buf_append_text(out, "],\"text_offset\":[");
    buf_append_str(out, buf_str(&lists->offsets));
    buf_append_text(out, "]}");
}

void api_logprobs_lists_clear(ApiLists *lists) {
    buf_clear(&lists->tokens);
    buf_clear(&lists->logprobs);
    buf_clear(&lists->tops);
    buf_clear(&lists->offsets);
}

void api_logprobs_lists_free(ApiLists *lists) {
    buf_free(&lists->tokens);
    buf_free(&lists->logprobs);
    buf_free(&lists->tops);
    buf_free(&lists->offsets);
}
