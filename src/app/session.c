#include "app/session.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

Status session_error(const sluice_error *from, Err *err) {
    return err_set(err, (Status)from->status, "%s", from->text);
}

void session_options(const Config *config, sluice_model_options *model,
                     sluice_engine_options *engine) {
    *model = (sluice_model_options)SLUICE_MODEL_OPTIONS_INIT;
    model->n_threads = (int32_t)config->threads;
    model->level = config->level;
    model->device = config->device;
    model->quiet = config->quiet;
    *engine = (sluice_engine_options)SLUICE_ENGINE_OPTIONS_INIT;
    engine->max_context = (int32_t)config->context;
    engine->max_seqs = 1;
    engine->max_step_tokens = (int32_t)config->chunk;
    engine->block_tokens = (int32_t)config->block_tokens;
    engine->kv_dtype = config->kv_dtype;
    if (config_given(config, CONFIG_gpu_memory)) engine->gpu_memory = config->gpu_memory;
    engine->fast = config->fast;
}

static void session_print_bytes(const char *name, int64_t bytes) {
    printf("%-14s %12lld  %9.1f MB\n", name, (long long)bytes, (double)bytes / 1e6);
}

Status session_policy(const Config *config, sluice_policy *out, Err *err) {
    static const char *const policies[] = {"fcfs", "priority", "shortest", "cache", "fair"};
    size_t i = 0;
    while (i < ARRAY_LEN(policies) && strcmp(config->policy, policies[i]) != 0) i++;
    if (i == ARRAY_LEN(policies))
        FAIL(err, ERR_ARG, "--policy: got '%s', wanted fcfs, priority, shortest, cache or fair",
             config->policy);
    *out = (sluice_policy)i;
    return OK;
}

