/* test_rope_table: inverse frequencies, attention factors and far positions of published settings
 * against Hugging Face's (tests/golden/rope.json, float32).
 *
 * Frequencies may differ by one rounding (2^-23 relative) where powf rounds otherwise; at position
 * 100,003 that moves an angle by up to 100003 * 2^-23 = 0.012. */
#include "testing.h"

#include "base/json.h"
#include "model/rope_table.h"

enum { ROPE_POSITIONS = 100004 };

static void rope_one(const json_t *want) {
    Err err = {0};
    ModelConfig c;
    ASSERT_OK(model_config_from_json(&c, json_object_get(want, "config"), &err), err);
    int32_t n = c.rope.dim / 2;
    const json_t *inv = json_object_get(want, "inv_freq");
    assert_int_equal(json_array_size(inv), n);
    float *freq = mem_alloc((size_t)n * sizeof *freq);
    float factor = rope_table_frequencies(&c.rope, ROPE_POSITIONS, freq);
    double want_factor = json_number_value(json_object_get(want, "attention_factor"));
    assert_true(fabs((double)factor - want_factor) <= 1e-6 * want_factor);
    for (int32_t i = 0; i < n; i++) {
        double x = json_number_value(json_array_get(inv, (size_t)i));
        if (!(fabs((double)freq[i] - x) <= 2.5e-7 * x))
            fail_msg("scaling %d: frequency %d is %.9g, wanted %.9g", (int)c.rope.scaling, i,
                     (double)freq[i], x);
    }
    float *table = mem_alloc((size_t)rope_table_bytes(&c.rope, ROPE_POSITIONS));
    rope_table_fill(&c.rope, ROPE_POSITIONS, table);
    int64_t pos = json_integer_value(json_object_get(want, "pos"));
    for (int32_t i = 0; i < n; i++) {
        const float *got = table + (pos * n + i) * 2;
        double far = 0.013 * (double)freq[i] * want_factor + 1e-6;
        double x = json_number_value(json_array_get(json_object_get(want, "cos"), (size_t)i));
        double y = json_number_value(json_array_get(json_object_get(want, "sin"), (size_t)i));
        assert_true(fabs((double)got[0] - x) <= far && fabs((double)got[1] - y) <= far);
        assert_true(table[2 * i] == factor && table[2 * i + 1] == 0);
    }
    mem_free(table);
    mem_free(freq);
    model_config_free(&c);
}

static void rope_published(void **state) {
    (void)state;
    Err err = {0};
    json_t *list = NULL;
    ASSERT_OK(json_parse_file(&list, "tests/golden/rope.json", &err), err);
    assert_true(json_array_size(list) >= 8);
    for (size_t i = 0; i < json_array_size(list); i++) rope_one(json_array_get(list, i));
    json_decref(list);
}

/* LongRoPE takes the short factors while no sequence can pass the original context. */
static void rope_longrope_switch(void **state) {
    (void)state;
    double one[2] = {1, 1}, four[2] = {4, 4};
    RopeConfig rope = {.style = ROPE_NEOX,
                       .dim = 4,
                       .theta = 10000,
                       .factor = 1,
                       .scaling = ROPE_SCALING_LONGROPE,
                       .original_context = 64,
                       .short_factor = one,
                       .long_factor = four};
    float freq[2];
    assert_true(rope_table_frequencies(&rope, 64, freq) == 1 && freq[0] == 1);
    assert_true(rope_table_frequencies(&rope, 65, freq) == 1 && freq[0] == 0.25f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rope_published),
                                       cmocka_unit_test(rope_longrope_switch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
