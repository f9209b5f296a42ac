#include "kv/kv_tier.h"

#include "base/mem.h"

/* A flight of which nothing was heard for so long is lost. */
enum { KV_TIER_WAIT_US = 2000000 };

int64_t kv_tier_bytes(const int32_t n_slots[KV_GROUPS_MAX], int32_t n_flights_max) {
    int64_t bytes = n_flights_max * (int64_t)sizeof(KvFlight);
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) bytes += n_slots[g] * (int64_t)sizeof(KvSlot);
    return bytes;
}

Status kv_tier_init(KvTier *tier, const int32_t n_slots[KV_GROUPS_MAX], int32_t n_flights_max,
                    Err *err) {
    *tier = (KvTier){.n_flights_max = n_flights_max, .free_flight = -1};
    bool made = true;
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) {
        const int32_t n = n_slots[g];
        KvTierGroup *group = &tier->group[g];
        *group =
            (KvTierGroup){.n_slots = n, .n_free = n, .free_head = -1, .oldest = -1, .newest = -1};
        group->slot = mem_try_alloc((size_t)n, sizeof *group->slot);
        made = made && group->slot != NULL;
        for (int32_t i = n - 1; i >= 0 && made; i--) {
            group->slot[i] = (KvSlot){.node = -1, .next = group->free_head, .prev = -1};
            group->free_head = i;
        }
    }
    tier->flight = mem_try_alloc((size_t)n_flights_max, sizeof *tier->flight);
    if (!made || tier->flight == NULL) {
        kv_tier_free(tier);
        FAIL(err, ERR_NOMEM, "no memory for the table of the host tier's KV blocks");
    }
    for (int32_t i = n_flights_max - 1; i >= 0; i--) {
        tier->flight[i].next_free = tier->free_flight;
        tier->free_flight = i;
    }
    return OK;
}

void kv_tier_free(KvTier *tier) {
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) mem_free(tier->group[g].slot);
    mem_free(tier->flight);
    *tier = (KvTier){0};
}

/* ---- lists ------------------------------------------------------------------------------- */

static void kv_tier_push_newest(KvTierGroup *group, int32_t slot) {
    KvSlot *s = &group->slot[slot];
    s->next = -1;
    s->prev = group->newest;
    if (group->newest >= 0) {
        group->slot[group->newest].next = slot;
    } else {
        group->oldest = slot;
    }
    group->newest = slot;
}

static void kv_tier_unlink(KvTierGroup *group, int32_t slot) {
    const KvSlot *s = &group->slot[slot];
    if (s->prev >= 0) {
        group->slot[s->prev].next = s->next;
    } else {
        group->oldest = s->next;
    }
    if (s->next >= 0) {
        group->slot[s->next].prev = s->prev;
    } else {
        group->newest = s->prev;
    }
}

static void kv_tier_push_free(KvTierGroup *group, int32_t slot) {
    group->slot[slot] = (KvSlot){.node = -1, .next = group->free_head, .prev = -1};
    group->free_head = slot;
    group->n_free++;
}

/* ---- flights ----------------------------------------------------------------------------- */

bool kv_tier_can_fly(const KvTier *tier, int32_t n) {
    return n <= tier->n_flights_max - tier->n_flights - tier->n_reserved;
}

/* Begins a flight and lists its move. Returns the ticket. */
static int64_t kv_tier_begin(KvTier *tier, KvMoves *moves, const KvFlight *flight, KvMove move) {
    const int32_t at = tier->free_flight;
    CHECK(at >= 0 && moves->n < moves->n_max);
    KvFlight *own = &tier->flight[at];
    tier->free_flight = own->next_free;
    tier->n_flights++;
    *own = *flight;
    own->ticket = ++tier->n_tickets * tier->n_flights_max + at;
    own->until_us = tier->now_us + KV_TIER_WAIT_US;
    move.ticket = own->ticket;
    moves->move[moves->n++] = move;
    return own->ticket;
}

