#include "text/jdict.h"

#include "text/jinja_priv.h"

enum { JDICT_SMALL = 8 }; /* up to here a scan is quicker than an index */

Status jdict_new(JRun *run, size_t cap, JDict **out) {
    JDict *dict = jrun_alloc(run, 1, sizeof(*dict));
    if (dict == NULL) return jrun_no_memory(run);
    if (cap > 0) {
        dict->item = jrun_alloc(run, cap, sizeof(JDictItem));
        if (dict->item == NULL) return jrun_no_memory(run);
        dict->cap = cap;
    }
    *out = dict;
    return OK;
}

static void jdict_index_put(JDict *dict, size_t i) {
    size_t slot = dict->item[i].hash & (dict->n_index - 1);
    while (dict->index[slot] != 0) slot = (slot + 1) & (dict->n_index - 1);
    dict->index[slot] = (uint32_t)i + 1;
}

static Status jdict_reindex(JRun *run, JDict *dict) {
    size_t n_index = 32;
    while (n_index < dict->n * 4) n_index *= 2;
    dict->index = jrun_alloc(run, n_index, sizeof(uint32_t));
    if (dict->index == NULL) return jrun_no_memory(run);
    dict->n_index = n_index;
    for (size_t i = 0; i < dict->n; i++) jdict_index_put(dict, i);
    return OK;
}

/* *found: the item's number, or SIZE_MAX. */
static Status jdict_locate(JRun *run, const JDict *dict, JVal key, uint64_t hash, size_t *found) {
    *found = SIZE_MAX;
    size_t slot = dict->index != NULL ? hash & (dict->n_index - 1) : 0;
    for (size_t k = 0;; k++) {
        size_t i;
        if (dict->index != NULL) {
            if (dict->index[slot] == 0) return OK;
            i = dict->index[slot] - 1;
            slot = (slot + 1) & (dict->n_index - 1);
        } else {
            if (k >= dict->n) return OK;
            i = k;
        }
        if (dict->item[i].hash != hash) continue;
        bool same;
        TRY(jval_equal(run, dict->item[i].key, key, &same));
        if (same) {
            *found = i;
            return OK;
        }
    }
}

Status jdict_put(JRun *run, JDict *dict, JVal key, JVal value) {
    uint64_t hash;
    size_t i;
    TRY(jval_hash(run, key, &hash));
    TRY(jdict_locate(run, dict, key, hash, &i));
    if (i != SIZE_MAX) {
        dict->item[i].value = value;
        return OK;
    }
    if (dict->n == dict->cap) {
        size_t cap = MAX(dict->cap * 2, (size_t)4);
        JDictItem *item = jrun_alloc(run, cap, sizeof(*item));
        if (item == NULL || cap > UINT32_MAX / 2) return jrun_no_memory(run);
        if (dict->n > 0) memcpy(item, dict->item, dict->n * sizeof(*item));
        dict->item = item;
        dict->cap = cap;
    }
    dict->item[dict->n++] = (JDictItem){.key = key, .value = value, .hash = hash};
    if (dict->n <= JDICT_SMALL) return OK;
    if (dict->index == NULL || dict->n * 2 > dict->n_index) return jdict_reindex(run, dict);
    jdict_index_put(dict, dict->n - 1);
    return OK;
}

Status jdict_find(JRun *run, const JDict *dict, JVal key, JVal *out) {
    uint64_t hash;
    size_t i;
    TRY(jval_hash(run, key, &hash));
    TRY(jdict_locate(run, dict, key, hash, &i));
    *out = i == SIZE_MAX ? (JVal){.tag = J_MISSING} : dict->item[i].value;
    return OK;
}

JVal jdict_get(const JDict *dict, const JStr *key) {
    uint64_t hash = jstr_hash((JStr *)key);
    size_t slot = dict->index != NULL ? hash & (dict->n_index - 1) : 0;
    for (size_t k = 0;; k++) {
        size_t i = k;
        if (dict->index != NULL) {
            if (dict->index[slot] == 0) break;
            i = dict->index[slot] - 1;
            slot = (slot + 1) & (dict->n_index - 1);
        } else if (k >= dict->n) {
            break;
        }
        const JDictItem *item = &dict->item[i];
        if (item->hash == hash && item->key.tag == J_STR && jstr_same(item->key.s, key))
            return item->value;
    }
    return (JVal){.tag = J_MISSING};
}
