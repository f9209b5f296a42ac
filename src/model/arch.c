#include "model/arch.h"

#include <stdio.h>

static const Arch *const arch_all[] = {&ARCH_LLAMA, &ARCH_MISTRAL,   &ARCH_MIXTRAL, &ARCH_QWEN2,
                                       &ARCH_QWEN3, &ARCH_QWEN3_MOE, &ARCH_GEMMA2,  &ARCH_GEMMA3,
                                       &ARCH_PHI3,  &ARCH_GPT2};

const Arch *arch_find(Str name) {
    for (size_t i = 0; i < ARRAY_LEN(arch_all); i++)
        if (str_is(name, arch_all[i]->name)) return arch_all[i];
    return NULL;
}

const Arch *arch_find_wrapper(Str name) {
    for (size_t i = 0; i < ARRAY_LEN(arch_all); i++)
        if (arch_all[i]->wrapper != NULL && str_is(name, arch_all[i]->wrapper)) return arch_all[i];
    return NULL;
}

const Arch *arch_find_gguf(Str name, bool moe) {
    for (size_t i = 0; i < ARRAY_LEN(arch_all); i++)
        if (arch_all[i]->moe == moe && str_is(name, arch_all[i]->gguf)) return arch_all[i];
    return NULL;
}

const char *arch_list(char *buf, size_t bytes) {
    size_t len = 0;
    buf[0] = 0;
    for (size_t i = 0; i < ARRAY_LEN(arch_all); i++) {
        int n = snprintf(buf + len, bytes - len, "%s%s", i > 0 ? ", " : "", arch_all[i]->name);
        if (n < 0 || (size_t)n >= bytes - len) break;
        len += (size_t)n;
    }
    return buf;
}

const ArchNames ARCH_GGUF_NAMES = {
    [ARCH_EMBED] = "token_embd.weight",
    [ARCH_POS_EMBED] = "position_embd.weight",
    [ARCH_OUT_NORM] = "output_norm.weight",
    [ARCH_OUTPUT] = "output.weight",
    [ARCH_ATTN_NORM] = "blk.#.attn_norm.weight",
    [ARCH_Q] = "blk.#.attn_q.weight",
    [ARCH_K] = "blk.#.attn_k.weight",
    [ARCH_V] = "blk.#.attn_v.weight",
    [ARCH_QKV] = "blk.#.attn_qkv.weight",
    [ARCH_O] = "blk.#.attn_output.weight",
    [ARCH_Q_NORM] = "blk.#.attn_q_norm.weight",
    [ARCH_K_NORM] = "blk.#.attn_k_norm.weight",
    [ARCH_POST_ATTN_NORM] = "blk.#.post_attention_norm.weight",
    [ARCH_FFN_NORM] = "blk.#.ffn_norm.weight",
    [ARCH_POST_FFN_NORM] = "blk.#.post_ffw_norm.weight",
    [ARCH_GATE] = "blk.#.ffn_gate.weight",
    [ARCH_UP] = "blk.#.ffn_up.weight",
    [ARCH_GATE_UP] = "blk.#.ffn_up.weight", /* phi3: both in one, without an ffn_gate */
    [ARCH_DOWN] = "blk.#.ffn_down.weight",
    [ARCH_ROUTER] = "blk.#.ffn_gate_inp.weight",
    [ARCH_EXPERTS_GATE] = "blk.#.ffn_gate_exps.weight",
    [ARCH_EXPERTS_UP] = "blk.#.ffn_up_exps.weight",
    [ARCH_EXPERTS_DOWN] = "blk.#.ffn_down_exps.weight",
    /* Mixtral files of before the experts were stacked. */
    [ARCH_EXPERT_GATE] = "blk.#.ffn_gate.@.weight",
    [ARCH_EXPERT_UP] = "blk.#.ffn_up.@.weight",
    [ARCH_EXPERT_DOWN] = "blk.#.ffn_down.@.weight",
};

bool arch_tensor_name(char buf[ARCH_NAME_BYTES], const char *prefix, const char *pattern,
                      int32_t index, int32_t layer, int32_t expert) {
    for (; index > 0; index--) {
        pattern = strchr(pattern, '|');
        if (pattern == NULL) return false;
        pattern++;
    }
    int len = snprintf(buf, ARCH_NAME_BYTES, "%s", prefix);
    for (; *pattern != 0 && *pattern != '|'; pattern++) {
        if (len < 0 || len >= ARCH_NAME_BYTES - 1) return false;
        char *at = buf + len;
        size_t room = (size_t)(ARCH_NAME_BYTES - len);
        if (*pattern == '#')
            len += snprintf(at, room, "%d", layer);
        else if (*pattern == '@')
            len += snprintf(at, room, "%d", expert);
        else
            len += snprintf(at, room, "%c", *pattern);
    }
    return len < ARCH_NAME_BYTES;
}
