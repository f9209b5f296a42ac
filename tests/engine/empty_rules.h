/* empty_rules: rules of a request that are sound each and leave no token together. */
#pragma once

#include "engine/same_bits.h"

static inline void empty_rules_told(void *user, const sluice_event *event) {
    if (event->last) *(sluice_status *)user = event->status;
}

/* They are the request's fault, not the model's, whatever picks its tokens. */
static inline void empty_rules_are_refused(Engine *engine) {
    static const int32_t token[] = {7};
    static const sluice_tokens bad[] = {{token, 1}};
    for (int32_t n = 1; n <= 3; n++) {
        const int32_t prompt[] = {1, 2, 3};
        sluice_status status = SLUICE_OK;
        sluice_request request = SLUICE_REQUEST_INIT;
        request.prompt = prompt;
        request.n_prompt = ARRAY_LEN(prompt);
        request.max_tokens = 4;
        request.n = n;
        request.allowed = token;
        request.n_allowed = 1;
        request.bad = bad;
        request.n_bad = 1;
        request.user = &status;
        request.on_event = empty_rules_told;
        uint64_t id;
        Err err = {0};
        ASSERT_OK(engine_submit(engine, &request, &id, &err), err);
        run_all(engine);
        assert_int_equal(status, SLUICE_ERR_ARG);
    }
    sluice_stats stats = {.size = sizeof stats};
    engine_get_stats(engine, &stats);
    assert_int_equal(stats.n_nonfinite, 0);
}
