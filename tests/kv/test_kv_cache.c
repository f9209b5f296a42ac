/* test_kv_cache: random operations on pools, tables and tree against a shadow memory.
 *
 * Every slot of every block carries a tag: the hash of salt and tokens up to its position, which is
 * what real KV content is a function of. After each operation every position that a sequence may
 * attend to must carry its own tag, the audit must pass, and no shared or cached block may have
 * been written. Matches are compared with the set of all prefixes ever put in. A host tier is a
 * second array of tags; what flies there or back arrives at once, late, twice, never, spoiled. */
#include "kv/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/rng.h"

enum { N_SEQS = 8, LEN_MAX = 96, SEEN_MAX = 1 << 16, MOVES_MAX = 600, FLIGHTS = 200 };

typedef struct Toy {
    KvSeq kv;
    bool live, loading;
    int32_t token[LEN_MAX];
    int32_t n; /* computed */
    KvSalt salt;
} Toy;

typedef struct World {
    KvCacheConfig config;
    KvCache cache;
    Toy toy[N_SEQS];
    int32_t *memory;
    uint64_t *tag[KV_GROUPS_MAX], *host[KV_GROUPS_MAX];
    KvMove move[MOVES_MAX];
    KvMoves moves;
    KvMoved late[FLIGHTS];
    int32_t n_late;
    uint64_t seed, counter;
    uint64_t seen[SEEN_MAX]; /* tags of whole blocks that were ever committed; open addressing */
    int64_t n_hits, n_full, n_evicted_miss, n_forgot, n_loaded, n_failed, n_swapped;
} World;

static uint32_t world_random(World *w, uint32_t n) {
    return (uint32_t)(rng_bits(w->seed, 0, w->counter++) % n);
}

static uint64_t world_tag(KvSalt salt, const int32_t *token, int32_t n) {
    return hash_bytes(token, (size_t)n * sizeof *token, salt.word[0] * 31 + salt.word[1]);
}

static void world_open(World *w, const KvCacheConfig *config, uint64_t seed, uint64_t hash_mask) {
    memset(w, 0, sizeof *w);
    w->config = *config;
    w->seed = seed;
    w->config.hash_ignored = ~hash_mask;
    assert_int_equal(kv_cache_init(&w->cache, &w->config, NULL), OK);
    w->moves = (KvMoves){.move = w->move, .n_max = MOVES_MAX};
    const size_t ints = kv_cache_seq_ints(config, LEN_MAX);
    w->memory = calloc(N_SEQS * ints, sizeof *w->memory);
    for (int32_t i = 0; i < N_SEQS; i++) {
        kv_cache_seq_init(&w->cache, &w->toy[i].kv, w->memory + (size_t)i * ints, LEN_MAX);
    }
    for (int32_t g = 0; g < config->n_groups; g++) {
        w->tag[g] = calloc((size_t)(config->n_blocks[g] * config->block_tokens), sizeof(uint64_t));
        w->host[g] = calloc((size_t)(config->n_host[g] * config->block_tokens), sizeof(uint64_t));
    }
}

static int32_t world_live(World *w, KvSeq **seqs) {
    int32_t n = 0;
    for (int32_t i = 0; i < N_SEQS; i++) {
        if (w->toy[i].live) seqs[n++] = &w->toy[i].kv;
    }
    return n;
}

static void world_close(World *w) {
    KvSeq *seqs[N_SEQS];
    for (int32_t i = 0; i < N_SEQS; i++) {
        if (w->toy[i].live) kv_cache_end(&w->cache, &w->toy[i].kv);
        w->toy[i].live = false;
    }
    kv_cache_give_up(&w->cache, INT64_MAX);
    assert_int_equal(kv_cache_clear(&w->cache, NULL), OK);
    assert_int_equal(kv_cache_audit(&w->cache, seqs, 0, NULL), OK);
    assert_int_equal(w->cache.radix.n_nodes, 0);
    for (int32_t g = 0; g < w->config.n_groups; g++) {
        assert_int_equal(w->cache.pool[g].n_free, w->config.n_blocks[g]);
        free(w->tag[g]);
        free(w->host[g]);
    }
    kv_cache_free(&w->cache);
    free(w->memory);
}

static uint64_t *world_slot(World *w, int32_t g, const Toy *t, int32_t i) {
    const int32_t block = t->kv.table[g].block[i / w->config.block_tokens];
    return &w->tag[g][block * w->config.block_tokens + i % w->config.block_tokens];
}

