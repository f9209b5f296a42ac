"""steered: a tiny model that says what a test wants, written as a Hugging Face directory.

It has one layer that adds nothing, an embedding that is the identity and a head that maps each
token to its successor: a model of bigrams. Each answer is cut into tokens of its own, so it is
spoken from its first token to its last; which one is spoken depends on the last byte of the prompt:
the template ends with it."""
import array
import json
import os
import random
import struct

END = "<|end|>"


def byte_letters():
    """The letters that stand for bytes in vocabularies of byte-level BPE (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, n = {}, 0
    for b in range(256):
        letters[b] = chr(b) if b in plain else chr(256 + n)
        n += b not in plain
    return letters


LETTERS = byte_letters()


def cut(text, taken, specials, rng):
    """Pieces of a text that no other answer has; special tokens stay whole."""
    for special in specials:
        if special in text:
            before, after = text.split(special, 1)
            return (cut(before, taken, specials, rng) + [special] +
                    cut(after, taken, specials, rng))
    pieces, at = [], 0
    while at < len(text):
        sizes = [n for n in range(2, 12) if at + n <= len(text) and at + n != len(text) - 1]
        rng.shuffle(sizes)
        size = next((n for n in sizes if text[at:at + n] not in taken), None)
        if size is None:
            size = next(n for n in range(12, len(text)) if text[at:at + n] not in taken)
            assert at + size <= len(text), "the text's end is in another answer"
        piece = text[at:at + size]
        assert piece not in taken and len(piece.encode()) > 1, piece
        taken.add(piece)
        pieces.append(piece)
        at += size
    return pieces


def write(folder, template, answers, specials=()):
    """answers: {last byte of the prompt: what the model says then}."""
    rng, taken = random.Random(7), set()
    vocab = {LETTERS[b]: b for b in range(256)}
    added = {}
    chains = []
    for key, text in answers.items():
        ids = [ord(key)]
        for piece in cut(text, taken, specials, rng):
            if piece in specials:
                ids.append(added.setdefault(piece, None) or piece)
                continue
            name = "".join(LETTERS[b] for b in piece.encode())
            ids.append(vocab.setdefault(name, len(vocab)))
        chains.append(ids)
    for special in [*specials, END]:
        added[special] = len(vocab) + list([*specials, END]).index(special)
    size = -(-(len(vocab) + len(added)) // 32) * 32
    following = {}
    for ids in chains:
        ids = [added[i] if isinstance(i, str) else i for i in ids] + [added[END]]
        for a, b in zip(ids, ids[1:]):
            assert a not in following, "a token in two answers"
            following[a] = b

    def matrix(rows, columns, places, value=1):
        values = array.array("f", bytes(4 * rows * columns))
        for row, column in places:
            values[row * columns + column] = value
        return [rows, columns], values

    def ones_vector(n):
        return [n], array.array("f", [1] * n)

    zero = {"model.layers.0." + name: matrix(rows, columns, []) for name, rows, columns in (
        ("self_attn.q_proj.weight", 32, size), ("self_attn.k_proj.weight", 32, size),
        ("self_attn.v_proj.weight", 32, size), ("self_attn.o_proj.weight", size, 32),
        ("mlp.gate_proj.weight", 32, size), ("mlp.up_proj.weight", 32, size),
        ("mlp.down_proj.weight", size, 32))}
    tensors = {
        "model.embed_tokens.weight": matrix(size, size, [(i, i) for i in range(size)]),
        # The norm makes sqrt(size) of the 1: with 4 the successor is ahead of each other token by
        # more than 64, so that a draw at temperature 1 misses it once in e^57.
        "lm_head.weight": matrix(size, size, [(b, a) for a, b in following.items()], 4),
        "model.norm.weight": ones_vector(size),
        "model.layers.0.input_layernorm.weight": ones_vector(size),
        "model.layers.0.post_attention_layernorm.weight": ones_vector(size),
        **zero,
    }
    header, at = {}, 0
    for name, (shape, values) in tensors.items():
        n = 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            f.write(values.tobytes())
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size,
              "hidden_size": size, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
              "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32",
              "bos_token_id": added[END], "eos_token_id": added[END]}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": i, "content": s, "special": True, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False}
                         for s, i in added.items()],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": False},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}}
    for name, value in (("config.json", config), ("tokenizer.json", tokenizer)):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(value, f)
    with open(os.path.join(folder, "chat_template.jinja"), "w") as f:
        f.write(template)
