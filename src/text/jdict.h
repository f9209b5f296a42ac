/* jdict: a dict of template values in order of insertion, with Python's rules for keys. */
#pragma once

#include "text/jval.h"

typedef struct JDictItem {
    JVal key, value;
    uint64_t hash;
} JDictItem;

typedef struct JDict {
    JDictItem *item;
    size_t n, cap;
    uint32_t *index; /* open addressing, item number + 1; NULL while the dict is small */
    size_t n_index;
} JDict;

MUST_USE Status jdict_new(JRun *run, size_t cap, JDict **out);
/* Inserts or replaces (a replaced key keeps its place). TypeError for keys without a hash. */
MUST_USE Status jdict_put(JRun *run, JDict *dict, JVal key, JVal value);
/* *out is J_MISSING when the key is absent. TypeError for keys without a hash. */
MUST_USE Status jdict_find(JRun *run, const JDict *dict, JVal key, JVal *out);
/* By a string; cannot fail. */
JVal jdict_get(const JDict *dict, const JStr *key);
