/* test_kv_event: the ring of cache events: numbers without gaps, what is overwritten is counted,
 * readers in other threads see every event or a later number. */
#include "../testing.h"

#include "kv/kv_event.h"

enum { RING = 8, BLOCK = 4, MANY = 20000 };

static void push(KvEventRing *ring, int32_t i) {
    const int32_t token[BLOCK] = {i, i + 1, i + 2, i + 3};
    const KvEvent event = {.kind = KV_EVENT_STORED, .hash = (uint64_t)i * 3 + 1};
    kv_event_push(ring, &event, token);
}

static void ring_keeps_the_last(void **state) {
    (void)state;
    KvEventRing ring;
    Err err = {0};
    KvEvent event;
    int32_t token[BLOCK];
    int64_t n, n_lost;
    ASSERT_OK(kv_event_init(&ring, RING, BLOCK, &err), err);
    assert_false(kv_event_read(&ring, 0, 0, &event, token));
    assert_false(kv_event_read(&ring, 0, 1000, &event, token));
    for (int32_t i = 0; i < RING; i++) push(&ring, i);
    assert_true(kv_event_read(&ring, 2, 0, &event, token));
    assert_int_equal(event.number, 2);
    assert_int_equal(token[3], 5);
    /* 0 to 2 count as read; 3 and 4 are overwritten unread by 11 and 12. */
    for (int32_t i = RING; i < RING + 5; i++) push(&ring, i);
    kv_event_count(&ring, &n, &n_lost);
    assert_int_equal(n, RING + 5);
    assert_int_equal(n_lost, 2);
    assert_true(kv_event_read(&ring, 0, 0, &event, token));
    assert_int_equal(event.number, 5);
    assert_int_equal(event.hash, 16);
    assert_true(kv_event_read(&ring, RING + 4, 0, &event, token));
    assert_false(kv_event_read(&ring, RING + 5, 0, &event, token));
    kv_event_free(&ring);
}

static void *write_many(void *arg) {
    for (int32_t i = 0; i < MANY; i++) push(arg, i);
    return NULL;
}

static void readers_see_whole_events(void **state) {
    (void)state;
    KvEventRing ring;
    Err err = {0};
    ASSERT_OK(kv_event_init(&ring, RING, BLOCK, &err), err);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_many, &ring), 0);
    int64_t n_seen = 0, n, n_lost;
    for (uint64_t at = 0; at < MANY;) {
        KvEvent event;
        int32_t token[BLOCK];
        assert_true(kv_event_read(&ring, at, -1, &event, token));
        assert_true(event.number >= at);
        assert_int_equal(event.hash, event.number * 3 + 1);
        for (int32_t k = 0; k < BLOCK; k++) assert_int_equal(token[k], event.number + (uint64_t)k);
        at = event.number + 1;
        n_seen++;
    }
    pthread_join(writer, NULL);
    kv_event_count(&ring, &n, &n_lost);
    assert_int_equal(n, MANY);
    assert_int_equal(n_seen + n_lost, MANY);
    kv_event_free(&ring);
}

static void none_are_kept(void **state) {
    (void)state;
    KvEventRing ring;
    Err err = {0};
    KvEvent event;
    int32_t token[BLOCK];
    ASSERT_OK(kv_event_init(&ring, 0, BLOCK, &err), err);
    push(&ring, 1);
    assert_false(kv_event_read(&ring, 0, -1, &event, token));
    kv_event_free(&ring);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ring_keeps_the_last),
                                       cmocka_unit_test(readers_see_whole_events),
                                       cmocka_unit_test(none_are_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
