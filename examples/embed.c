/* embed: a program with a language model inside. Two threads submit a prompt each to one engine;
 * the answers arrive as events on the engine's thread and are printed when both are whole.
 *
 *   cc embed.c $(pkg-config --cflags --libs sluice) -pthread
 *   ./a.out MODEL ["first prompt" "second prompt"] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice.h>

enum { TEXT_BYTES = 4096, MAX_TOKENS = 32, PROMPT_TOKENS = 512 };

/* One prompt and what came of it. */
typedef struct Story {
    const sluice_model *model;
    sluice_engine *engine;
    const char *prompt;
    char text[TEXT_BYTES];
    size_t text_len;
    int n_tokens;
    char error[512]; /* empty: none */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int finished;
} Story;

/* Runs on the engine's thread: keeps what it must and returns. */
static void story_event(void *user, const struct sluice_event *event) {
    Story *story = user;
    pthread_mutex_lock(&story->lock);
    size_t room = TEXT_BYTES - 1 - story->text_len;
    size_t len = event->text_len < room ? event->text_len : room;
    if (len > 0) memcpy(story->text + story->text_len, event->text, len);
    story->text_len += len;
    story->n_tokens += event->n_tokens;
    if (event->error != NULL) snprintf(story->error, sizeof story->error, "%s", event->error);
    if (event->last) {
        story->finished = 1;
        pthread_cond_signal(&story->changed);
    }
    pthread_mutex_unlock(&story->lock);
}

static void *story_main(void *user) {
    Story *story = user;
    int32_t ids[PROMPT_TOKENS];
    size_t n_ids;
    sluice_error error = {0};
    uint64_t id;
    sluice_request request = SLUICE_REQUEST_INIT;
    if (sluice_tokenize(story->model, story->prompt, strlen(story->prompt), true, false, ids,
                        PROMPT_TOKENS, &n_ids, &error) != SLUICE_OK) {
        snprintf(story->error, sizeof story->error, "%s", error.text);
        return NULL;
    }
    request.prompt = ids; /* copied by sluice_submit */
    request.n_prompt = n_ids;
    request.max_tokens = MAX_TOKENS;
    request.on_event = story_event;
    request.user = story;
    if (sluice_submit(story->engine, &request, &id, &error) != SLUICE_OK) {
        snprintf(story->error, sizeof story->error, "%s", error.text);
        return NULL;
    }
    pthread_mutex_lock(&story->lock);
    while (!story->finished) pthread_cond_wait(&story->changed, &story->lock);
    pthread_mutex_unlock(&story->lock);
    return NULL;
}

/* Tells both stories at once; returns the number that failed. */
static int tell(const sluice_model *model, sluice_engine *engine, const char *const prompt[2]) {
    Story stories[2] = {0};
    pthread_t threads[2];
    int n_failed = 0;
    for (int i = 0; i < 2; i++) {
        stories[i].model = model;
        stories[i].engine = engine;
        stories[i].prompt = prompt[i];
        pthread_mutex_init(&stories[i].lock, NULL);
        pthread_cond_init(&stories[i].changed, NULL);
        if (pthread_create(&threads[i], NULL, story_main, &stories[i]) != 0) abort();
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        if (stories[i].error[0] != '\0') {
            fprintf(stderr, "embed: %s\n", stories[i].error);
            n_failed++;
        } else {
            printf("%s|%s\n(%d tokens)\n", stories[i].prompt, stories[i].text, stories[i].n_tokens);
        }
        pthread_cond_destroy(&stories[i].changed);
        pthread_mutex_destroy(&stories[i].lock);
    }
    return n_failed;
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: embed MODEL [PROMPT PROMPT]\n");
        return 2;
    }
    const char *const prompts[2] = {argc == 4 ? argv[2] : "Once upon a time",
                                    argc == 4 ? argv[3] : "The old house"};
    sluice_error error = {0};
    sluice_model *model = NULL;
    sluice_engine *engine = NULL;
    sluice_model_options model_options = SLUICE_MODEL_OPTIONS_INIT;
    model_options.quiet = true;
    int n_failed = 1;
    if (sluice_model_open(&model, argv[1], &model_options, &error) != SLUICE_OK ||
        sluice_engine_open(&engine, model, NULL, &error) != SLUICE_OK) {
        fprintf(stderr, "embed: %s\n", error.text);
    } else {
        n_failed = tell(model, engine, prompts);
    }
    if (engine != NULL) sluice_engine_close(engine);
    if (model != NULL) sluice_model_close(model);
    return n_failed > 0;
}
