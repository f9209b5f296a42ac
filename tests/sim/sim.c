/* sim: the real scheduler, block pool, prefix tree, mailbox, cancellation, forks and beams under a
 * fake model, with faults, all from one 64-bit seed. See tests/sim/README.md.
 *
 * usage: sim --seeds FROM..TO | --seed N [--steps N] [--only ITEM[/HALVED],...]
 *            [--first] [--verbose]
 *
 * Worlds run in a child process, so that a broken invariant (which aborts) or an endless loop is
 * found by the parent; it then leaves out and halves what the world is made of while it still fails
 * and prints what is left. */
#include "sim_run.h"

#include "base/log.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

enum {
    SIM_WORLD_SECONDS = 20,
    SIM_TRIAL_SECONDS = 5,
    SIM_SHRINK_SECONDS = 40,
    SIM_FAILURES_MAX = 3
};

typedef struct SimOptions {
    uint64_t from, to; /* the seeds, both included */
    int32_t n_turns;
    const char *only;
    bool verbose, first; /* first: stops at the first failure, which it does not shrink */
} SimOptions;

static SimPlan sim_plan;

/* ---- children ---------------------------------------------------------------------------- */

/* Of processor time, so that a busy machine does not matter. */
static void sim_limit(int32_t seconds) {
    const struct itimerval limit = {.it_value = {.tv_sec = seconds}};
    CHECK(setitimer(ITIMER_PROF, &limit, NULL) == 0);
}

static void sim_child_begin(int log) {
    const struct rlimit none = {0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)dup2(log, STDERR_FILENO);
    (void)setenv("CMOCKA_TEST_ABORT", "1", 1);
    log_line(LOG_ERROR, "sim", "begins"); /* the first line loads the time zone */
    sim_world.asked = calloc(SIM_ITEMS_MAX, sizeof *sim_world.asked);
}

/* Waits for the child; true when it ended well. */
static bool sim_wait(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) continue;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool sim_try(const SimPlan *plan, int log) {
    (void)fflush(stdout);
    CHECK(ftruncate(log, 0) == 0 && lseek(log, 0, SEEK_SET) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        sim_child_begin(log);
        sim_limit(SIM_TRIAL_SECONDS);
        sim_run(plan);
        _exit(0);
    }
    return sim_wait(pid);
}

/* The first lines of what the child said last. */
static void sim_print_log(int log) {
    char text[20000], *rest = text;
    const ssize_t n_read = pread(log, text, sizeof text - 1, 0);
    text[MAX(n_read, 0)] = 0;
    int32_t n = 0;
    for (char *line = strsep(&rest, "\n"); line != NULL && n < 2; line = strsep(&rest, "\n")) {
        if (strstr(line, " sim begins") != NULL || strstr(line, " engine step=") != NULL ||
            strstr(line, "not finite") != NULL || strstr(line, " kv ") != NULL || *line == 0) {
            continue;
        }
        printf("  %s\n", line);
        n++;
    }
    if (n == 0) printf("  it did not end in time, or died without a word\n");
}

/* ---- shrinking --------------------------------------------------------------------------- */

/* Leaves out items [from, from + n) if the world fails without them too. */
static bool sim_drop(SimPlan *plan, int32_t from, int32_t n, int log) {
    static SimPlan tried;
    bool some = false;
    tried = *plan;
    for (int32_t i = from; i < MIN(from + n, plan->n_items); i++) {
        some = some || !tried.item[i].left_out;
        tried.item[i].left_out = true;
    }
    if (!some || sim_try(&tried, log)) return false;
    *plan = tried;
    return true;
}

static bool sim_halve(SimPlan *plan, int32_t i, int log) {
    static SimPlan tried;
    if (plan->item[i].left_out || plan->item[i].n_halved > 8) return false;
    tried = *plan;
    sim_plan_halve(&tried.item[i]);
    if (sim_try(&tried, log)) return false;
    *plan = tried;
    return true;
}

static void sim_shrink(SimPlan *plan, int log) {
    const time_t until = time(NULL) + SIM_SHRINK_SECONDS;
    for (bool changed = true; changed && time(NULL) < until;) {
        changed = false;
        for (int32_t n = DIV_UP(plan->n_items, 2); n >= 1; n /= 2) {
            for (int32_t i = 0; i < plan->n_items && time(NULL) < until; i += n) {
                changed = sim_drop(plan, i, n, log) || changed;
            }
        }
        for (int32_t i = 0; i < plan->n_items && time(NULL) < until; i++) {
            changed = sim_halve(plan, i, log) || changed;
        }
    }
    (void)sim_try(plan, log); /* for its words */
}

static void sim_print_replay(const SimPlan *plan, const SimOptions *options, const char *program) {
    printf("  again: %s --seed %llu", program, (unsigned long long)plan->seed);
    if (options->n_turns > 0) printf(" --steps %d", options->n_turns);
    const char *before = " --only ";
    for (int32_t i = 0; i < plan->n_items; i++) {
        const SimItem *item = &plan->item[i];
        if (item->left_out) continue;
        printf("%s%d", before, i);
        if (item->n_halved > 0) printf("/%d", item->n_halved);
        before = ",";
    }
    printf("\n");
}

/* ---- the command ------------------------------------------------------------------------- */

