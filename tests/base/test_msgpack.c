/* test_msgpack: the bytes of each form of each type, as the specification has them. */
#include "../testing.h"

#include "base/msgpack.h"

static void expect(Buf *out, const char *bytes, size_t len) {
    assert_int_equal(out->len, len);
    assert_memory_equal(out->data, bytes, len);
    buf_clear(out);
}

static void msgpack_numbers(void **state) {
    (void)state;
    const struct {
        uint64_t value;
        const char *bytes;
        size_t len;
    } cases[] = {
        {0, "\x00", 1},
        {127, "\x7f", 1},
        {128, "\xcc\x80", 2},
        {255, "\xcc\xff", 2},
        {256, "\xcd\x01\x00", 3},
        {65535, "\xcd\xff\xff", 3},
        {65536, "\xce\x00\x01\x00\x00", 5},
        {UINT32_MAX, "\xce\xff\xff\xff\xff", 5},
        {(uint64_t)UINT32_MAX + 1, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 9},
        {UINT64_MAX, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9},
    };
    Buf out = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        msgpack_uint(&out, cases[i].value);
        expect(&out, cases[i].bytes, cases[i].len);
    }
    msgpack_nil(&out);
    expect(&out, "\xc0", 1);
    msgpack_f64(&out, 1.5);
    expect(&out, "\xcb\x3f\xf8\0\0\0\0\0\0", 9);
    buf_free(&out);
}

static void msgpack_lengths(void **state) {
    (void)state;
    Buf out = {0};
    msgpack_text(&out, "");
    expect(&out, "\xa0", 1);
    msgpack_text(&out, "type");
    expect(&out, "\xa4type", 5);
    char text[70000];
    const struct {
        size_t n;
        const char *head;
        size_t head_len;
    } texts[] = {
        {31, "\xbf", 1},          {32, "\xd9\x20", 2},        {255, "\xd9\xff", 2},
        {256, "\xda\x01\x00", 3}, {65535, "\xda\xff\xff", 3}, {65536, "\xdb\x00\x01\x00\x00", 5}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        memset(text, 'x', texts[i].n);
        text[texts[i].n] = '\0';
        msgpack_text(&out, text);
        assert_int_equal(out.len, texts[i].head_len + texts[i].n);
        assert_memory_equal(out.data, texts[i].head, texts[i].head_len);
        assert_memory_equal(out.data + texts[i].head_len, text, texts[i].n);
        buf_clear(&out);
    }
    msgpack_array(&out, 15);
    msgpack_array(&out, 16);
    msgpack_array(&out, 65536);
    expect(&out, "\x9f\xdc\x00\x10\xdd\x00\x01\x00\x00", 9);
    msgpack_map(&out, 15);
    msgpack_map(&out, 16);
    msgpack_map(&out, 65536);
    expect(&out, "\x8f\xde\x00\x10\xdf\x00\x01\x00\x00", 9);
    buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(msgpack_numbers),
        cmocka_unit_test(msgpack_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
