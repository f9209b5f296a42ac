/* test_hostile: malformed files made by hand, one lie each, with the part of the sentence that
 * names it. Among them the known holes of other readers: counts and sizes that overflow when
 * multiplied or rounded up, tensors past the end of the file, wrong types, nested arrays. */
#include "format/model_file_priv.h"
#include "samples.h"

/* NULL: the file is to be accepted. */
static void hostile_check(ModelFormat format, const void *data, size_t len, const char *what,
                          const char *part) {
    uint8_t *copy = malloc(len);
    assert_true(copy != NULL || len == 0);
    if (len > 0) memcpy(copy, data, len);
    ModelFile *file = NULL;
    Err err = {0};
    Status status = model_file_open_memory(&file, format, copy, len, &err);
    if (part == NULL && status != OK) fail_msg("%s: refused: %s", what, err.text);
    if (part != NULL && status == OK) fail_msg("%s: accepted", what);
    if (part != NULL && strstr(err.text, part) == NULL)
        fail_msg("%s: no '%s' in: %s", what, part, err.text);
    model_file_close(file);
    free(copy);
}

static void hostile_safetensors(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *part;
    } rows[] = {
        {"{}", 0, NULL},
        {"{}", 1, "after the last tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "ends at byte 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "after the last"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,-9],\"data_offsets\":[0,0]}}", 0, "natural"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "natural"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "natural"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "'shape'"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'shape'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "5 dim"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],"
         "\"data_offsets\":[0,9223372036854775807]}}",
         4, "ends at byte 9223372036854775807"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9223372036854775808]}}", 4,
         "big integer"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.0,4]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":null}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "want 8"},
        {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "want 2"},
        {"{\"a\":{\"dtype\":\"Q4_0\",\"shape\":[32],\"data_offsets\":[0,18]}}", 18, "unknown"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown"},
        {"{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'dtype'"},
        {"{\"a\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown"},
        {"{\"a\":7}", 0, "not an object"},
        {"{\"a\":[1]}", 0, "not an object"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "name is empty"},
        {"{\"a\\u001b[2J\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "control characters"},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, NULL},
        {"{\"__metadata__\":{\"a\":1}}", 0, "strings only"},
        {"{\"__metadata__\":[]}", 0, "not an object"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
         5, "hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
         4, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         0, NULL},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         0, "duplicate"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[[[[[[[[[1]]]]]]]]]],\"data_offsets\":[0,1]}}", 1,
         "nested"},
        {"{} trailing", 0, "end of file"},
        {"{", 0, "line 1"},
        {" {}", 0, "begin with '{'"},
        {"[]", 0, "begin with '{'"},
        {"", 0, "begin with '{'"},
    };
    const uint8_t zeros[32] = {0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf buf = samples_safetensors(rows[i].header, zeros, rows[i].data_bytes);
        hostile_check(MODEL_SAFETENSORS, buf.data, buf.len, rows[i].header, rows[i].part);
        buf_free(&buf);
    }
}

/* One tensor in a file that is otherwise well. */
typedef struct HostileTensor {
    const char *what, *part;
    const char *name;
    uint64_t n_dims, dim[5], type, offset;
    size_t data_bytes;
} HostileTensor;

