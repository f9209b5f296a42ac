#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"

enum { LOG_TEXT_BYTES = 2000, LOG_LINE_BYTES = 4 * LOG_TEXT_BYTES + 200 };

/* The one global that the house rules allow. */
static atomic_int log_level = LOG_WARN;

void log_set_level(LogLevel level) {
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

/* Appends text with control characters and what is not UTF-8 as \xNN; returns the new length.
 */
static size_t log_escape(char *line, size_t n, const char *text) {
    static const char digits[] = "0123456789abcdef";
    for (Str rest = str_from(text); rest.len > 0;) {
        size_t len = str_utf8_len(rest);
        unsigned char c = (unsigned char)rest.ptr[0];
        bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)rest.ptr[1] < 0xa0);
        if (len > 0 && !control) {
            memcpy(line + n, rest.ptr, len);
            n += len;
        } else {
            len = 1;
            line[n++] = '\\';
            line[n++] = 'x';
            line[n++] = digits[c >> 4];
            line[n++] = digits[c & 15];
        }
        rest = str_slice(rest, len, rest.len);
    }
    return n;
}

/* "2026-01-31T12:00:00.123Z level module "; returns its length. */
static size_t log_head(char *line, size_t size, LogLevel level, const char *module) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    int n = snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s %.60s ",
                     utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                     utc.tm_sec, (int)(now.tv_nsec / 1000000), names[level], module);
    return n < 0 ? 0 : MIN((size_t)n, size - 1);
}

void log_line(LogLevel level, const char *module, const char *format, ...) {
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed)) return;
    char text[LOG_TEXT_BYTES + 1], line[LOG_LINE_BYTES];
    va_list args;
    va_start(args, format);
    int wanted = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (wanted < 0) return;
    size_t n = log_escape(line, log_head(line, 200, level, module), text);
    if (wanted > LOG_TEXT_BYTES) n = log_escape(line, n, "...");
    line[n++] = '\n';
    /* One write, so that lines of several threads and processes do not mix. There is nobody to tell
     * about a failure. */
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
}