/* Keeps the items of a list like 3,7/2,12. */
static void sim_keep_only(SimPlan *plan, const char *only) {
    for (int32_t i = 0; i < plan->n_items; i++) plan->item[i].left_out = true;
    while (*only != 0) {
        char *end;
        const long i = strtol(only, &end, 10);
        const long n_halved = *end == '/' ? strtol(end + 1, &end, 10) : 0;
        if (i >= 0 && i < plan->n_items) {
            plan->item[i].left_out = false;
            for (long k = 0; k < n_halved; k++) sim_plan_halve(&plan->item[i]);
        }
        only = *end == ',' ? end + 1 : "";
    }
}

static void sim_make(SimPlan *plan, uint64_t seed, const SimOptions *options) {
    sim_plan_make(plan, seed, options->n_turns);
    if (options->only != NULL) sim_keep_only(plan, options->only);
}

/* Runs seeds from `from` on in a child. True when all went well; else told says which did not. */
static bool sim_run_seeds(const SimOptions *options, uint64_t from, int log) {
    (void)fflush(stdout);
    CHECK(ftruncate(log, 0) == 0 && lseek(log, 0, SEEK_SET) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        sim_child_begin(log);
        for (uint64_t seed = from; seed <= options->to; seed++) {
            sim_told->seed = seed;
            /* What went well is not spoken of, and a full disk must not silence what does not. */
            CHECK(ftruncate(log, 0) == 0 && lseek(log, 0, SEEK_SET) == 0);
            sim_limit(SIM_WORLD_SECONDS);
            sim_make(&sim_plan, seed, options);
            sim_run(&sim_plan);
        }
        _exit(0);
    }
    return sim_wait(pid);
}

static void sim_report(const SimOptions *options, int log, const char *program) {
    const uint64_t seed = sim_told->seed;
    printf("seed %llu FAILED at turn %d:\n", (unsigned long long)seed, sim_told->turn);
    sim_print_log(log);
    if (options->first) return;
    const SimTold before = *sim_told; /* trials do not count */
    sim_make(&sim_plan, seed, options);
    if (options->only == NULL) sim_shrink(&sim_plan, log);
    printf("the smallest that fails, at turn %d:\n", sim_told->turn);
    sim_print_log(log);
    sim_plan_print(&sim_plan);
    sim_print_replay(&sim_plan, options, program);
    *sim_told = before;
}

static bool sim_parse(SimOptions *options, int argc, char **argv) {
    bool some = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        if (strcmp(argv[i], "--verbose") == 0) {
            options->verbose = true;
            continue;
        } else if (strcmp(argv[i], "--first") == 0) {
            options->first = true;
            continue;
        } else if (strcmp(argv[i], "--seeds") == 0 || strcmp(argv[i], "--seed") == 0) {
            options->from = options->to = strtoull(value, &end, 10);
            if (strncmp(end, "..", 2) == 0) options->to = strtoull(end + 2, &end, 10);
            some = true;
        } else if (strcmp(argv[i], "--steps") == 0) {
            options->n_turns = (int32_t)strtol(value, &end, 10);
        } else if (strcmp(argv[i], "--only") == 0) {
            options->only = value;
        } else {
            return false;
        }
        if (*value == 0 || (end != NULL && *end != 0)) return false;
        i++;
    }
    return some && options->from <= options->to && options->n_turns >= 0;
}

int main(int argc, char **argv) {
    SimOptions options = {0};
    if (!sim_parse(&options, argc, argv)) {
        fprintf(stderr,
                "usage: %s --seeds FROM..TO | --seed N [--steps N] [--only LIST] "
                "[--first] [--verbose]\n",
                argv[0]);
        return 2;
    }
    sim_told =
        mmap(NULL, sizeof *sim_told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const int log = memfd_create("sim", MFD_CLOEXEC);
    snprintf(sim_disk_dir, sizeof sim_disk_dir, "%s/sluice-sim-XXXXXX",
             file_is_dir("/dev/shm") ? "/dev/shm" : "/tmp");
    if (sim_told == MAP_FAILED || log < 0 || mkdtemp(sim_disk_dir) == NULL) return 2;
    if (options.verbose && options.from == options.to) {
        sim_make(&sim_plan, options.from, &options);
        sim_plan_print(&sim_plan);
    }
    uint64_t n_failed = 0, from = options.from;
    while (from <= options.to && !sim_run_seeds(&options, from, log)) {
        sim_report(&options, log, argv[0]);
        from = sim_told->seed + 1;
        if (++n_failed == SIM_FAILURES_MAX || options.first) break;
    }
    (void)nftw(sim_disk_dir, testing_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    const uint64_t n_run = sim_told->seed - options.from + 1;
    printf(
        "simulated %lld steps, %lld requests (%lld refused), %lld preemptions, %lld cancelled, "
        "%lld failed, %lld prompt tokens cached\n"
        "host tier: %lld blocks saved, %lld loaded, %lld swaps, %lld checksum errors\n"
        "disk: %lld restarts, %lld blocks restored, %lld records damaged\n",
        (long long)sim_told->n_steps, (long long)sim_told->n_requests,
        (long long)sim_told->n_refused, (long long)sim_told->n_preempted,
        (long long)sim_told->n_cancelled, (long long)sim_told->n_errors,
        (long long)sim_told->n_hit_tokens, (long long)sim_told->n_saved,
        (long long)sim_told->n_loaded, (long long)sim_told->n_swaps,
        (long long)sim_told->n_checksum_errors, (long long)sim_told->n_restarts,
        (long long)sim_told->n_restored, (long long)sim_told->n_damaged);
    printf("%llu passed, %llu failed, 0 skipped\n", (unsigned long long)(n_run - n_failed),
           (unsigned long long)n_failed);
    return n_failed > 0;
}
