#include "base/status.h"

#include <execinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *status_text(Status status) {
    static const char *const texts[] = {
#define STATUS_TEXT(name, text) text,
        STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    };
    return (unsigned)status < STATUS_COUNT ? texts[status] : "unknown status";
}

Status err_set(Err *err, Status status, const char *format, ...) {
    if (err != NULL && err->status == OK) {
        err->status = status;
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

void check_failed(const char *file, int line, const char *condition) {
    fprintf(stderr, "sluice: %s:%d: broken invariant: %s\n", file, line, condition);
    void *frames[64];
    int n_frames = backtrace(frames, ARRAY_LEN(frames));
    backtrace_symbols_fd(frames, n_frames, STDERR_FILENO);
    abort();
}
