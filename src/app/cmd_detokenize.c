/* sluice detokenize. */
#include "app/cmd.h"
#include "app/text_input.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/str.h"
#include "text/tokenizer.h"

/* Appends the ids in a text: numbers parted by white space, commas or brackets. */
static Status cmd_detokenize_parse(Str text, int32_t n_vocab, Ints *ids, Err *err) {
    static const char parting[] = " \t\r\n\v\f,[]";
    for (size_t at = 0; at < text.len;) {
        size_t end = at;
        while (end < text.len && (text.ptr[end] == '\0' || strchr(parting, text.ptr[end]) == NULL))
            end++;
        Str word = str_slice(text, at, end);
        int64_t id;
        if (word.len > 0 && (!str_to_i64(word, &id) || id < 0 || id >= n_vocab))
            FAIL(err, ERR_ARG, "'%.*s' is not a token id from 0 to %d", STR_ARG(word), n_vocab - 1);
        if (word.len > 0) ints_push(ids, (int32_t)id);
        at = end + 1;
    }
    return OK;
}

Status cmd_detokenize(const Config *config, Err *err) {
    Tokenizer *t = NULL;
    Buf text = {0}, out = {0};
    Ints ids = {0};
    Status status = OK;
    TRY(tokenizer_open(&t, config->arg[0], err));
    for (int32_t i = 1; i < config->n_args && status == OK; i++)
        status = cmd_detokenize_parse(str_from(config->arg[i]), tokenizer_vocab(t), &ids, err);
    if (config->n_args == 1) {
        status = text_input_read(NULL, NULL, &text, err);
        if (status == OK)
            status = cmd_detokenize_parse(buf_str(&text), tokenizer_vocab(t), &ids, err);
    }
    if (status == OK) {
        Buf decoded = {0};
        tokenizer_decode(t, ids.data, ids.len, config->special, &decoded);
        if (config->json) {
            json_write_str(&out, buf_str(&decoded));
            buf_append_byte(&out, '\n');
        } else {
            buf_append_str(&out, buf_str(&decoded));
        }
        out.failed |= decoded.failed;
        buf_free(&decoded);
        status = cmd_tokenize_print(&out, err);
    }
    buf_free(&text);
    ints_free(&ids);
    tokenizer_close(t);
    return status;
}
