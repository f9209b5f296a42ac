/* sluice tokenize. */
#include <stdio.h>

#include "app/cmd.h"
#include "app/text_input.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/str.h"
#include "text/tokenizer.h"

Status cmd_tokenize_print(Buf *out, Err *err) {
    bool failed = out->failed || fwrite(buf_str(out).ptr, 1, out->len, stdout) != out->len ||
                  fflush(stdout) != 0;
    buf_free(out);
    if (failed) FAIL(err, ERR_IO, "standard output: cannot be written");
    return OK;
}

static void cmd_tokenize_ids(const Ints *ids, bool json, Buf *out) {
    if (json) buf_append_byte(out, '[');
    for (size_t i = 0; i < ids->len; i++)
        buf_append_format(out, "%s%d", i == 0 ? "" : json ? ", " : " ", ids->data[i]);
    buf_append_text(out, json ? "]\n" : "\n");
}

/* A line per token: the id, a tab, what the vocabulary has as a JSON string. */
static void cmd_tokenize_pieces(const Tokenizer *t, const Ints *ids, Buf *out) {
    for (size_t i = 0; i < ids->len; i++) {
        buf_append_format(out, "%d\t", ids->data[i]);
        json_write_str(out, tokenizer_text(t, ids->data[i]));
        buf_append_byte(out, '\n');
    }
}

Status cmd_tokenize(const Config *config, Err *err) {
    Tokenizer *t = NULL;
    Buf text = {0}, out = {0};
    Ints ids = {0};
    TRY(tokenizer_open(&t, config->arg[0], err));
    const char *given = config->n_args > 1 ? config->arg[1] : NULL;
    Status status =
        given != NULL && config->file != NULL
            ? err_set(err, ERR_ARG, "tokenize: a text and --file are given; wanted one of them")
            : text_input_read(given, config->file, &text, err);
    EncodeOptions options = {.add_special = !config->no_bos, .parse_special = config->special};
    if (status == OK) status = tokenizer_encode(t, buf_str(&text), options, &ids, err);
    if (status == OK) {
        if (config->pieces)
            cmd_tokenize_pieces(t, &ids, &out);
        else
            cmd_tokenize_ids(&ids, config->json, &out);
        status = cmd_tokenize_print(&out, err);
    }
    buf_free(&text);
    ints_free(&ids);
    tokenizer_close(t);
    return status;
}
