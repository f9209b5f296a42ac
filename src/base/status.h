/* status: how functions report failure.
 *
 * Two kinds of failure, never confused: the world's (bad file, full pool, client gone) is a Status
 * with a sentence in an Err; ours (a broken invariant) is a CHECK, which reports and aborts. */
#pragma once

#include "base/base.h"

/* name, short text */
#define STATUS_MAP(X)                              \
    X(OK, "ok")                                    \
    X(ERR_ARG, "invalid argument")                 \
    X(ERR_IO, "input/output error")                \
    X(ERR_NOT_FOUND, "not found")                  \
    X(ERR_FORMAT, "malformed data")                \
    X(ERR_UNSUPPORTED, "not supported")            \
    X(ERR_LIMIT, "over a limit; later or smaller") \
    X(ERR_NOMEM, "out of memory")                  \
    X(ERR_CANCELLED, "cancelled")                  \
    X(ERR_DEVICE, "device failure")                \
    X(ERR_TEMPLATE, "raised by the template")

typedef enum Status {
#define STATUS_ENUM(name, text) name,
    STATUS_MAP(STATUS_ENUM)
#undef STATUS_ENUM
        STATUS_COUNT
} Status;

enum { ERR_TEXT_BYTES = 512 };

/* The sentence that goes with a Status. The first function that fails writes it; nobody overwrites
 * it. It names the thing, what it was and what was wanted. A zeroed Err is ready for use. */
typedef struct Err {
    Status status;
    char text[ERR_TEXT_BYTES];
} Err;

#ifdef __cplusplus
extern "C" {
#endif

/* The short text of a status, for logs. */
const char *status_text(Status status);

/* Writes the sentence into err unless err is NULL or already holds one. Returns status. */
Status err_set(Err *err, Status status, const char *format, ...) PRINTF_LIKE(3, 4);

#define FAIL(err, status, ...) return err_set((err), (status), __VA_ARGS__)

/* Returns from the calling function with the callee's failure. */
#define TRY(expr)                                  \
    do {                                           \
        Status try_status_ = (expr);               \
        if (try_status_ != OK) return try_status_; \
    } while (0)

/* Prints file, line, condition, text and the stack to stderr, then aborts. */
NORETURN void check_failed(const char *file, int line, const char *condition);

#ifdef __cplusplus
}
#endif

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (__builtin_expect(!(condition), 0)) check_failed(__FILE__, __LINE__, #condition); \
    } while (0)

/* CHECK for inner loops: only in debug and test builds. */
#ifdef SLUICE_DEBUG
#define DCHECK(condition) CHECK(condition)
#else
#define DCHECK(condition) ((void)sizeof(condition))
#endif