/* Every position that the next token attends to carries its own tag. */
static void world_check(World *w) {
    for (int32_t s = 0; s < N_SEQS; s++) {
        const Toy *t = &w->toy[s];
        if (!t->live) continue;
        assert_int_equal(kv_cache_len(&t->kv), t->n);
        if (t->loading) continue;
        for (int32_t g = 0; g < w->config.n_groups; g++) {
            const int32_t window = w->config.window[g];
            const int32_t from = window == 0 ? 0 : MAX(0, t->n - window + 1);
            for (int32_t i = from; i < t->n; i++) {
                assert_true(*world_slot(w, g, t, i) == world_tag(t->salt, t->token, i + 1));
            }
            if (window > 0) { /* what is behind the window is given back */
                const int32_t keep = t->n - MAX(window, 2) + 1;
                const int32_t held = t->kv.table[g].n_blocks - t->kv.table[g].n_dropped;
                const int32_t bound = DIV_UP(MAX(t->n - MAX(keep, 0), 0), w->config.block_tokens);
                assert_true(held <= bound + 3);
            }
        }
    }
    KvSeq *seqs[N_SEQS];
    const int32_t n = world_live(w, seqs);
    Err err = {0};
    if (kv_cache_audit(&w->cache, seqs, n, &err) != OK) fail_msg("%s", err.text);
}

static bool world_seen(const World *w, uint64_t tag) {
    uint64_t at = tag % SEEN_MAX;
    while (w->seen[at] != 0 && w->seen[at] != tag) at = (at + 1) % SEEN_MAX;
    return w->seen[at] == tag;
}

static void world_see(World *w, uint64_t tag) {
    uint64_t at = tag % SEEN_MAX;
    while (w->seen[at] != 0 && w->seen[at] != tag) at = (at + 1) % SEEN_MAX;
    w->seen[at] = tag;
}

static void world_end(World *w, Toy *t) {
    kv_cache_end(&w->cache, &t->kv);
    t->live = t->loading = false;
    t->n = 0;
}

/* Takes in what has landed. */
static void world_settle(World *w) {
    for (int32_t i = 0; i < N_SEQS; i++) {
        Toy *t = &w->toy[i];
        if (!t->loading || t->kv.load.n_flying > 0) continue;
        t->loading = false;
        if (t->kv.load.failed) {
            w->n_failed++;
            world_end(w, t);
        } else {
            w->n_loaded++;
            kv_cache_commit(&w->cache, &t->kv, t->token, t->n);
        }
    }
}

static void world_land(World *w, KvMoved moved) {
    const uint32_t what = world_random(w, 12);
    if (what == 0 && w->n_late < FLIGHTS) {
        w->late[w->n_late++] = moved;
    } else if (what != 1) {
        kv_cache_land(&w->cache, &moved);
        if (what == 2) kv_cache_land(&w->cache, &moved);
    }
}

/* Makes the moves that the cache asked for. */
static void world_move(World *w) {
    const size_t size = (size_t)w->config.block_tokens, bytes = size * sizeof(uint64_t);
    for (int32_t i = 0; i < w->moves.n; i++) {
        const KvMove *m = &w->moves.move[i];
        uint64_t *tag = w->tag[m->group], *host = w->host[m->group];
        const size_t src = (size_t)m->src * size, dst = (size_t)m->dst * size;
        KvMoved moved = {.ticket = m->ticket};
        if (m->kind == KV_MOVE_COPY) {
            memcpy(tag + dst, tag + src, bytes);
            continue;
        }
        if (m->kind == KV_MOVE_SAVE) {
            memcpy(host + dst, tag + src, bytes);
            moved.checksum = hash_bytes(host + dst, bytes, 0);
            if (world_random(w, 60) == 0) host[dst] ^= 1;
        } else {
            memcpy(tag + dst, host + src, bytes);
            if (hash_bytes(host + src, bytes, 0) != m->checksum) moved.status = ERR_FORMAT;
        }
        world_land(w, moved);
    }
    w->moves.n = 0;
    if (world_random(w, 8) == 0) {
        for (int32_t i = 0; i < w->n_late; i++) kv_cache_land(&w->cache, &w->late[i]);
        w->n_late = 0;
    }
    w->cache.tier.now_us += 100000;
    kv_cache_give_up(&w->cache, w->cache.tier.now_us);
    world_settle(w);
}

