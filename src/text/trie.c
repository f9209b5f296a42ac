#include "text/trie.h"

#include <stdlib.h>

#include "base/mem.h"

static int trie_compare(const void *a, const void *b) {
    const TrieEntry *x = a, *y = b;
    int order = memcmp(x->key.ptr, y->key.ptr, MIN(x->key.len, y->key.len));
    if (order != 0) return order;
    if (x->key.len != y->key.len) return x->key.len < y->key.len ? -1 : 1;
    return x->value < y->value ? -1 : x->value > y->value;
}

/* The entries [from, to) share the path to `node`, which is `depth` bytes long. */
typedef struct TrieSpan {
    size_t from, to;
    uint32_t depth;
} TrieSpan;

/* Gives the node its children; nodes are made in the order of their depth. */
static void trie_expand(Trie *trie, TrieSpan *spans, const TrieEntry *entries, size_t node) {
    TrieSpan span = spans[node];
    size_t i = span.from;
    while (i < span.to && entries[i].key.len == span.depth)
        trie->nodes[node].value = entries[i++].value;
    trie->nodes[node].first_child = (uint32_t)trie->n_nodes;
    while (i < span.to) {
        uint8_t byte = (uint8_t)entries[i].key.ptr[span.depth];
        size_t end = i + 1;
        while (end < span.to && (uint8_t)entries[end].key.ptr[span.depth] == byte) end++;
        trie->nodes[trie->n_nodes] = (TrieNode){.byte = byte, .value = -1};
        spans[trie->n_nodes++] = (TrieSpan){i, end, span.depth + 1};
        trie->nodes[node].n_children++;
        i = end;
    }
}

Status trie_open(Trie *out, TrieEntry *entries, size_t n, Err *err) {
    *out = (Trie){0};
    if (n == 0) return OK;
    size_t bytes = 1;
    for (size_t i = 0; i < n; i++) bytes += entries[i].key.len;
    if (bytes > UINT32_MAX / 2) FAIL(err, ERR_LIMIT, "tokenizer: more than 2 GB of token texts");
    TrieSpan *spans = mem_try_alloc(bytes, sizeof *spans);
    out->nodes = mem_try_alloc(bytes, sizeof *out->nodes);
    if (spans == NULL || out->nodes == NULL) {
        mem_free(spans);
        trie_close(out);
        FAIL(err, ERR_NOMEM, "tokenizer: no memory for %zu tokens", n);
    }
    qsort(entries, n, sizeof *entries, trie_compare);
    out->nodes[0].value = -1;
    spans[0] = (TrieSpan){0, n, 0};
    out->n_nodes = 1;
    for (size_t node = 0; node < out->n_nodes; node++) trie_expand(out, spans, entries, node);
    const TrieNode *root = &out->nodes[0];
    for (uint32_t i = 0; i < root->n_children; i++)
        out->root[out->nodes[root->first_child + i].byte] = root->first_child + i;
    mem_free(spans);
    return OK;
}

void trie_close(Trie *trie) {
    mem_free(trie->nodes);
    *trie = (Trie){0};
}

uint32_t trie_step(const Trie *trie, uint32_t node, uint8_t byte) {
    if (node == 0) return trie->root[byte];
    const TrieNode *parent = &trie->nodes[node];
    uint32_t low = parent->first_child, high = low + parent->n_children;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (trie->nodes[middle].byte == byte) return middle;
        if (trie->nodes[middle].byte < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

size_t trie_longest(const Trie *trie, Str s, int32_t *value) {
    size_t found = 0;
    uint32_t node = 0;
    if (trie->nodes == NULL) return 0;
    for (size_t i = 0; i < s.len; i++) {
        node = trie_step(trie, node, (uint8_t)s.ptr[i]);
        if (node == 0) break;
        if (trie->nodes[node].value >= 0) {
            found = i + 1;
            *value = trie->nodes[node].value;
        }
    }
    return found;
}