Status session_dry_run(const char *path, const sluice_model_options *model_options,
                       const sluice_engine_options *engine_options, Err *err) {
    sluice_error failure = {0};
    sluice_model *model;
    if (sluice_model_open(&model, path, model_options, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    sluice_engine_plan plan = {.size = sizeof plan};
    sluice_status status = sluice_engine_dry_run(model, engine_options, &plan, &failure);
    sluice_model_close(model);
    if (status != SLUICE_OK) return session_error(&failure, err);
    session_print_bytes("weights", plan.weight_bytes);
    session_print_bytes("kv cache", plan.kv_bytes);
    session_print_bytes("host kv", plan.host_kv_bytes);
    session_print_bytes("activations", plan.activation_bytes);
    session_print_bytes("other", plan.other_bytes);
    session_print_bytes("total", plan.total_bytes);
    if (plan.kv_dir_bytes > 0) session_print_bytes("kv dir", plan.kv_dir_bytes);
    if (plan.device_bytes > 0) session_print_bytes("of the GPU's", plan.device_bytes);
    printf("%-14s %12lld  tokens in %d blocks of %d, %s\n", "kv capacity",
           (long long)plan.kv_tokens, plan.n_blocks, plan.block_tokens, plan.kv_dtype);
    return OK;
}

/* The options' sampling, with the model's own defaults where they are silent. */
static Status session_sampling(Session *session, const Config *config, Err *err) {
    const sluice_model_info *info = &session->info;
    sluice_request defaults = SLUICE_REQUEST_INIT;
    sluice_sampling *sampling = &session->sampling;
    *sampling = defaults.sampling;
    double temperature = info->temperature >= 0 ? info->temperature : 0.7;
    double top_p = info->top_p >= 0 ? info->top_p : 1;
    sampling->temperature =
        (float)(config_given(config, CONFIG_temperature) ? config->temperature : temperature);
    sampling->top_p = (float)(config_given(config, CONFIG_top_p) ? config->top_p : top_p);
    sampling->top_k =
        (int32_t)(config_given(config, CONFIG_top_k) ? config->top_k : MAX(info->top_k, 0));
    sampling->min_p = (float)config->min_p;
    sampling->repetition_penalty = (float)config->repetition_penalty;
    sampling->presence_penalty = (float)config->presence_penalty;
    sampling->frequency_penalty = (float)config->frequency_penalty;
    sampling->n_logprobs = (int32_t)config->logprobs;
    sampling->seed = (uint64_t)config->seed;
    if (!config_given(config, CONFIG_seed) &&
        getrandom(&sampling->seed, sizeof sampling->seed, 0) != sizeof sampling->seed)
        FAIL(err, ERR_IO, "the system gives no random seed; give one with --seed");
    /* Shown to people and given back with --seed, which takes 63 bits. */
    sampling->seed &= INT64_MAX;
    return OK;
}

Status session_open(Session *session, const Config *config, const char *path, Err *err) {
    *session = (Session){.signal_fd = -1};
    session->max_tokens = (int32_t)config->max_tokens;
    session->ignore_eos = config->ignore_eos;
    session->verbose = config->verbose;
    session->special = config->special;
    session->n_stops = config->stop.n;
    for (int32_t i = 0; i < config->stop.n; i++) session->stop[i] = config->stop.item[i];

    sluice_model_options model_options;
    sluice_engine_options engine_options;
    session_options(config, &model_options, &engine_options);
    sluice_error failure = {0};
    if (sluice_model_open(&session->model, path, &model_options, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    session->info.size = sizeof session->info;
    sluice_model_get_info(session->model, &session->info);
    if (config->context > 0)
        session->info.context = MIN(session->info.context, (int32_t)config->context);
    TRY(session_sampling(session, config, err));

    /* Before the engine makes threads, which inherit the mask. */
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, NULL);
    session->signal_fd = signalfd(-1, &interrupt, SFD_NONBLOCK | SFD_CLOEXEC);
    if (sluice_engine_open(&session->engine, session->model, &engine_options, &failure) !=
        SLUICE_OK)
        return session_error(&failure, err);
    return OK;
}

void session_close(Session *session) {
    if (session->engine != NULL) sluice_engine_close(session->engine);
    if (session->model != NULL) sluice_model_close(session->model);
    if (session->signal_fd >= 0) close(session->signal_fd);
    *session = (Session){.signal_fd = -1};
}

/* Text as it appears in a table cell: control characters escaped. */
static void session_print_escaped(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n') {
            fputs("\\n", stdout);
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\x%02x", c);
        } else {
            fputc(c, stdout);
        }
    }
}

static void session_print_token(const Session *session, sluice_logprob token) {
    char *text = NULL;
    size_t len = 0;
    if (sluice_detokenize(session->model, &token.token, 1, true, &text, &len, NULL) != SLUICE_OK)
        return;
    printf("%6d %9.4f '", token.token, (double)token.logprob);
    session_print_escaped(text, len);
    fputc('\'', stdout);
    sluice_free(text);
}

/* With --logprobs: a line per token, the chosen one first. */
static void session_print_logprobs(const Session *session, const sluice_event *event) {
    for (int32_t i = 0; i < event->n_tokens && event->chosen != NULL; i++) {
        session_print_token(session, event->chosen[i]);
        for (int32_t k = 0; k < event->n_top; k++) {
            fputs("  | ", stdout);
            session_print_token(session, event->top[(int64_t)i * event->n_top + k]);
        }
        fputc('\n', stdout);
    }
}

static void session_print_timings(const Session *session, const sluice_usage *usage) {
    double prompt_s = (double)(usage->first_token_us - usage->queue_us) / 1e6;
    double output_s = (double)(usage->total_us - usage->first_token_us) / 1e6;
    fprintf(stderr, "\n[prompt %d tokens (%d cached), first token after %.1f ms", usage->n_prompt,
            usage->n_cached, (double)usage->first_token_us / 1e3);
    if (prompt_s > 0)
        fprintf(stderr, ", %.0f tokens/s", (usage->n_prompt - usage->n_cached) / prompt_s);
    fprintf(stderr, "; output %d tokens", usage->n_output);
    if (output_s > 0 && usage->n_output > 1)
        fprintf(stderr, ", %.1f tokens/s", (usage->n_output - 1) / output_s);
    fprintf(stderr, "; seed %llu]\n", (unsigned long long)session->sampling.seed);
}

static bool session_interrupted(const Session *session) {
    struct signalfd_siginfo info;
    bool any = false;
    while (read(session->signal_fd, &info, sizeof info) == sizeof info) any = true;
    return any;
}

/* Shows one event; *failed is set from an event that ends with an error. */
static void session_show(Session *session, const sluice_event *event, Buf *answer,
                         sluice_error *failed) {
    if (session->sampling.n_logprobs >= 0) {
        session_print_logprobs(session, event);
    } else {
        fwrite(event->text, 1, event->text_len, stdout);
    }
    fflush(stdout);
    if (answer != NULL) buf_append(answer, event->text, event->text_len);
    if (event->finish == SLUICE_FINISH_ERROR) {
        failed->status = event->status;
        snprintf(failed->text, sizeof failed->text, "%s", event->error != NULL ? event->error : "");
    }
    if (session->verbose && event->usage != NULL) session_print_timings(session, event->usage);
}

Status session_answer(Session *session, const int32_t *ids, size_t n, Buf *answer,
                      bool *interrupted, Err *err) {
    sluice_request request = SLUICE_REQUEST_INIT;
    request.prompt = ids;
    request.n_prompt = n;
    request.max_tokens = session->max_tokens;
    request.sampling = session->sampling;
    request.stop = session->stop;
    request.n_stop = session->n_stops;
    request.ignore_eos = session->ignore_eos;
    request.with_special = session->special;

    sluice_error failure = {0};
    uint64_t id;
    *interrupted = false;
    (void)session_interrupted(session); /* forget what was pressed before */
    if (sluice_submit(session->engine, &request, &id, &failure) != SLUICE_OK)
        return session_error(&failure, err);
    struct pollfd fds[] = {{.fd = sluice_event_fd(session->engine), .events = POLLIN},
                           {.fd = session->signal_fd, .events = POLLIN}};
    for (bool last = false; !last;) {
        poll(fds, ARRAY_LEN(fds), -1);
        if (session_interrupted(session)) {
            sluice_cancel(session->engine, id);
            *interrupted = true;
        }
        sluice_event event;
        while (!last && sluice_poll(session->engine, 0, &event)) {
            session_show(session, &event, answer, &failure);
            last = event.last;
        }
    }
    return failure.status != SLUICE_OK ? session_error(&failure, err) : OK;
}