static void kv_tier_end(KvTier *tier, KvFlight *flight) {
    flight->ticket = 0;
    flight->next_free = tier->free_flight;
    tier->free_flight = (int32_t)(flight - tier->flight);
    tier->n_flights--;
}

int32_t kv_tier_oldest(const KvTier *tier, int32_t group) {
    return tier->group[group].oldest;
}

int32_t kv_tier_save(KvTier *tier, KvMoves *moves, int32_t group, int32_t block, int32_t node) {
    KvTierGroup *g = &tier->group[group];
    const int32_t slot = g->free_head;
    if (slot < 0 || !kv_tier_can_fly(tier, 1)) return -1;
    KvSlot *s = &g->slot[slot];
    g->free_head = s->next;
    g->n_free--;
    const KvFlight flight = {.kind = KV_MOVE_SAVE, .group = group, .slot = slot};
    const KvMove move = {.kind = KV_MOVE_SAVE, .group = group, .src = block, .dst = slot};
    *s = (KvSlot){.node = node, .ticket = kv_tier_begin(tier, moves, &flight, move)};
    kv_tier_push_newest(g, slot);
    return slot;
}

bool kv_tier_is_ready(const KvTier *tier, int32_t group, int32_t slot) {
    return tier->group[group].slot[slot].ready;
}

void kv_tier_pin(KvTier *tier, int32_t group, int32_t slot) {
    KvTierGroup *g = &tier->group[group];
    CHECK(g->slot[slot].node >= 0 && g->slot[slot].ready);
    if (g->slot[slot].n_pins++ == 0) kv_tier_unlink(g, slot);
    tier->n_reserved++;
}

void kv_tier_load(KvTier *tier, KvMoves *moves, int32_t group, int32_t slot, int32_t block,
                  KvLoad *load) {
    const KvFlight flight = {.kind = KV_MOVE_LOAD, .group = group, .slot = slot, .owner = load};
    const KvMove move = {.kind = KV_MOVE_LOAD,
                         .group = group,
                         .src = slot,
                         .dst = block,
                         .checksum = tier->group[group].slot[slot].checksum};
    tier->n_reserved--;
    (void)kv_tier_begin(tier, moves, &flight, move);
    load->n_flying++;
}

void kv_tier_drop(KvTier *tier, int32_t group, int32_t slot) {
    KvTierGroup *g = &tier->group[group];
    CHECK(g->slot[slot].node >= 0);
    g->slot[slot].node = -1;
    if (g->slot[slot].n_pins > 0) return; /* it is free once it has landed */
    kv_tier_unlink(g, slot);
    kv_tier_push_free(g, slot);
}

void kv_tier_abandon(KvTier *tier, KvLoad *load) {
    for (int32_t i = 0; i < tier->n_flights_max && load->n_flying > 0; i++) {
        KvFlight *flight = &tier->flight[i];
        if (flight->ticket == 0 || flight->owner != load) continue;
        flight->owner = NULL;
        load->n_flying--;
    }
    *load = (KvLoad){0};
}

/* What a load means for its slot and for who waits. */
static void kv_tier_land_load(KvTier *tier, const KvFlight *flight, Status status) {
    KvTierGroup *g = &tier->group[flight->group];
    KvSlot *slot = &g->slot[flight->slot];
    if (flight->owner != NULL) {
        flight->owner->n_flying--;
        flight->owner->failed = flight->owner->failed || status != OK;
    }
    if (--slot->n_pins > 0) return;
    if (slot->node >= 0) {
        kv_tier_push_newest(g, flight->slot);
    } else {
        kv_tier_push_free(g, flight->slot);
    }
}

