#include "server/api_answer.h"

#include <stdio.h>

#include "base/rng.h"
#include "server/server_priv.h"

enum { API_MISTRAL_ID_BYTES = 9 };

void api_answer_init(const ApiCall *call, ApiChoice *choice) {
    const ApiTools *tools = &call->tools;
    choice->stop_index = choice->stop_id = -1;
    chat_parse_init(&choice->parse, tools->style, tools->thinks, tools->thinking);
    chat_parse_feed(&choice->parse, buf_str(&tools->forced));
}

void api_answer_free(ApiChoice *choice) {
    chat_parse_free(&choice->parse);
    for (int32_t i = 0; i < choice->n_items; i++) {
        buf_free(&choice->item[i].name);
        buf_free(&choice->item[i].text);
    }
    buf_free(&choice->hidden);
    mem_free(choice->item);
}

static ApiItem *api_answer_add(ApiChoice *choice, ChatPartKind kind) {
    if (choice->n_items == choice->items_max) {
        int32_t max = MAX(choice->items_max * 2, 4);
        ApiItem *item = mem_alloc((size_t)max * sizeof *item);
        if (choice->n_items > 0) memcpy(item, choice->item, (size_t)choice->n_items * sizeof *item);
        mem_free(choice->item);
        choice->item = item;
        choice->items_max = max;
    }
    ApiItem *item = &choice->item[choice->n_items++];
    item->kind = kind;
    return item;
}

/* Mistral's templates take ids of nine letters and digits only. */
static void api_answer_call_id(const ApiCall *call, ApiItem *item) {
    if (call->tools.style < CHAT_MISTRAL) {
        server_new_id(call->server, call->tools.id_prefix, item->id, sizeof item->id);
        return;
    }
    char digits[API_ID_BYTES];
    server_new_id(call->server, "", digits, sizeof digits);
    snprintf(item->id, sizeof item->id, "%.*s", API_MISTRAL_ID_BYTES, digits);
}

static void api_answer_part(ApiCall *call, ApiChoice *choice, const ChatPart *part) {
    const ApiTools *tools = &call->tools;
    Str text = chat_parse_text(&choice->parse, part);
    ApiItem *item = choice->n_items > 0 ? &choice->item[choice->n_items - 1] : NULL;
    if (part->kind == CHAT_REASONING && tools->hide_reasoning) {
        buf_append_str(&choice->hidden, text);
    } else if (part->kind == CHAT_CALL) {
        choice->skip_call = tools->one_call && api_answer_n_calls(choice) > 0;
        if (choice->skip_call) return;
        item = api_answer_add(choice, CHAT_CALL);
        api_answer_call_id(call, item);
        buf_append_str(&item->name, text);
    } else if (part->kind == CHAT_ARGUMENTS) {
        if (!choice->skip_call) buf_append_str(&item->text, text);
    } else {
        if (item == NULL || item->kind != part->kind) item = api_answer_add(choice, part->kind);
        buf_append_str(&item->text, text);
    }
}

/* What the reasoning comes to in tokens, however its sequence was cut into events. A model may need
 * fewer than the tokenizer: never more than it wrote. */
static void api_answer_count(ApiCall *call, const ApiChoice *choice, int32_t n_output) {
    Buf text = {0};
    size_t n = 0;
    buf_append_str(&text, buf_str(&choice->hidden));
    if (api_answer_text(choice, CHAT_REASONING, &text))
        (void)sluice_tokenize(call->server->model, text.data, text.len, false, false, NULL, 0, &n,
                              NULL);
    call->n_reasoning_tokens += MIN((int64_t)n, n_output);
    buf_free(&text);
}

void api_answer_note(ApiCall *call, ApiChoice *choice, const sluice_event *event) {
    chat_parse_feed(&choice->parse, (Str){event->text, event->text_len});
    if (event->finish != SLUICE_FINISH_NONE) {
        chat_parse_end(&choice->parse);
        choice->finish = event->finish;
        choice->stop_index = event->stop_index;
        choice->stop_id = event->stop_id;
    }
    for (size_t i = 0; i < choice->parse.n_parts; i++)
        api_answer_part(call, choice, &choice->parse.part[i]);
    chat_parse_clear(&choice->parse);
    if (event->finish != SLUICE_FINISH_NONE) api_answer_count(call, choice, event->usage->n_output);
}

int32_t api_answer_n_calls(const ApiChoice *choice) {
    int32_t n = 0;
    for (int32_t i = 0; i < choice->n_items; i++) n += choice->item[i].kind == CHAT_CALL;
    return n;
}

bool api_answer_text(const ApiChoice *choice, ChatPartKind kind, Buf *out) {
    for (int32_t i = 0; i < choice->n_items; i++)
        if (choice->item[i].kind == kind) buf_append_str(out, buf_str(&choice->item[i].text));
    return out->len > 0;
}

ApiItem *api_answer_untold(ApiChoice *choice) {
    return choice->n_told < choice->n_items ? &choice->item[choice->n_told] : NULL;
}

Str api_answer_news(ApiItem *item) {
    Str news = str_slice(buf_str(&item->text), item->n_told, item->text.len);
    item->n_told = item->text.len;
    return news;
}

bool api_answer_is_over(ApiChoice *choice, const ApiItem *item) {
    bool over = item < &choice->item[choice->n_items - 1] || choice->finish != SLUICE_FINISH_NONE;
    choice->n_told += over;
    return over;
}
