/* Reads SentencePiece's tokenizer.model: a protobuf message ModelProto.
 *
 * Field 1 (repeated): a piece {1: text, 2: score f32, 3: type}; field 2: trainer_spec {3: model
 * type}; field 3: normalizer_spec {3: add_dummy_prefix, 4: remove_extra_whitespaces}.
 * Source: sentencepiece_model.proto and the protobuf encoding. */
#include "compress/convert_priv.h"

enum { CONVERT_PIECES_MAX = 16 << 20, CONVERT_PIECE_NORMAL = 1, CONVERT_MODEL_UNIGRAM = 1 };

/* One field: its number and either an integer or a run of bytes. */
typedef struct ConvertField {
    uint64_t number, integer;
    Str bytes;
} ConvertField;

static bool convert_varint(Str *in, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && in->len > 0; shift += 7) {
        uint8_t byte = (uint8_t)in->ptr[0];
        *in = str_slice(*in, 1, in->len);
        *out |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return true;
    }
    return false;
}

static bool convert_fixed(Str *in, size_t bytes, uint64_t *out) {
    *out = 0;
    if (in->len < bytes) return false;
    for (size_t i = 0; i < bytes; i++) *out |= (uint64_t)(uint8_t)in->ptr[i] << (8 * i);
    *in = str_slice(*in, bytes, in->len);
    return true;
}

static bool convert_field(Str *in, ConvertField *out) {
    uint64_t key, len;
    *out = (ConvertField){0};
    if (!convert_varint(in, &key)) return false;
    out->number = key >> 3;
    switch (key & 7) {
        case 0: return convert_varint(in, &out->integer);
        case 1: return convert_fixed(in, 8, &out->integer);
        case 5: return convert_fixed(in, 4, &out->integer);
        case 2:
            if (!convert_varint(in, &len) || len > in->len) return false;
            out->bytes = str_slice(*in, 0, (size_t)len);
            *in = str_slice(*in, (size_t)len, in->len);
            return true;
        default: return false;
    }
}

static bool convert_piece(Str in, Str *text, float *score, int32_t *type) {
    ConvertField field;
    *text = (Str){0};
    *score = 0;
    *type = CONVERT_PIECE_NORMAL;
    while (in.len > 0) {
        if (!convert_field(&in, &field)) return false;
        uint32_t bits = (uint32_t)field.integer;
        if (field.number == 1) *text = field.bytes;
        if (field.number == 2) memcpy(score, &bits, sizeof bits);
        if (field.number == 3) *type = (int32_t)bits;
    }
    return text->len > 0 && *type >= 1 && *type <= 6;
}

/* An integer field of a message; `fallback` when it is absent. */
static bool convert_message_int(Str in, uint64_t number, uint64_t fallback, uint64_t *out) {
    ConvertField field;
    *out = fallback;
    while (in.len > 0) {
        if (!convert_field(&in, &field)) return false;
        if (field.number == number) *out = field.integer;
    }
    return true;
}

static int64_t convert_pieces_count(Str in) {
    ConvertField field;
    int64_t n = 0;
    while (in.len > 0) {
        if (!convert_field(&in, &field)) return -1;
        if (field.number == 1) n++;
    }
    return n;
}

Status convert_pieces_read(ConvertPieces *out, Str bytes, const char *path, Err *err) {
    *out = (ConvertPieces){.add_dummy_prefix = true, .remove_extra_spaces = true};
    int64_t n = convert_pieces_count(bytes), at = 0;
    if (n <= 0 || n > CONVERT_PIECES_MAX)
        FAIL(err, ERR_FORMAT, "'%s' is not a SentencePiece model", path);
    out->text = mem_try_alloc((size_t)n, sizeof *out->text);
    out->score = mem_try_alloc((size_t)n, sizeof *out->score);
    out->type = mem_try_alloc((size_t)n, sizeof *out->type);
    if (out->text == NULL || out->score == NULL || out->type == NULL)
        FAIL(err, ERR_NOMEM, "'%s': no memory for %lld pieces", path, (long long)n);
    ConvertField field;
    while (bytes.len > 0 && convert_field(&bytes, &field)) {
        uint64_t value = 0;
        bool good = true;
        if (field.number == 1) {
            good = convert_piece(field.bytes, &out->text[at], &out->score[at], &out->type[at]);
            at++;
        } else if (field.number == 2) {
            good = convert_message_int(field.bytes, 3, CONVERT_MODEL_UNIGRAM, &value);
            out->unigram = value == CONVERT_MODEL_UNIGRAM;
        } else if (field.number == 3) {
            good = convert_message_int(field.bytes, 3, 1, &value);
            out->add_dummy_prefix = value != 0;
            good = good && convert_message_int(field.bytes, 4, 1, &value);
            out->remove_extra_spaces = value != 0;
        }
        if (!good) FAIL(err, ERR_FORMAT, "'%s': malformed near piece %lld", path, (long long)at);
    }
    out->n = n;
    return OK;
}

void convert_pieces_free(ConvertPieces *pieces) {
    mem_free(pieces->text);
    mem_free(pieces->score);
    mem_free(pieces->type);
    *pieces = (ConvertPieces){0};
}
