#!/usr/bin/env python3
"""Writes a Hugging Face directory of a Llama with random bf16 weights, to measure speed with.

usage: make_random_model.py SHAPE OUT_DIR        SHAPE: 0.1b, 1.1b, or Llama's 1b and 8b

Needs numpy. Large matrices repeat what was drawn for their first rows. The tokenizer is a
byte-level BPE whose merges pair up bytes: real enough to load and to convert, and no more. The text
such a model writes means nothing.
"""
import json
import os
import struct
import sys

import numpy as np

SHAPES = {
    "0.1b": dict(dim=768, layers=12, heads=12, kv_heads=4, ff=2048, vocab=32000, context=2048),
    "1.1b": dict(dim=2048, layers=22, heads=32, kv_heads=4, ff=5632, vocab=32000, context=4096),
    "1b": dict(dim=2048, layers=16, heads=32, kv_heads=8, ff=8192, vocab=128256, context=131072),
    "8b": dict(dim=4096, layers=32, heads=32, kv_heads=8, ff=14336, vocab=128256, context=131072),
}
DRAWN_MAX = 1 << 22  # numbers of a matrix


def tensors(s):
    """Name, shape and standard deviation of every tensor (0: all ones)."""
    head = s["dim"] // s["heads"]
    kv = head * s["kv_heads"]
    yield "model.embed_tokens.weight", (s["vocab"], s["dim"]), 1.0
    for i in range(s["layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (s["dim"],), 0
        yield p + "self_attn.q_proj.weight", (s["dim"], s["dim"]), s["dim"] ** -0.5
        yield p + "self_attn.k_proj.weight", (kv, s["dim"]), s["dim"] ** -0.5
        yield p + "self_attn.v_proj.weight", (kv, s["dim"]), s["dim"] ** -0.5
        yield p + "self_attn.o_proj.weight", (s["dim"], s["dim"]), s["dim"] ** -0.5
        yield p + "post_attention_layernorm.weight", (s["dim"],), 0
        yield p + "mlp.gate_proj.weight", (s["ff"], s["dim"]), s["dim"] ** -0.5
        yield p + "mlp.up_proj.weight", (s["ff"], s["dim"]), s["dim"] ** -0.5
        yield p + "mlp.down_proj.weight", (s["dim"], s["ff"]), s["ff"] ** -0.5
    yield "model.norm.weight", (s["dim"],), 0
    yield "lm_head.weight", (s["vocab"], s["dim"]), s["dim"] ** -0.5


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_weights(path, s):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors(s):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng, drawn = np.random.default_rng(1), {}
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape, deviation in tensors(s):
            n = int(np.prod(shape))
            if deviation == 0:
                data = bf16(np.ones(n, np.float32))
            elif n <= DRAWN_MAX:
                data = bf16(rng.standard_normal(n, np.float32) * deviation)
            else:
                if deviation not in drawn:
                    drawn[deviation] = bf16(rng.standard_normal(DRAWN_MAX, np.float32) * deviation)
                data = drawn[deviation]
            for done in range(0, n, len(data)):
                f.write(data[:n - done].data)
            print(f"\r{100 * f.tell() // (at + len(text) + 8)} %", end="", file=sys.stderr)
    print(file=sys.stderr)


def byte_chars():
    """The printable character that stands for each byte in byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in chars:
            chars[b] = chr(256 + extra)
            extra += 1
    return [chars[b] for b in range(256)]


def write_tokenizer(path, n_vocab):
    chars = byte_chars()
    vocab = {c: i for i, c in enumerate(chars)}
    merges = []
    for a in chars:
        for b in chars:
            if len(vocab) < n_vocab - 1:
                vocab[a + b] = len(vocab)
                merges.append([a, b])
    vocab["<|endoftext|>"] = n_vocab - 1
    special = {"id": n_vocab - 1, "content": "<|endoftext|>", "single_word": False,
               "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None,
                 "added_tokens": [special], "normalizer": None, "pre_tokenizer": byte_level,
                 "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None,
                           "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                           "merges": merges}}
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer, f, ensure_ascii=False)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    s, out = SHAPES[sys.argv[1]], sys.argv[2]
    os.makedirs(out, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
              "hidden_size": s["dim"], "intermediate_size": s["ff"],
              "num_hidden_layers": s["layers"], "num_attention_heads": s["heads"],
              "num_key_value_heads": s["kv_heads"], "head_dim": s["dim"] // s["heads"],
              "vocab_size": s["vocab"], "max_position_embeddings": s["context"],
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": False, "torch_dtype": "bfloat16",
              "bos_token_id": s["vocab"] - 1, "eos_token_id": s["vocab"] - 1}
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
                   "eos_token": "<|endoftext|>"}, f, indent=1)
    write_tokenizer(os.path.join(out, "tokenizer.json"), s["vocab"])
    write_weights(os.path.join(out, "model.safetensors"), s)


if __name__ == "__main__":
    main()