/* Whether the pools have room for what the match would load. */
static bool world_fits(const World *w, const KvMatch *match) {
    for (int32_t g = 0; g < w->config.n_groups; g++) {
        if (match->n_load[g] > kv_cache_room(&w->cache, g) - match->n_idle[g]) return false;
    }
    return true;
}

static void world_begin(World *w, Toy *t) {
    t->salt = (KvSalt){{world_random(w, 2), 7}};
    const int32_t n = 1 + (int32_t)world_random(w, LEN_MAX / 2);
    for (int32_t i = 0; i < n; i++) t->token[i] = world_random(w, 6) == 0;
    KvMatch match;
    kv_cache_match(&w->cache, t->salt, t->token, n, &match);
    assert_true(match.n_tokens < n && match.n_tokens % w->config.block_tokens == 0);
    const int32_t next = match.n_tokens + w->config.block_tokens;
    if (match.miss == KV_MISS_NEW) {
        assert_int_equal(match.n_tokens, 0);
    } else if (match.miss == KV_MISS_EVICTED && w->cache.radix.hash_mask == UINT64_MAX) {
        assert_true(world_seen(w, world_tag(t->salt, t->token, next)));
        w->n_evicted_miss++;
    } else if (match.miss == KV_MISS_DIFFERENT && match.miss_at > match.n_tokens) {
        assert_true(match.miss_at < next);
    } else if (match.miss == KV_MISS_NONE && match.miss_at == n - 1) {
        w->n_full++;
    }
    if (w->config.prefix && w->cache.n_evicted == 0 && w->n_forgot == 0 && next < n &&
        w->config.n_host[0] == 0 && match.miss != KV_MISS_WINDOW) {
        assert_false(world_seen(w, world_tag(t->salt, t->token, next)));
    }
    if (!world_fits(w, &match)) match = (KvMatch){.node = -1};
    kv_cache_begin(&w->cache, &t->kv, t->salt, &match, &w->moves);
    t->loading = match.n_load[0] + match.n_load[1] > 0;
    w->n_hits += match.n_tokens;
    t->n = match.n_tokens;
    t->live = true;
}

static void world_append(World *w, Toy *t, int32_t n) {
    n = MIN(n, LEN_MAX - t->n);
    if (!kv_cache_append(&w->cache, &t->kv, n, &w->moves)) {
        assert_int_equal(w->moves.n, 0);
        return;
    }
    const int32_t size = w->config.block_tokens;
    world_move(w);
    for (int32_t i = t->n; i < t->n + n; i++) {
        t->token[i] = world_random(w, 6) == 0;
    }
    for (int32_t g = 0; g < w->config.n_groups; g++) {
        for (int32_t i = t->n; i < t->n + n; i++) {
            const int32_t block = t->kv.table[g].block[i / size];
            assert_true(kv_pool_is_private(&w->cache.pool[g], block));
            *world_slot(w, g, t, i) = world_tag(t->salt, t->token, i + 1);
        }
    }
    t->n += n;
    kv_cache_commit(&w->cache, &t->kv, t->token, t->n);
    for (int32_t i = size; i <= t->n; i += size) {
        world_see(w, world_tag(t->salt, t->token, i));
    }
}

static void world_turn(World *w) {
    Toy *t = &w->toy[world_random(w, N_SEQS)];
    Toy *other = &w->toy[world_random(w, N_SEQS)];
    const uint32_t what = world_random(w, 16);
    if (!t->live) {
        world_begin(w, t);
    } else if (t->loading && what < 13) {
        return;
    } else if (what < 9) {
        world_append(w, t, 1 + (int32_t)world_random(w, what < 6 ? 2 : 20));
    } else if (what == 12 && w->config.n_host[0] > 0) {
        w->n_swapped += kv_cache_swap(&w->cache, &t->kv, &w->moves);
        world_end(w, t);
    } else if (what < 11 && !other->live) {
        kv_cache_fork(&w->cache, &other->kv, &t->kv);
        memcpy(other->token, t->token, sizeof t->token);
        other->n = t->n;
        other->salt = t->salt;
        other->live = true;
    } else if (what == 11 && w->config.window[0] == 0 && w->config.n_groups == 1) {
        const int32_t n = (int32_t)world_random(w, (uint32_t)t->n + 1);
        kv_cache_truncate(&w->cache, &t->kv, n);
        t->n = n;
    } else if (what >= 13) {
        /* Not in every run: a tree that forgot nothing can be compared with what was seen. */
        if (what == 15 && w->seed % 2 == 1) {
            kv_cache_forget(&w->cache, &t->kv);
            w->n_forgot++;
        }
        world_end(w, t);
    }
    world_move(w);
}

