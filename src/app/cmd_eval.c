/* cmd_eval: perplexity of a text, and how far one model's predictions are from another's. */
#include <math.h>
#include <stdio.h>

#include "app/cmd.h"
#include "app/compute.h"
#include "app/text_input.h"
#include "base/clock.h"
#include "base/mem.h"

enum {
    CMD_EVAL_CHUNK = 64,   /* positions whose logits are held at once */
    CMD_EVAL_WINDOW = 1024 /* default */
};

typedef struct CmdEval {
    Compute model, against; /* against.model NULL: perplexity alone */
    Ints tokens;
    int32_t window;
    int64_t n_windows;
    /* sums over predicted tokens */
    int64_t n;
    double loss, loss_sq, kl, kl_max;
    int64_t n_agree;
} CmdEval;

/* log of the sum of exponentials, and the index of the largest (the first of equals). */
static double cmd_eval_log_sum(const float *logits, int32_t vocab, int32_t *best) {
    *best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[*best]) *best = i;
    double max = (double)logits[*best], sum = 0;
    for (int32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* KL(P || Q) where P is what `against` predicts and Q what the model does. */
static double cmd_eval_kl(const float *p, double p_sum, const float *q, double q_sum,
                          int32_t vocab) {
    double kl = 0;
    for (int32_t i = 0; i < vocab; i++) {
        double log_p = (double)p[i] - p_sum;
        kl += exp(log_p) * (log_p - ((double)q[i] - q_sum));
    }
    return kl;
}

/* Adds one position: the model's logits, those of `against` or NULL, and the token that came. */
static Status cmd_eval_position(CmdEval *eval, const float *logits, const float *against,
                                int32_t vocab, int32_t next, Err *err) {
    int32_t best, best_against;
    double sum = cmd_eval_log_sum(logits, vocab, &best);
    double loss = sum - (double)logits[next];
    if (!isfinite(loss))
        FAIL(err, ERR_DEVICE, "a logit is not finite after %lld tokens", (long long)eval->n);
    eval->n++;
    eval->loss += loss;
    eval->loss_sq += loss * loss;
    if (against != NULL) {
        double sum_against = cmd_eval_log_sum(against, vocab, &best_against);
        double kl = cmd_eval_kl(against, sum_against, logits, sum, vocab);
        eval->kl += kl;
        eval->kl_max = fmax(eval->kl_max, kl);
        eval->n_agree += best == best_against;
    }
    return OK;
}

static Status cmd_eval_window(CmdEval *eval, const int32_t *token, int32_t n, Err *err) {
    int32_t vocab = model_config(eval->model.model)->vocab;
    bool both = eval->against.model != NULL;
    single_reset(eval->model.single);
    if (both) single_reset(eval->against.single);
    for (int32_t at = 0; at < n; at += CMD_EVAL_CHUNK) {
        int32_t len = MIN(n - at, (int32_t)CMD_EVAL_CHUNK);
        const float *logits, *against = NULL;
        TRY(single_feed(eval->model.single, token + at, len, len, &logits, err));
        if (both) TRY(single_feed(eval->against.single, token + at, len, len, &against, err));
        for (int64_t i = 0; i < len; i++)
            TRY(cmd_eval_position(eval, logits + i * vocab, both ? against + i * vocab : NULL,
                                  vocab, token[at + i + 1], err));
    }
    return OK;
}

/* Token ids as little-endian 16-bit numbers. */
static void cmd_eval_ids(Str bytes, Ints *out) {
    for (size_t i = 0; i + 1 < bytes.len; i += 2)
        ints_push(out, (uint8_t)bytes.ptr[i] | (uint8_t)bytes.ptr[i + 1] << 8);
}

static Status cmd_eval_read(CmdEval *eval, const Config *config, Err *err) {
    Buf text = {0};
    Status status = text_input_read(NULL, config->ppl, &text, err);
    if (status == OK) {
        if (str_ends_with(str_from(config->ppl), ".u16")) {
            cmd_eval_ids(buf_str(&text), &eval->tokens);
        } else {
            status = tokenizer_encode(eval->model.tokenizer, buf_str(&text), (EncodeOptions){0},
                                      &eval->tokens, err);
        }
    }
    buf_free(&text);
    TRY(status);
    int32_t vocab = model_config(eval->model.model)->vocab;
    for (size_t i = 0; i < eval->tokens.len; i++)
        if (eval->tokens.data[i] < 0 || eval->tokens.data[i] >= vocab)
            FAIL(err, ERR_ARG, "'%s' holds token %d, the vocabulary has %d", config->ppl,
                 eval->tokens.data[i], vocab);
    eval->n_windows = (int64_t)(eval->tokens.len - (eval->tokens.len > 0)) / eval->window;
    if (config->windows > 0) eval->n_windows = MIN(eval->n_windows, config->windows);
    if (eval->n_windows == 0)
        FAIL(err, ERR_ARG, "'%s' has %zu tokens, a window needs %d", config->ppl, eval->tokens.len,
             eval->window + 1);
    return OK;
}

static Status cmd_eval_open(CmdEval *eval, const Config *config, Err *err) {
    char *path;
    TRY(cmd_model_path(config, &path, err));
    ComputeOptions options = {.path = path,
                              .n_logits_max = CMD_EVAL_CHUNK,
                              .with_tokenizer = !str_ends_with(str_from(config->ppl), ".u16")};
    Status status = compute_open(&eval->model, config, &options, err);
    mem_free(path);
    TRY(status);
    const ModelConfig *model = model_config(eval->model.model);
    eval->window = config->window > 0 ? (int32_t)config->window
                                      : MIN(model->context, (int32_t)CMD_EVAL_WINDOW);
    if (eval->window > model->context)
        FAIL(err, ERR_ARG, "--window: got %d, the model's context is %d", eval->window,
             model->context);
    if (config->against == NULL) return OK;
    options = (ComputeOptions){.path = config->against, .n_logits_max = CMD_EVAL_CHUNK};
    TRY(compute_open(&eval->against, config, &options, err));
    const ModelConfig *against = model_config(eval->against.model);
    if (against->vocab != model->vocab || against->context < eval->window)
        FAIL(err, ERR_ARG,
             "'%s' has %d tokens and context %d, the model %d and a window of %d: not comparable",
             config->against, against->vocab, against->context, model->vocab, eval->window);
    return OK;
}

static void cmd_eval_print(const CmdEval *eval, const Config *config, double seconds) {
    double n = (double)eval->n, loss = eval->loss / n;
    double error = sqrt(fmax(eval->loss_sq / n - loss * loss, 0) / n);
    bool both = eval->against.model != NULL;
    if (config->json) {
        printf(
            "{\"tokens\": %lld, \"windows\": %lld, \"window\": %d, \"loss\": %.6f, "
            "\"loss_error\": %.6f, \"perplexity\": %.6f",
            (long long)eval->n, (long long)eval->n_windows, eval->window, loss, error, exp(loss));
        if (both)
            printf(", \"kl\": %.8f, \"kl_max\": %.6f, \"same_top\": %.6f", eval->kl / n,
                   eval->kl_max, (double)eval->n_agree / n);
        printf(", \"seconds\": %.3f}\n", seconds);
        return;
    }
    printf("tokens      %lld in %lld windows of %d\n", (long long)eval->n,
           (long long)eval->n_windows, eval->window);
    printf("loss        %.4f +- %.4f nats per token\n", loss, error);
    printf("perplexity  %.4f\n", exp(loss));
    if (both) {
        printf("KL          %.6f nats per token, %.4f at most\n", eval->kl / n, eval->kl_max);
        printf("same top    %.3f %%\n", 100 * (double)eval->n_agree / n);
    }
    printf("speed       %.0f tokens/s\n", n / seconds);
}

Status cmd_eval(const Config *config, Err *err) {
    if (config->ppl == NULL) FAIL(err, ERR_ARG, "--ppl FILE is missing");
    CmdEval eval = {0};
    Status status = cmd_eval_open(&eval, config, err);
    if (status == OK) status = cmd_eval_read(&eval, config, err);
    if (status == OK) {
        int64_t start_us = clock_us();
        Progress *progress =
            config->quiet ? NULL
                          : progress_open("evaluating", eval.n_windows * eval.window, "tokens");
        for (int64_t w = 0; w < eval.n_windows && status == OK; w++) {
            status = cmd_eval_window(&eval, eval.tokens.data + w * eval.window, eval.window, err);
            progress_add(progress, eval.window);
        }
        progress_close(progress);
        if (status == OK) cmd_eval_print(&eval, config, (double)(clock_us() - start_us) / 1e6);
    }
    ints_free(&eval.tokens);
    compute_close(&eval.against);
    compute_close(&eval.model);
    return status;
}
