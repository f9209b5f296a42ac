#include "text/unigram.h"

#include <stdlib.h>

#include "base/mem.h"
#include "text/utf8.h"

typedef struct UnigramNode {
    double score;  /* of the best way to here */
    int32_t start; /* where its last piece begins; -1: no way yet */
    int32_t id;
} UnigramNode;

void unigram_scratch_free(UnigramScratch *scratch) {
    free(scratch->nodes);
    free(scratch->pieces);
    *scratch = (UnigramScratch){0};
}

void unigram_free(Unigram *unigram) {
    trie_close(&unigram->trie);
    mem_free(unigram->score);
    mem_free(unigram->bonus);
    *unigram = (Unigram){0};
}

/* A longer sum loses bits in float just as the reference's does: the ids follow from that. */
static void unigram_relax(const Unigram *unigram, UnigramNode *node, double before, double score,
                          size_t start, int32_t id) {
    double sum = before + score;
    if (unigram->in_float) sum = (double)(float)sum;
    if (node->start >= 0 && !(sum > node->score)) return;
    node->score = sum;
    node->start = (int32_t)start;
    node->id = id;
}

static double unigram_score(const Unigram *unigram, int32_t id, size_t length) {
    if (unigram->bonus != NULL && unigram->bonus[id])
        return (double)(float)((double)((float)length * (float)unigram->max_score) - 0.1);
    return unigram->score[id];
}

static void unigram_forward(const Unigram *unigram, UnigramNode *nodes, Str text) {
    for (size_t start = 0; start < text.len;) {
        size_t width = (size_t)utf8_lead_bytes(text.ptr[start]);
        double before = nodes[start].score;
        bool covered = false;
        uint32_t at = 0;
        for (size_t end = start; end < text.len && unigram->trie.nodes != NULL;) {
            at = trie_step(&unigram->trie, at, (uint8_t)text.ptr[end++]);
            if (at == 0) break;
            int32_t id = unigram->trie.nodes[at].value;
            if (id < 0) continue;
            double score = unigram_score(unigram, id, end - start);
            unigram_relax(unigram, &nodes[end], before, score, start, id);
            covered |= end - start == width;
        }
        if (!covered)
            unigram_relax(unigram, &nodes[start + width], before, unigram->unknown_score, start,
                          unigram->unknown);
        start += width;
    }
}

bool unigram_run(const Unigram *unigram, UnigramScratch *scratch, Str text, size_t *n) {
    if (text.len + 1 > scratch->nodes_cap) {
        free(scratch->nodes);
        scratch->nodes_cap = text.len + 1;
        scratch->nodes = malloc(scratch->nodes_cap * sizeof *scratch->nodes);
        if (scratch->nodes == NULL) {
            scratch->nodes_cap = 0;
            return false;
        }
    }
    UnigramNode *nodes = scratch->nodes;
    for (size_t i = 0; i <= text.len; i++) nodes[i] = (UnigramNode){0, -1, -1};
    unigram_forward(unigram, nodes, text);
    *n = 0;
    for (size_t end = text.len; end > 0; end = (size_t)nodes[end].start) (*n)++;
    if (*n > scratch->pieces_cap) {
        free(scratch->pieces);
        scratch->pieces_cap = *n;
        scratch->pieces = malloc(*n * sizeof *scratch->pieces);
        if (scratch->pieces == NULL) {
            scratch->pieces_cap = 0;
            return false;
        }
    }
    size_t i = *n;
    for (size_t end = text.len; end > 0; end = (size_t)nodes[end].start)
        scratch->pieces[--i] =
            (UnigramPiece){(uint32_t)nodes[end].start, (uint32_t)end, nodes[end].id};
    return true;
}