static struct {
    int64_t n_loaded, n_failed, n_swapped, n_checksum_errors;
} told; /* of the worlds with a host tier */

static void world_run(const KvCacheConfig *config, uint64_t seed, uint64_t hash_mask,
                      int32_t n_turns, bool expect_hits) {
    static World w;
    world_open(&w, config, seed, hash_mask);
    for (int32_t i = 0; i < n_turns; i++) {
        world_turn(&w);
        world_check(&w);
    }
    if (expect_hits) assert_true(w.n_hits > 0);
    if (config->n_host[0] > 0) {
        const KvTier *tier = &w.cache.tier;
        assert_true(tier->n_saved > 0 && tier->n_lost > 0 && tier->n_late > 0);
        told.n_loaded += w.n_loaded;
        told.n_failed += w.n_failed;
        told.n_swapped += w.n_swapped;
        told.n_checksum_errors += tier->n_checksum_errors;
    }
    world_close(&w);
}

/* Narrow hashes make prefixes collide; with none, only the comparison tells them apart. */
static const uint64_t hash_masks[] = {0xff, 0, UINT64_MAX, UINT64_MAX, UINT64_MAX};

static void kv_cache_full(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        KvCacheConfig config = {.n_groups = 1, .block_tokens = 1 << (seed % 4), .prefix = true};
        config.n_blocks[0] = seed % 3 == 0 ? 2000 : 300 / config.block_tokens;
        world_run(&config, seed, hash_masks[seed % 5], 3000, true);
    }
}

static void kv_cache_windowed(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        KvCacheConfig config = {.n_groups = 1, .block_tokens = 1 << (seed % 4), .prefix = true};
        config.n_blocks[0] = 300 / config.block_tokens;
        config.window[0] = (int32_t[]){1, 2, 5, 16, 40, 1000}[seed % 6];
        world_run(&config, 100 + seed, hash_masks[seed % 5], 3000, true);
    }
}

static void kv_cache_two_groups(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        KvCacheConfig config = {.n_groups = 2, .block_tokens = 1 << (seed % 4), .prefix = true};
        config.n_blocks[0] = 400 / config.block_tokens;
        config.n_blocks[1] = (seed % 2 ? 150 : 400) / config.block_tokens;
        config.window[1] = (int32_t[]){1, 3, 8, 24}[seed % 4];
        world_run(&config, 200 + seed, hash_masks[seed % 5], 3000, true);
    }
}

/* Each world again with a pool that is too small and a host tier. */
static void kv_cache_with_tier(void **state) {
    (void)state;
    memset(&told, 0, sizeof told);
    for (uint64_t seed = 0; seed < 48; seed++) {
        KvCacheConfig config = {.n_groups = 1 + (int32_t)(seed / 4 % 2),
                                .block_tokens = 1 << (seed % 4),
                                .prefix = true,
                                .n_flights = seed % 5 == 0 ? 3 : FLIGHTS};
        for (int32_t g = 0; g < config.n_groups; g++) {
            config.n_blocks[g] = (seed % 3 == 0 ? 120 : 250) / config.block_tokens;
            config.n_host[g] = (seed % 7 == 0 ? 40 : 500) / config.block_tokens;
        }
        if (config.n_groups == 2) config.window[1] = (int32_t[]){1, 3, 8, 24}[seed / 8 % 4];
        if (config.n_groups == 1 && seed % 3 == 1) config.window[0] = 16;
        world_run(&config, 300 + seed, hash_masks[seed % 5], 3000, true);
    }
    print_message("%lld loads arrived, %lld failed, %lld blocks swapped, %lld checksum errors\n",
                  (long long)told.n_loaded, (long long)told.n_failed, (long long)told.n_swapped,
                  (long long)told.n_checksum_errors);
    assert_true(told.n_loaded > 500 && told.n_failed > 100 && told.n_swapped > 1000 &&
                told.n_checksum_errors > 20);
}

static void kv_cache_without_prefix(void **state) {
    (void)state;
    KvCacheConfig config = {.n_groups = 1, .block_tokens = 4, .n_blocks = {70}};
    world_run(&config, 1, UINT64_MAX, 3000, false);
}

