#include "base/progress.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"

enum {
    PROGRESS_REDRAW_US = 100 * 1000,
    PROGRESS_PLAIN_US = 5 * 1000 * 1000,
    PROGRESS_BAR_MAX = 40,
    PROGRESS_LINE_BYTES = 256
};

struct Progress {
    char *phase, *unit;
    int64_t total, start_us;
    bool is_tty;
    _Atomic int64_t done;
    _Atomic int64_t next_us; /* no line before this time */
    pthread_mutex_t lock;    /* of the terminal's line */
    int32_t shown;           /* columns of the line that stands there */
};

Progress *progress_open(const char *phase, int64_t total, const char *unit) {
    Progress *progress = mem_alloc(sizeof *progress);
    progress->phase = mem_strdup(phase);
    progress->unit = mem_strdup(unit);
    progress->total = total;
    progress->start_us = clock_us();
    progress->is_tty = isatty(STDERR_FILENO) == 1;
    progress->next_us =
        progress->start_us + (progress->is_tty ? PROGRESS_REDRAW_US : PROGRESS_PLAIN_US);
    CHECK(pthread_mutex_init(&progress->lock, NULL) == 0);
    return progress;
}

/* A number of bytes as kB, MB or GB; any other number as it is, without its unit. */
static void progress_quantity(const Progress *progress, double value, char *out, size_t size) {
    if (strcmp(progress->unit, "B") != 0) {
        snprintf(out, size, "%.*f", value < 10 && value != floor(value) ? 1 : 0, value);
    } else if (value < 1e6) {
        snprintf(out, size, "%.0f kB", value / 1e3);
    } else if (value < 1e9) {
        snprintf(out, size, "%.1f MB", value / 1e6);
    } else {
        snprintf(out, size, "%.2f GB", value / 1e9);
    }
}

/* The unit as a word of its own: " tensors", or nothing for bytes. */
static void progress_unit(const Progress *progress, char *out, size_t size) {
    bool is_bytes = strcmp(progress->unit, "B") == 0;
    snprintf(out, size, "%s%s", is_bytes ? "" : " ", is_bytes ? "" : progress->unit);
}

static int32_t progress_columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return MIN((int32_t)size.ws_col, PROGRESS_LINE_BYTES - 1);
}

/* "[#####.....] " in at most `columns` bytes; empty where it would be too short to read. */
static void progress_bar(char *out, double share, int32_t columns) {
    int32_t width = MIN(columns - 3, (int32_t)PROGRESS_BAR_MAX);
    out[0] = '\0';
    if (width < 10) return;
    int32_t full = (int32_t)(share * width);
    out[0] = '[';
    memset(out + 1, '#', (size_t)full);
    memset(out + 1 + full, '.', (size_t)(width - full));
    memcpy(out + 1 + width, "] ", sizeof "] ");
}

/* Shows how far the work is. Holds the lock. */
static void progress_show(Progress *progress, int64_t done, int64_t now_us) {
    double seconds = (double)MAX(now_us - progress->start_us, (int64_t)1) / 1e6;
    double share =
        progress->total > 0 ? MIN((double)MAX(done, (int64_t)0) / (double)progress->total, 1.0) : 0;
    double rate = (double)done / seconds;
    char text[PROGRESS_LINE_BYTES], bar[PROGRESS_BAR_MAX + 8], line[2 * PROGRESS_LINE_BYTES];
    char have[32], want[32], speed[32], unit[32], left[32] = "";
    progress_unit(progress, unit, sizeof unit);
    progress_quantity(progress, (double)done, have, sizeof have);
    progress_quantity(progress, (double)progress->total, want, sizeof want);
    progress_quantity(progress, rate, speed, sizeof speed);
    if (share > 0) snprintf(left, sizeof left, ", %.0f s left", seconds * (1 - share) / share);
    snprintf(text, sizeof text, "%3.0f%% %s of %s%s, %s/s%s", share * 100, have, want, unit, speed,
             left);
    if (!progress->is_tty) {
        fprintf(stderr, "%s: %s\n", progress->phase, text);
        return;
    }
    int32_t columns = progress_columns() - 1;
    progress_bar(bar, share, columns - (int32_t)(strlen(progress->phase) + strlen(text)) - 3);
    int32_t n = snprintf(line, sizeof line, "%.60s: %s%s", progress->phase, bar, text);
    n = MIN(n, columns);
    /* Blanks over what is left of a longer line: no escape codes, so that any terminal will do. */
    fprintf(stderr, "\r%.*s%*s", n, line, MAX(progress->shown - n, 0), "");
    fflush(stderr);
    progress->shown = n;
}

void progress_add(Progress *progress, int64_t done) {
    if (progress == NULL) return;
    done += atomic_fetch_add(&progress->done, done);
    int64_t now_us = clock_us(), next_us = atomic_load(&progress->next_us);
    int64_t wait_us = progress->is_tty ? PROGRESS_REDRAW_US : PROGRESS_PLAIN_US;
    /* One thread draws; the others go on with their work. */
    if (now_us < next_us ||
        !atomic_compare_exchange_strong(&progress->next_us, &next_us, now_us + wait_us))
        return;
    if (pthread_mutex_trylock(&progress->lock) != 0) return;
    progress_show(progress, done, now_us);
    pthread_mutex_unlock(&progress->lock);
}

void progress_close(Progress *progress) {
    if (progress == NULL) return;
    double seconds = (double)MAX(clock_us() - progress->start_us, (int64_t)1) / 1e6;
    int64_t done = atomic_load(&progress->done);
    char have[32], speed[32], unit[32];
    progress_unit(progress, unit, sizeof unit);
    progress_quantity(progress, (double)done, have, sizeof have);
    progress_quantity(progress, (double)done / seconds, speed, sizeof speed);
    if (progress->shown > 0) fprintf(stderr, "\r%*s\r", progress->shown, "");
    fprintf(stderr, "%s: %s%s in %.2f s (%s/s)\n", progress->phase, have, unit, seconds, speed);
    pthread_mutex_destroy(&progress->lock);
    mem_free(progress->phase);
    mem_free(progress->unit);
    mem_free(progress);
}
