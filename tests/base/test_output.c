/* test_output: what log and progress write to standard error, caught with a pipe and with a
 * pseudo-terminal: whole lines, escaped text, levels; plain lines, a bar, a summary. */
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "testing.h"

/* Standard error of the test goes to `write_end` until output_end. */
typedef struct Output {
    int read_end, saved;
    char text[65536];
} Output;

static void output_begin(Output *output, int read_end, int write_end) {
    fflush(stderr);
    output->read_end = read_end;
    output->saved = dup(STDERR_FILENO);
    assert_true(dup2(write_end, STDERR_FILENO) >= 0);
    close(write_end);
}

static void output_begin_pipe(Output *output) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    output_begin(output, ends[0], ends[1]);
}

/* Gives standard error back and reads what was written. */
static void output_end(Output *output) {
    fflush(stderr);
    assert_int_equal(fcntl(output->read_end, F_SETFL, O_NONBLOCK), 0);
    size_t n = 0;
    ssize_t got;
    while (n < sizeof output->text - 1 &&
           (got = read(output->read_end, output->text + n, sizeof output->text - 1 - n)) > 0)
        n += (size_t)got;
    output->text[n] = '\0';
    dup2(output->saved, STDERR_FILENO);
    close(output->saved);
    close(output->read_end);
}

static void log_lines(void **state) {
    (void)state;
    static Output output;
    output_begin_pipe(&output);
    log_line(LOG_INFO, "test", "below the level");
    log_line(LOG_WARN, "test", "n=%d text=%s", 7, "a\nb\x1b[2J\x7f\xc3\xa9\xc7x\xc2\x9bz");
    log_set_level(LOG_DEBUG);
    log_line(LOG_DEBUG, "test", "now shown");
    log_set_level(LOG_WARN);
    output_end(&output);
    assert_null(strstr(output.text, "below"));
    int year, month, day, hour, minute, second, ms, at = 0;
    assert_int_equal(sscanf(output.text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day,
                            &hour, &minute, &second, &ms, &at),
                     7);
    const char *want = "warn test n=7 text=a\\x0ab\\x1b[2J\\x7f\xc3\xa9\\xc7x\\xc2\\x9bz\n";
    assert_int_equal(strncmp(output.text + at, want, strlen(want)), 0);
    assert_non_null(strstr(output.text, "Z debug test now shown\n"));
}

static void log_cuts_long_text(void **state) {
    (void)state;
    static Output output;
    char text[4000];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    output_begin_pipe(&output);
    log_line(LOG_ERROR, "test", "%s", text);
    output_end(&output);
    size_t len = strlen(output.text);
    assert_true(len > 4 * 2000 && len < 4 * 2000 + 100);
    assert_string_equal(output.text + len - 8, "\\x0a...\n");
    assert_ptr_equal(strchr(output.text, '\n'), output.text + len - 1);
}

static void *log_many(void *context) {
    for (int i = 0; i < 200; i++) log_line(LOG_ERROR, context, "abcdefghij");
    return NULL;
}

/* Lines of two threads never mix. */
static void log_is_whole_from_threads(void **state) {
    (void)state;
    static Output output;
    pthread_t threads[2];
    output_begin_pipe(&output);
    assert_int_equal(pthread_create(&threads[0], NULL, log_many, "one"), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, log_many, "two"), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    output_end(&output);
    size_t len = strlen("2026-01-31T12:00:00.123Z error one abcdefghij\n");
    assert_int_equal(strlen(output.text), 400 * len);
    for (size_t i = 1; i <= 400; i++) {
        const char *end = output.text + i * len;
        assert_int_equal(strncmp(end - 12, " abcdefghij\n", 12), 0);
    }
}

static void progress_on_a_pipe(void **state) {
    (void)state;
    static Output output;
    output_begin_pipe(&output);
    Progress *progress = progress_open("loading", 3000000, "B");
    for (int i = 0; i < 3; i++) progress_add(progress, 1000000);
    progress_close(progress);
    /* Silent. */
    progress_add(NULL, 1);
    progress_close(NULL);
    output_end(&output);
    assert_null(strchr(output.text, '\r'));
    assert_null(strchr(output.text, '\x1b'));
    assert_int_equal(strncmp(output.text, "loading: 3.0 MB in ", 19), 0);
    assert_ptr_equal(strchr(output.text, '\n'), output.text + strlen(output.text) - 1);
}

/* Draws at most ten times a second, within the width, and ends with the summary alone. */
static void progress_on_a_terminal(void **state) {
    (void)state;
    static Output output;
    int leader, follower;
    struct winsize size = {.ws_row = 24, .ws_col = 70};
    if (openpty(&leader, &follower, NULL, NULL, &size) != 0) skip();
    output_begin(&output, leader, follower);
    int64_t start_us = clock_us();
    Progress *progress = progress_open("converting", 100, "tensors");
    progress_add(progress, 30);
    for (int i = 0; i < 10; i++) progress_add(progress, 1);
    for (int64_t end = clock_us() + 110000; clock_us() < end;) continue;
    for (int i = 0; i < 10; i++) progress_add(progress, 1);
    progress_close(progress);
    output_end(&output);
    assert_null(strchr(output.text, '\x1b'));
    const char *want = "\rconverting: [##";
    assert_int_equal(strncmp(output.text, want, strlen(want)), 0);
    assert_non_null(strstr(output.text, "..] "));
    assert_non_null(strstr(output.text, " of 100 tensors, "));
    int n_drawn = 0;
    for (const char *p = output.text; (p = strstr(p, " of 100 ")) != NULL; p++) n_drawn++;
    assert_true(n_drawn <= (clock_us() - start_us) / 100000);
    /* The last line is blanked out before the summary. */
    const char *summary = strstr(output.text, "\rconverting: 50 tensors in ");
    assert_non_null(summary);
    const char *blank = summary;
    while (blank[-1] == ' ') blank--;
    const char *line = memrchr(output.text, '\r', (size_t)(blank - 1 - output.text));
    assert_non_null(line);
    const ptrdiff_t line_len = blank - 1 - (line + 1);
    assert_in_range(line_len, 20, 69);
    assert_int_equal(summary - blank, line_len);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_lines), cmocka_unit_test(log_cuts_long_text),
        cmocka_unit_test(log_is_whole_from_threads), cmocka_unit_test(progress_on_a_pipe),
        cmocka_unit_test(progress_on_a_terminal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