static void hostile_gguf_tensors(void **state) {
    (void)state;
    static const HostileTensor rows[] = {
        {"f32", NULL, "t", 1, {8}, 0, 0, 32},
        {"a scalar", NULL, "t", 0, {0}, 0, 0, 4},
        {"four dimensions", NULL, "t", 4, {2, 2, 2, 1}, 0, 0, 32},
        {"five dimensions", "5 dimensions", "t", 5, {1, 1, 1, 1, 1}, 0, 0, 4},
        {"2^32 - 1 dimensions", "dimensions", "t", 0xffffffff, {1}, 0, 0, 4},
        {"one byte short", "of 31 bytes", "t", 1, {8}, 0, 0, 31},
        {"no data at all", "of 0 bytes", "t", 1, {8}, 0, 0, 0},
        {"dimension 0", "dimension of 0", "t", 2, {8, 0}, 0, 0, 32},
        {"dimension 2^63", "dimension of", "t", 1, {1ull << 63}, 0, 0, 32},
        {"the product overflows", "overflows", "t", 2, {1ull << 32, 1ull << 32}, 0, 0, 32},
        {"the product overflows to 0",
         "overflows",
         "t",
         4,
         {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16},
         0,
         0,
         32},
        {"the bytes overflow", "overflows", "t", 1, {1ull << 62}, 0, 0, 32},
        {"the bytes overflow in groups", "overflows", "t", 1, {0x7fffffffffffffe0}, 8, 0, 32},
        {"2^60 bytes", "of 32 bytes", "t", 1, {1ull << 58}, 0, 0, 32},
        {"offset past the end", "of 32 bytes", "t", 1, {8}, 0, 32, 32},
        {"offset + size overflows", "overflows", "t", 1, {8}, 0, 0xffffffffffffffe0, 32},
        {"offset off by 1", "multiple of 32", "t", 1, {1}, 0, 1, 32},
        {"half a group", "divide", "t", 1, {16}, 2, 0, 32},
        {"rows of half a group", "divide", "t", 2, {16, 2}, 2, 0, 32},
        {"a whole group", NULL, "t", 1, {32}, 2, 0, 18},
        {"retired q4_2", "retired", "t", 1, {32}, 4, 0, 32},
        {"retired q4_0_4_4", "retired", "t", 1, {32}, 31, 0, 32},
        {"retired iq4_nl_4_4", "retired", "t", 1, {32}, 36, 0, 32},
        {"iq2_xxs", "not supported", "t", 1, {256}, 16, 0, 66},
        {"type 2^32 - 1", "not supported", "t", 1, {8}, 0xffffffff, 0, 32},
        {"empty name", "name of tensor", "", 1, {8}, 0, 0, 32},
        {"escape in the name", "name of tensor", "a\x1b[2Jb", 1, {8}, 0, 0, 32},
        {"name of 64 bytes",
         NULL,
         "0123456789012345678901234567890123456789012345678901234567890123",
         1,
         {8},
         0,
         0,
         32},
        {"name of 65 bytes",
         "limit is 64",
         "01234567890123456789012345678901234567890123456789012345678901234",
         1,
         {8},
         0,
         0,
         32},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const HostileTensor *row = &rows[i];
        Buf buf = {0};
        samples_head(&buf, 1, 0);
        samples_str(&buf, row->name);
        samples_u32(&buf, (uint32_t)row->n_dims);
        for (uint64_t d = 0; d < MIN(row->n_dims, 5); d++) samples_u64(&buf, row->dim[d]);
        samples_u32(&buf, (uint32_t)row->type);
        samples_u64(&buf, row->offset);
        samples_pad(&buf, 32);
        for (size_t b = 0; b < row->data_bytes; b++) buf_append_byte(&buf, 1);
        hostile_check(MODEL_GGUF, buf.data, buf.len, row->what, row->part);
        buf_free(&buf);
    }
}

/* One value: its type, then little-endian words. */
typedef struct HostileValue {
    const char *what, *part;
    uint32_t type, word[6];
    int n_words;
    size_t cut; /* bytes to take off the end */
} HostileValue;

