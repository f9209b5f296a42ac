#include "base/stacks.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { STACKS_DEPTH = 48, STACKS_WAIT_MS = 200, STACKS_NAME_BYTES = 16 };

/* Who has answered last. The signal carries its address, and it is never freed: an answer may come
 * late. */
typedef struct StacksAnswer {
    atomic_int thread;
} StacksAnswer;

static void stacks_on_signal(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    StacksAnswer *answer = info->si_value.sival_ptr;
    char name[STACKS_NAME_BYTES] = "", line[64];
    void *frame[STACKS_DEPTH];
    prctl(PR_GET_NAME, name);
    int n = snprintf(line, sizeof line, "thread %d, %s:\n", (int)gettid(), name);
    ssize_t written = write(STDERR_FILENO, line, (size_t)MAX(n, 0));
    (void)written;
    backtrace_symbols_fd(frame, backtrace(frame, STACKS_DEPTH), STDERR_FILENO);
    atomic_store(&answer->thread, (int)gettid());
}

static void stacks_ask(pid_t thread, int number, StacksAnswer *answer) {
    const struct timespec pause = {.tv_nsec = 1000000};
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_value.sival_ptr = answer;
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, number, &info) != 0) return;
    for (int i = 0; i < STACKS_WAIT_MS; i++) {
        if (atomic_load(&answer->thread) == (int)thread) return;
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "thread %d does not answer\n", (int)thread);
}

void stacks_print(void) {
    const int number = SIGRTMAX;
    struct sigaction action = {.sa_sigaction = stacks_on_signal,
                               .sa_flags = SA_RESTART | SA_SIGINFO};
    StacksAnswer *answer = mem_alloc(sizeof *answer);
    void *frame[1];
    backtrace(frame, 1); /* loads what it needs now, not in the handler */
    sigaction(number, &action, NULL);
    DIR *dir = opendir("/proc/self/task");
    if (dir == NULL) return;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            stacks_ask((pid_t)strtol(entry->d_name, NULL, 10), number, answer);
    closedir(dir);
}
