/* admission: whether a request may wait, by the wait that is ahead of it.
 *
 * A queue is good for a burst and bad for an overload: then it is always full, and everybody waits
 * for its whole length to get what a short one would give. So as many requests as the queue holds
 * may wait, until more than these have asked for what the engine can take: from then on a request
 * is refused when its wait, predicted from the time between two starts, is more than a third of
 * what a request takes from its start to its first token. The bucket that counts those who asked
 * leaks at the engine's pace, whether or not somebody waits (ITU-T I.371, the leaky bucket; as a
 * queue that is only thought of: Kunniyur and Srikant, "Analysis and design of an adaptive virtual
 * queue", 2001; the two regimes are those of Nichols and Jacobson, "Controlling Queue Delay",
 * 2012).
 *
 * No clock and no thread of its own: the caller locks and gives the times, in microseconds. */
#pragma once

#include "base/base.h"

/* Zero-initialised with the bounds set is ready. */
typedef struct Admission {
    int32_t places, queue_max; /* requests that run at once; that wait. queue_max 0: all may */
    int64_t n_admitted;
    double gap_us;   /* between two starts while requests wait: a moving average; 0: not known */
    double first_us; /* from the start to the first token: a moving average; 0: not known */
    double asked;    /* in the bucket: who came while others waited or the load was too
                      * great, refused ones too */
    /* when it was looked at last */
    int64_t looked_us, start_us; /* start_us: when a request started, or the wait for that began */
    int64_t n_started;
    int32_t n_waiting;
} Admission;

/* One more request asks while so many run and wait; false: it is refused. */
bool admission_ask(Admission *admission, int32_t n_running, int32_t n_waiting, int64_t now_us);
/* That many were given to the engine after they had asked. */
void admission_admit(Admission *admission, int32_t n);
/* A request had its first token that long after its start. */
void admission_note_first(Admission *admission, int64_t us);
