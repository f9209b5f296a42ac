#include "server/admission.h"

/* Of a new gap in the average: a few dozen starts make it. */
static const double ADMISSION_GAP_SHARE = 1.0 / 32, ADMISSION_FIRST_SHARE = 1.0 / 16;
/* The bucket holds that many queues: all but one must leak before requests may wait again. */
static const double ADMISSION_BUCKET = 2;

/* The time between two starts, with the one that has not ended yet if it is long. */
static double admission_gap(const Admission *a, int64_t now_us) {
    const double open_us = (double)(now_us - a->start_us);
    if (a->n_waiting == 0 || open_us <= a->gap_us) return a->gap_us;
    if (a->gap_us <= 0) return open_us;
    return a->gap_us + (open_us - a->gap_us) * ADMISSION_GAP_SHARE;
}

/* What started since the last look. The time counts only while somebody waited. */
static void admission_look(Admission *a, int32_t n_free, int32_t n_waiting, int64_t now_us) {
    const int64_t n_started = a->n_admitted - n_waiting, n_new = n_started - a->n_started;
    double leak = (double)MAX(n_new, (int64_t)0); /* what the engine took */
    if (a->n_waiting > 0 && n_new > 0) {
        const double gap_us = (double)(now_us - a->start_us) / (double)n_new;
        const double share = MIN((double)n_new * ADMISSION_GAP_SHARE, 1.0);
        a->gap_us += (gap_us - a->gap_us) * (a->gap_us <= 0 ? 1 : share);
    }
    if (a->n_waiting == 0 || n_new > 0) a->start_us = now_us;
    if (a->gap_us > 0) /* and about what its free places could have taken beside */
        leak += (double)(now_us - a->looked_us) / a->gap_us * n_free / a->places;
    a->asked = MAX(a->asked - leak, (double)n_waiting);
    a->looked_us = now_us;
    a->n_started = n_started;
    a->n_waiting = n_waiting;
}

bool admission_ask(Admission *a, int32_t n_running, int32_t n_waiting, int64_t now_us) {
    if (a->queue_max == 0) return true;
    const int32_t n_free = MAX(a->places - n_running, 0);
    admission_look(a, n_free, n_waiting, now_us);
    /* In an overload all count: its short queue is often empty, and the overload lasts. */
    if (n_waiting > 0 || a->asked > a->queue_max)
        a->asked = MIN(a->asked + 1, ADMISSION_BUCKET * a->queue_max);
    /* Who finds a free place does not wait for another's end. */
    const int32_t n_ahead = MAX(n_waiting - n_free, 0);
    const double wait_us = (n_ahead + 1) * admission_gap(a, now_us);
    /* One may always wait, for the next free place to be taken at once. */
    return a->asked <= a->queue_max || n_ahead == 0 || wait_us <= a->first_us / 3;
}

void admission_admit(Admission *a, int32_t n) {
    a->n_admitted += n;
}

void admission_note_first(Admission *a, int64_t us) {
    a->first_us += ((double)us - a->first_us) * (a->first_us <= 0 ? 1 : ADMISSION_FIRST_SHARE);
}