bool kv_tier_land(KvTier *tier, const KvMoved *moved, int32_t *group, int32_t *node) {
    KvFlight *flight = &tier->flight[moved->ticket % tier->n_flights_max];
    if (flight->ticket != moved->ticket) {
        tier->n_late++;
        return false;
    }
    KvSlot *slot = &tier->group[flight->group].slot[flight->slot];
    const bool saves = flight->kind == KV_MOVE_SAVE;
    /* A save may land when its slot was given up, or given to another block. */
    const bool same = slot->node >= 0 && (!saves || slot->ticket == flight->ticket);
    *group = flight->group;
    *node = slot->node;
    tier->n_checksum_errors += moved->status == ERR_FORMAT;
    if (!saves) {
        kv_tier_land_load(tier, flight, moved->status);
        tier->n_loaded += moved->status == OK;
    } else if (same && moved->status == OK) {
        slot->ready = true;
        slot->checksum = moved->checksum;
        tier->n_saved++;
    }
    kv_tier_end(tier, flight);
    return same && moved->status != OK;
}

int64_t kv_tier_overdue(KvTier *tier, int64_t now_us) {
    for (int32_t i = 0; i < tier->n_flights_max && tier->n_flights > 0; i++) {
        KvFlight *flight = &tier->flight[i];
        if (flight->ticket == 0) continue;
        if (flight->until_us <= now_us) return flight->ticket;
        flight->until_us = MIN(flight->until_us, now_us + KV_TIER_WAIT_US);
    }
    return 0;
}

/* ---- audit ------------------------------------------------------------------------------- */

static int32_t kv_tier_count_flights(const KvTier *tier, KvMoveKind kind, int32_t group,
                                     int32_t slot) {
    int32_t n = 0;
    for (int32_t i = 0; i < tier->n_flights_max && tier->n_flights > 0; i++) {
        const KvFlight *f = &tier->flight[i];
        n += f->ticket != 0 && f->kind == kind && f->group == group && f->slot == slot;
    }
    return n;
}

static Status kv_tier_audit_group(const KvTier *tier, int32_t group, Err *err) {
    const KvTierGroup *g = &tier->group[group];
    int32_t n_free = 0, n_aged = 0, n_pinned = 0, prev = -1;
    for (int32_t i = g->free_head; i >= 0 && n_free <= g->n_slots; i = g->slot[i].next) {
        if (g->slot[i].node >= 0 || g->slot[i].n_pins > 0) {
            FAIL(err, ERR_ARG, "host slot %d is free and in use", i);
        }
        n_free++;
    }
    for (int32_t i = g->oldest; i >= 0 && n_aged <= g->n_slots; i = g->slot[i].next) {
        if (g->slot[i].node < 0 || g->slot[i].n_pins > 0 || g->slot[i].prev != prev) {
            FAIL(err, ERR_ARG, "host slot %d is listed by age but free, pinned or linked wrongly",
                 i);
        }
        prev = i;
        n_aged++;
    }
    for (int32_t i = 0; i < g->n_slots; i++) {
        const int32_t n = g->slot[i].n_pins;
        n_pinned += n > 0;
        if (n > 0 && n != kv_tier_count_flights(tier, KV_MOVE_LOAD, group, i)) {
            FAIL(err, ERR_ARG, "host slot %d has %d pins, which are not its flights", i, n);
        }
    }
    if (n_free != g->n_free || n_free + n_aged + n_pinned != g->n_slots || prev != g->newest) {
        FAIL(err, ERR_ARG, "host tier: %d free (%d counted), %d aged and %d pinned of %d slots",
             n_free, g->n_free, n_aged, n_pinned, g->n_slots);
    }
    return OK;
}

Status kv_tier_audit(const KvTier *tier, Err *err) {
    int32_t n_flights = 0;
    for (int32_t i = 0; i < tier->n_flights_max; i++) n_flights += tier->flight[i].ticket != 0;
    if (n_flights != tier->n_flights) {
        FAIL(err, ERR_ARG, "host tier: %d flights, %d counted", n_flights, tier->n_flights);
    }
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++) TRY(kv_tier_audit_group(tier, g, err));
    return OK;
}
