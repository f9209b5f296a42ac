/* testing: what unit tests share: cmocka with its headers, the optional folder of shared data,
 * temporary folders, comparing floats.
 *
 * Tests run from the root of the repository. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

/* The path of `name` in the folder of shared test data (SLUICE_SHARED, else ../shared); free with
 * mem_free. Where it is absent the running test counts as skipped. */
static inline char *testing_shared(const char *name) {
    const char *folder = getenv("SLUICE_SHARED");
    char *path = file_join(folder != NULL ? folder : "../shared", name);
    if (file_exists(path)) return path;
    print_message("no %s\n", path);
    mem_free(path);
    skip();
    return NULL;
}

/* A fresh folder; testing_temp_remove deletes it with its content and frees the name. */
static inline char *testing_temp_dir(void) {
    const char *folder = getenv("TMPDIR");
    char *path = file_join(folder != NULL ? folder : "/tmp", "sluice-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline int testing_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void testing_temp_remove(char *path) {
    assert_int_equal(nftw(path, testing_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    mem_free(path);
}

/* Processor time of the process: what a busy machine or a slow disk adds is not in it. */
static inline double testing_cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Writes a file of these bytes. */
static inline void testing_write(const char *path, const void *data, size_t len) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, len, stream), len);
    assert_int_equal(fclose(stream), 0);
}

/* Largest |got - want| relative to the largest |want|; infinite when any of got is not finite. */
static inline double testing_error(const float *got, const float *want, size_t n) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        error = fmax(error, fabs((double)got[i] - (double)want[i]));
        scale = fmax(scale, fabs((double)want[i]));
    }
    return error == 0 ? 0 : error / scale;
}

/* Sum of squared differences over the sum of squares of want; infinite as above. */
static inline double testing_nmse(const float *got, const float *want, size_t n) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        double d = (double)got[i] - (double)want[i];
        error += d * d;
        scale += (double)want[i] * (double)want[i];
    }
    return error == 0 ? 0 : error / scale;
}

/* Fails with the number that was too large. */
#define ASSERT_ERROR_BELOW(error, bound)                                                    \
    do {                                                                                    \
        double error_ = (error), bound_ = (bound);                                          \
        if (!(error_ <= bound_)) fail_msg("error %.3g, the bound is %.3g", error_, bound_); \
    } while (0)

/* Fails with the sentence of the Err when a call does not return OK. */
#define ASSERT_OK(call, err)                                      \
    do {                                                          \
        Status status_ = (call);                                  \
        if (status_ != OK) fail_msg("%s: %s", #call, (err).text); \
    } while (0)