static void hostile_gguf_values(void **state) {
    (void)state;
    static const HostileValue rows[] = {
        {"u32", NULL, 4, {7}, 1, 0},
        {"u32 cut", "wants 4 bytes", 4, {7}, 1, 1},
        {"type 13", "does not exist", 13, {7}, 1, 0},
        {"type 2^32 - 1", "does not exist", 0xffffffff, {7}, 1, 0},
        {"bool 1", NULL, 7, {1}, 1, 3},
        {"bool 2", "bool of value 2", 7, {2}, 1, 3},
        {"empty string", NULL, 8, {0, 0}, 2, 0},
        {"string of 4", NULL, 8, {4, 0, 0x61616161}, 3, 0},
        {"string of 5 in 4", "wants 5 bytes", 8, {5, 0, 0x61616161}, 3, 0},
        {"string of 2^64 - 1", "wants 18446744073709551615", 8, {~0u, ~0u, 1}, 3, 0},
        {"string of 2^63", "wants 9223372036854775808", 8, {0, 1u << 31, 1}, 3, 0},
        {"array of u8", NULL, 9, {0, 4, 0, 0x01020304}, 4, 0},
        {"array of nothing", NULL, 9, {0, 0, 0}, 3, 0},
        {"array of u8, one short", "wants 5 bytes", 9, {0, 5, 0, 0x01020304}, 4, 0},
        {"array of u64 whose bytes overflow", "limit is", 9, {10, 1, 0x20000000, 0}, 4, 0},
        {"array of 2^64 - 1", "limit is", 9, {0, ~0u, ~0u, 0}, 4, 0},
        {"array over the limit", "limit is", 9, {0, (16 << 20) + 1, 0, 0}, 4, 0},
        {"array at the limit", "wants 16777216", 9, {0, 16 << 20, 0, 0}, 4, 0},
        {"array of arrays", "array of arrays", 9, {9, 1, 0, 0, 0, 0}, 6, 0},
        {"array of type 13", "does not exist", 9, {13, 1, 0, 0}, 4, 0},
        {"array of bools", NULL, 9, {7, 4, 0, 0x01000101}, 4, 0},
        {"array of bools with a 2", "bool of value 2", 9, {7, 4, 0, 0x01020101}, 4, 0},
        {"array of strings", NULL, 9, {8, 1, 0, 4, 0, 0x61616161}, 6, 0},
        {"array of strings, one cut", "wants 4 bytes", 9, {8, 1, 0, 4, 0, 0x61616161}, 6, 1},
        {"array of strings, past the end", "ends past", 9, {8, 2, 0, 0, 0}, 5, 0},
        {"array of strings, 2^40 of them", "limit is", 9, {8, 0, 256, 0, 0}, 5, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf buf = {0};
        samples_head(&buf, 0, 1);
        samples_key(&buf, "key", rows[i].type);
        for (int w = 0; w < rows[i].n_words; w++) samples_u32(&buf, rows[i].word[w]);
        hostile_check(MODEL_GGUF, buf.data, buf.len - rows[i].cut, rows[i].what, rows[i].part);
        buf_free(&buf);
    }
}

static void hostile_gguf_heads(void **state) {
    (void)state;
    static const struct {
        const char *magic;
        uint32_t version;
        uint64_t n_tensors, n_values;
        const char *part;
    } rows[] = {
        {"GGUF", 3, 0, 0, NULL},
        {"GGUF", 2, 0, 0, NULL},
        {"GGUF", 1, 0, 0, "version 1"},
        {"GGUF", 4, 0, 0, "version 4"},
        {"GGUF", 0x03000000, 0, 0, "big-endian"},
        {"GGUf", 3, 0, 0, "neither"},
        {"FUGG", 3, 0, 0, "neither"},
        {"GGUF", 3, 1, 0, "do not fit"},
        {"GGUF", 3, 0, 1, "do not fit"},
        {"GGUF", 3, 1048576, 0, "do not fit"},
        {"GGUF", 3, 1048577, 0, "limit is 1048576"},
        {"GGUF", 3, UINT64_MAX, 0, "limit is 1048576"},
        {"GGUF", 3, 0, 65536, "do not fit"},
        {"GGUF", 3, 0, 65537, "limit is 65536"},
        {"GGUF", 3, 0, UINT64_MAX, "limit is 65536"},
        {"GGUF", 3, 1ull << 61, 1ull << 61, "limit is 65536"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf buf = {0};
        buf_append_text(&buf, rows[i].magic);
        samples_u32(&buf, rows[i].version);
        samples_u64(&buf, rows[i].n_tensors);
        samples_u64(&buf, rows[i].n_values);
        hostile_check(MODEL_GGUF, buf.data, buf.len, "a head", rows[i].part);
        buf_free(&buf);
    }
}

static void hostile_gguf_alignment(void **state) {
    (void)state;
    static const struct {
        uint32_t type, align;
        const char *part;
    } rows[] = {{4, 8, NULL},
                {4, 64, NULL},
                {4, 1 << 20, NULL},
                {4, 0, "alignment"},
                {4, 4, "alignment"},
                {4, 24, "power of"},
                {4, 1 << 21, "alignment"},
                {4, ~0u, "alignment"},
                {5, ~0u, "alignment"},
                {6, 32, "alignment"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Buf buf = {0};
        samples_head(&buf, 0, 1);
        samples_key(&buf, "general.alignment", rows[i].type);
        samples_u32(&buf, rows[i].align);
        hostile_check(MODEL_GGUF, buf.data, buf.len, "an alignment", rows[i].part);
        buf_free(&buf);
    }
}

/* Two of a kind: keys, names, places; and a part of a split model alone. */
static void hostile_gguf_pairs(void **state) {
    (void)state;
    Buf buf = {0};
    samples_head(&buf, 0, 2);
    for (int i = 0; i < 2; i++) samples_key(&buf, "key", 0), buf_append_byte(&buf, 1);
    hostile_check(MODEL_GGUF, buf.data, buf.len, "one key twice", "second metadata value");
    for (int same_name = 0; same_name < 2; same_name++) {
        buf_clear(&buf);
        samples_head(&buf, 2, 0);
        samples_tensor(&buf, "a", 1, 16, 0, 0);
        samples_tensor(&buf, same_name ? "a" : "b", 1, 1, 0, same_name ? 64 : 32);
        samples_pad(&buf, 32);
        for (int i = 0; i < 96; i++) buf_append_byte(&buf, 0);
        hostile_check(MODEL_GGUF, buf.data, buf.len, "two tensors",
                      same_name ? "second tensor" : "overlap");
    }
    buf_clear(&buf);
    samples_head(&buf, 0, 1);
    samples_key(&buf, "split.count", 4), samples_u32(&buf, 3);
    hostile_check(MODEL_GGUF, buf.data, buf.len, "a part alone", "one of 3 parts");
    buf_clear(&buf);
    samples_head(&buf, 0, 1);
    samples_key(&buf, "split.count", 4), samples_u32(&buf, ~0u);
    hostile_check(MODEL_GGUF, buf.data, buf.len, "2^32 - 1 parts", "split.count");
    buf_free(&buf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_safetensors),    cmocka_unit_test(hostile_gguf_tensors),
        cmocka_unit_test(hostile_gguf_values),    cmocka_unit_test(hostile_gguf_heads),
        cmocka_unit_test(hostile_gguf_alignment), cmocka_unit_test(hostile_gguf_pairs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
