#include "engine/engine_priv.h"

static const char ENGINE_SAY_SLOW_CLIENT[] =
    "the client did not fetch its output: too much of it is waiting";

size_t engine_say_text_bytes(const Engine *e) {
    return 4 * (size_t)(e->piece_bytes_max + DETOK_STOP_BYTES_MAX) + 1024;
}

static void engine_say_note_logprobs(SeqOutput *out, int32_t at, int32_t n_top,
                                     const SamplerResult *sample) {
    if (out->chosen != NULL) out->chosen[at] = (sluice_logprob){sample->token, sample->logprob};
    for (int32_t i = 0; out->top != NULL && i < n_top; i++) {
        /* A vocabulary smaller than n_top repeats its last. */
        const TokenLogprob *top = &sample->top[MIN(i, sample->n_top - 1)];
        out->top[(size_t)at * (size_t)n_top + (size_t)i] =
            (sluice_logprob){top->token, top->logprob};
    }
}

/* Adds the news to what the sequence has to say. */
static void engine_say_note(Seq *seq, const EngineNews *news) {
    SeqOutput *out = &seq->out;
    if (news->sample != NULL)
        engine_say_note_logprobs(out, out->n_ready, seq->request->n_top, news->sample);
    out->n_ready += news->n_tokens;
    if (news->text.len > 0) buf_append_str(&out->text, news->text);
    out->overflowed = out->text.failed;
    if (news->finish == SLUICE_FINISH_NONE) return;
    out->finish = news->finish;
    out->stop_index = news->stop_index;
    out->stop_id = news->stop_id;
    out->status = (sluice_status)news->status;
    out->error = news->error;
    if (!out->overflowed) return;
    out->finish = SLUICE_FINISH_ERROR;
    out->status = SLUICE_ERR_LIMIT;
    out->error = ENGINE_SAY_SLOW_CLIENT;
}

size_t engine_say_begin(Engine *e) {
    const bool fits = e->text.cap - e->text.len > engine_say_text_bytes(e);
    if (e->n_said == e->config.limits.max_seqs || !fits) engine_say_all(e);
    return e->text.len;
}

Str engine_say_text(const Engine *e, size_t from) {
    return (Str){e->text.data + from, e->text.len - from};
}

void engine_say(Engine *e, Seq *seq, const EngineNews *news) {
    const Request *r = seq->request;
    if (e->n_said == e->config.limits.max_seqs) {
        CHECK(news->text.len == 0); /* it would go with the others': see engine_say_begin */
        engine_say_all(e);
    }
    e->said[e->n_said++] =
        (EngineSaid){.seq = seq,
                     .news = *news,
                     .done = news->finish != SLUICE_FINISH_NONE && r->n_done == r->n_return,
                     .polled = r->on_event == NULL};
}

static void engine_say_call(Engine *e, const EngineSaid *said) {
    Request *r = said->seq->request;
    sluice_event event;
    request_take_event(said->seq, &event);
    r->on_event(r->user, &event);
    buf_clear(&said->seq->out.text);
    if (said->done) mailbox_retire(&e->mail, r);
}

void engine_say_all(Engine *e) {
    if (e->n_said == 0) return;
    mailbox_lock(&e->mail);
    for (int32_t i = 0; i < e->n_said; i++) {
        const EngineSaid *said = &e->said[i];
        engine_say_note(said->seq, &said->news);
        if (said->done) mailbox_finish(&e->mail, said->seq->request);
        if (said->polled) mailbox_tell(&e->mail, said->seq);
    }
    mailbox_unlock(&e->mail);
    /* Those that are polled for may be freed by now. */
    for (int32_t i = 0; i < e->n_said; i++)
        if (!e->said[i].polled) engine_say_call(e, &e->said[i]);
    e->n_said = 0;
    buf_clear(&e->text);
}
