/* jsort: a stable sort of values by their keys. */
#include "text/jinja_priv.h"

/* Merges [a, m) and [m, b); reverse keeps equal items in their order, as Python does. */
static Status jsort_merge(JRun *run, JVal *const from[2], JVal *const to[2], const size_t at[3],
                          bool reverse) {
    size_t i = at[0], j = at[1];
    for (size_t k = at[0]; k < at[2]; k++) {
        bool right = i == at[1];
        if (!right && j < at[2])
            TRY(reverse ? jval_compare(run, from[1][i], from[1][j], "<", &right)
                        : jval_compare(run, from[1][j], from[1][i], "<", &right));
        size_t pick = right ? j++ : i++;
        to[0][k] = from[0][pick];
        to[1][k] = from[1][pick];
    }
    return OK;
}

Status jsort(JRun *run, JVal *v, JVal *key, size_t n, bool reverse) {
    JVal *other[2] = {jrun_alloc(run, n, sizeof(JVal)), jrun_alloc(run, n, sizeof(JVal))};
    if (other[0] == NULL || other[1] == NULL) return jrun_no_memory(run);
    JVal *now[2] = {v, key};
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t a = 0; a < n; a += 2 * width) {
            size_t at[3] = {a, MIN(a + width, n), MIN(a + 2 * width, n)};
            TRY(jsort_merge(run, now, other, at, reverse));
        }
        for (int i = 0; i < 2; i++) {
            JVal *swap = now[i];
            now[i] = other[i];
            other[i] = swap;
        }
    }
    if (now[0] != v) {
        memcpy(v, now[0], n * sizeof(JVal));
        memcpy(key, now[1], n * sizeof(JVal));
    }
    return OK;
}
