/* test_admission: who may wait, against a queue with many places that is simulated event by event:
 * clients come at random, stay a random time and are served in turn, in a time of its own. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "server/admission.h"
#include "testing.h"

enum { PLACES_MAX = 512, WAITS_MAX = 1 << 17 };

typedef struct World {
    Admission admission;
    int64_t now_us, end_us[PLACES_MAX]; /* of who runs */
    int32_t n_running, n_waiting, n_asked, n_refused;
    int64_t service_us;
    int64_t came_us[1 << 12]; /* of those who wait, a ring */
    uint32_t head;
    int32_t n_waits;
    int64_t wait_us[WAITS_MAX]; /* of those who started */
    uint64_t n_draws;
} World;

static double draw(World *w) {
    return rng_uniform(3, 0, w->n_draws++);
}

static void start(World *w, int64_t came_us) {
    const double share = 0.5 + draw(w);
    w->end_us[w->n_running++] = w->now_us + (int64_t)(share * (double)w->service_us);
    assert_true(w->n_waits < WAITS_MAX);
    w->wait_us[w->n_waits++] = w->now_us - came_us;
}

/* Lets everybody leave who does so until then. */
static void run_until(World *w, int64_t until_us) {
    for (;;) {
        int32_t first = -1;
        for (int32_t i = 0; i < w->n_running; i++)
            if (first < 0 || w->end_us[i] < w->end_us[first]) first = i;
        if (first < 0 || w->end_us[first] > until_us) break;
        w->now_us = w->end_us[first];
        w->end_us[first] = w->end_us[--w->n_running];
        if (w->n_waiting > 0) {
            w->n_waiting--;
            start(w, w->came_us[w->head++ % ARRAY_LEN(w->came_us)]);
        }
    }
    w->now_us = until_us;
}

static bool ask(World *w) {
    w->n_asked++;
    const bool good = admission_ask(&w->admission, w->n_running, w->n_waiting, w->now_us) &&
                      w->n_waiting < w->admission.queue_max;
    w->n_refused += !good;
    if (!good) return false;
    admission_admit(&w->admission, 1);
    if (w->n_running < w->admission.places) {
        start(w, w->now_us);
    } else {
        w->came_us[(w->head + (uint32_t)w->n_waiting++) % ARRAY_LEN(w->came_us)] = w->now_us;
    }
    return true;
}

/* `load` times what the places can take, for so long; counts from its beginning. */
static void offer(World *w, double load, double seconds) {
    const double gap_us = (double)w->service_us / w->admission.places / load;
    const int64_t end_us = w->now_us + (int64_t)(seconds * 1e6);
    w->n_asked = w->n_refused = w->n_waits = 0;
    double at_us = (double)w->now_us;
    while ((at_us -= log(1 - draw(w)) * gap_us) < (double)end_us) {
        run_until(w, (int64_t)at_us);
        ask(w);
    }
    run_until(w, end_us);
}

static World *world_open(int32_t places, int32_t queue_max, int64_t service_us) {
    World *w = mem_alloc(sizeof *w);
    w->admission.places = places;
    w->admission.queue_max = queue_max;
    w->service_us = service_us;
    admission_note_first(&w->admission, 20000);
    return w;
}

static int compare(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double p99_ms(World *w) {
    assert_true(w->n_waits > 100);
    qsort(w->wait_us, (size_t)w->n_waits, sizeof *w->wait_us, compare);
    return (double)w->wait_us[(size_t)(0.99 * (w->n_waits - 1))] / 1e3;
}

/* Nobody is refused at 0.9 of what can be taken, few right after ten times as much. */
static void bursts_wait(void **state) {
    (void)state;
    World *w = world_open(512, 64, 1600000);
    offer(w, 0.9, 120);
    assert_int_equal(w->n_refused, 0);
    offer(w, 10, 20);
    offer(w, 0.9, 5);
    offer(w, 0.9, 60);
    assert_int_equal(w->n_refused, 0);
    mem_free(w);
}

/* From nothing to ten times what can be taken: the places stay full, and who is taken waits for
 * about a third of what the first token takes (20 ms), the unlucky for about as long as that, but
 * for the few of the beginning. */
static void overloads_do_not(void **state) {
    (void)state;
    World *w = world_open(512, 64, 1600000);
    offer(w, 10, 60);
    const double could = 60 * 512 / 1.6;
    assert_true(w->n_waits > 0.97 * could);
    assert_int_equal(w->n_asked, w->n_refused + w->n_waits + w->n_waiting);
    assert_in_range((int64_t)(p99_ms(w) * 1000), 1, 30000);
    assert_in_range(w->wait_us[w->n_waits / 2], 1, 7000);
    offer(w, 3, 30);
    assert_in_range((int64_t)(p99_ms(w) * 1000), 1, 20000);
    assert_true(w->n_waits > 0.97 * could / 2);
    mem_free(w);
}

/* An overload that is not great lasts all the same, though its short queue is often empty: the long
 * queue of a burst does not come back until fewer ask than can be taken. */
static void small_overloads_do_not(void **state) {
    (void)state;
    static const double loads[] = {1.1, 1.2, 1.5, 2, 10};
    for (size_t i = 0; i < ARRAY_LEN(loads); i++) {
        World *w = world_open(512, 64, 1600000);
        offer(w, loads[i], 5);
        offer(w, loads[i], 120);
        assert_in_range((int64_t)(p99_ms(w) * 1000), 1, 20000);
        assert_true(w->n_waits > 0.97 * 120 * 512 / 1.6);
        offer(w, 0.9, 10);
        offer(w, 0.9, 30);
        assert_int_equal(w->n_refused, 0);
        mem_free(w);
    }
}

/* A fixed number of clients who ask again when they are served is no overload: they may fill the
 * queue for as long as they like. */
static void a_crowd_is_no_overload(void **state) {
    (void)state;
    World *w = world_open(16, 64, 400000);
    for (int32_t i = 0; i < 16 + 64; i++) assert_true(ask(w));
    for (int32_t n = 0; n < 20000; n++) {
        int64_t next_us = INT64_MAX;
        for (int32_t i = 0; i < w->n_running; i++) next_us = MIN(next_us, w->end_us[i]);
        run_until(w, next_us);
        w->n_waits = 0;
        assert_true(ask(w));
    }
    mem_free(w);
}

/* Without a bound on the queue, or without a place taken, everybody may come. */
static void no_bound(void **state) {
    (void)state;
    Admission all = {.places = 1};
    for (int32_t i = 0; i < 1000; i++) assert_true(admission_ask(&all, 1, i, i));
    Admission idle = {.places = 1000, .queue_max = 4};
    for (int32_t i = 0; i < 1000; i++) assert_true(admission_ask(&idle, i / 2, i - i / 2, i * 50));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bursts_wait),
        cmocka_unit_test(overloads_do_not),
        cmocka_unit_test(small_overloads_do_not),
        cmocka_unit_test(a_crowd_is_no_overload),
        cmocka_unit_test(no_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
