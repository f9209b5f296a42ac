/* trie: a set of byte strings with values, for finding all that begin at a place. Immutable. */
#pragma once

#include "base/status.h"
#include "base/str.h"

typedef struct TrieNode {
    uint32_t first_child; /* children lie side by side, in order of their bytes */
    int32_t value;        /* -1: no string ends here */
    uint16_t n_children;
    uint8_t byte;
} TrieNode;

typedef struct Trie {
    TrieNode *nodes; /* owned; node 0 is the root; NULL: an empty set */
    size_t n_nodes;
    uint32_t root[256]; /* child of the root by byte, 0: none */
} Trie;

typedef struct TrieEntry {
    Str key;       /* not empty */
    int32_t value; /* >= 0 */
} TrieEntry;

/* Builds from n entries, which are sorted in place; of equal keys the largest value counts. */
MUST_USE Status trie_open(Trie *out, TrieEntry *entries, size_t n, Err *err);
void trie_close(Trie *trie);
/* The child of node by a byte, or 0. */
uint32_t trie_step(const Trie *trie, uint32_t node, uint8_t byte);
/* Length of the longest string of the set that s begins with, 0: none; its value in *value. */
size_t trie_longest(const Trie *trie, Str s, int32_t *value);