/* A cold prompt of n tokens 0, 1, 2, ... under the salt, computed and ended. */
static void warm(KvCache *cache, KvSalt salt, const int32_t *token, int32_t n) {
    int32_t memory[64];
    KvSeq seq;
    kv_cache_seq_init(cache, &seq, memory, 64);
    KvMatch match;
    kv_cache_match(cache, salt, token, n, &match);
    KvMove move[KV_GROUPS_MAX];
    KvMoves moves = {.move = move, .n_max = KV_GROUPS_MAX};
    kv_cache_begin(cache, &seq, salt, &match, &moves);
    assert_true(kv_cache_append(cache, &seq, n - match.n_tokens, &moves));
    kv_cache_commit(cache, &seq, token, n);
    kv_cache_end(cache, &seq);
}

static void kv_cache_explains_misses(void **state) {
    (void)state;
    const KvCacheConfig config = {
        .n_groups = 1, .block_tokens = 4, .n_blocks = {8}, .prefix = true};
    KvCache cache;
    assert_int_equal(kv_cache_init(&cache, &config, NULL), OK);
    const KvSalt a = {{1, 1}}, b = {{1, 2}};
    int32_t token[64];
    for (int32_t i = 0; i < 64; i++) token[i] = i;
    KvMatch m;
    kv_cache_match(&cache, a, token, 20, &m);
    assert_int_equal(m.miss, KV_MISS_NEW);
    assert_int_equal(m.miss_at, 0);
    kv_cache_match(&cache, a, token, 4, &m);
    assert_int_equal(m.miss, KV_MISS_SHORT);
    warm(&cache, a, token, 20);
    kv_cache_match(&cache, a, token, 17, &m);
    assert_int_equal(m.n_tokens, 16);
    assert_int_equal(m.miss, KV_MISS_NONE);
    kv_cache_match(&cache, a, token, 20, &m); /* the last token is always computed */
    assert_int_equal(m.n_tokens, 16);
    assert_int_equal(m.miss, KV_MISS_SHORT);
    kv_cache_match(&cache, a, token, 30, &m);
    assert_int_equal(m.n_tokens, 20);
    assert_int_equal(m.miss, KV_MISS_NONE); /* all that was there */
    kv_cache_match(&cache, b, token, 20, &m);
    assert_int_equal(m.n_tokens, 0);
    assert_int_equal(m.miss, KV_MISS_SALT);
    token[10] = 999;
    kv_cache_match(&cache, a, token, 20, &m);
    assert_int_equal(m.n_tokens, 8);
    assert_int_equal(m.miss, KV_MISS_DIFFERENT);
    assert_int_equal(m.miss_at, 10);
    token[10] = 10;
    token[2] = 999;
    kv_cache_match(&cache, a, token, 20, &m);
    assert_int_equal(m.miss, KV_MISS_DIFFERENT);
    assert_int_equal(m.miss_at, 2);
    warm(&cache, a, token, 28); /* 7 of 8 blocks: the old leaves have to go, deepest first */
    token[2] = 2;
    kv_cache_match(&cache, a, token, 20, &m);
    assert_int_equal(m.miss, KV_MISS_EVICTED);
    assert_int_equal(m.n_tokens, 4);
    assert_int_equal(m.n_idle[0], 1);
    kv_cache_free(&cache);
}

static void kv_cache_refuses_cleanly(void **state) {
    (void)state;
    const KvCacheConfig config = {
        .n_groups = 2, .block_tokens = 4, .n_blocks = {8, 2}, .window = {0, 8}, .prefix = true};
    KvCache cache;
    assert_int_equal(kv_cache_init(&cache, &config, NULL), OK);
    int32_t memory[64];
    KvSeq seq;
    kv_cache_seq_init(&cache, &seq, memory, 64);
    KvMove move[KV_GROUPS_MAX];
    KvMoves moves = {.move = move, .n_max = KV_GROUPS_MAX};
    assert_false(kv_cache_append(&cache, &seq, 12, &moves)); /* group 1 has two blocks */
    assert_int_equal(cache.pool[0].n_free, 8);
    assert_true(kv_cache_append(&cache, &seq, 8, &moves));
    assert_int_equal(kv_cache_len(&seq), 8);
    kv_cache_end(&cache, &seq);
    kv_cache_free(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kv_cache_full),
        cmocka_unit_test(kv_cache_windowed),
        cmocka_unit_test(kv_cache_two_groups),
        cmocka_unit_test(kv_cache_with_tier),
        cmocka_unit_test(kv_cache_without_prefix),
        cmocka_unit_test(kv_cache_explains_misses),
        cmocka_unit_test(kv_cache_refuses_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
