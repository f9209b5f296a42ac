#!/usr/bin/env python3
"""Compares a GGUF file in llama.cpp with the Hugging Face model it was converted from.

usage: tools/check_gguf.py HF_DIR FILE.gguf [N_TOKENS]
Needs torch, transformers and llama-cpp-python.

The same prompts, greedy. Prints the tokens of both where they part; the exit status is 1 then. A
directory with only a tokenizer.model is tokenized by sentencepiece.
"""
import os
import sys

import llama_cpp
import torch
import transformers

PROMPTS = ["Once upon a time", "The king's 3 sons, 1234 miles away,", "  \n\nHello, Wörld! 你好",
           "She said: \"I don't know what you're after.\""]


def hf_tokenize(path):
    if os.path.exists(os.path.join(path, "tokenizer.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        return lambda text: tokenizer.encode(text)
    import sentencepiece
    pieces = sentencepiece.SentencePieceProcessor(os.path.join(path, "tokenizer.model"))
    return lambda text: [pieces.bos_id()] + pieces.encode(text)


def hf_greedy(model, ids, n):
    ids = list(ids)
    start = len(ids)
    margins = []
    with torch.no_grad():
        for _ in range(n):
            logits = model(torch.tensor([ids])).logits[0, -1].float()
            top = torch.topk(logits, 2)
            margins.append((top.values[0] - top.values[1]).item())
            ids.append(int(top.indices[0]))
    return ids[start:], margins


def llama_greedy(llm, ids, n):
    llm.reset()
    out = []
    for token in llm.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        out.append(token)
        if len(out) == n:
            break
    return out


def main():
    path, gguf = sys.argv[1], sys.argv[2]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    # Its f16 KV cache alone would turn close calls around.
    llm = llama_cpp.Llama(gguf, n_ctx=512, n_threads=1, verbose=False, type_k=0, type_v=0,
                          flash_attn=False)
    tokenize = hf_tokenize(path)
    failed = False
    for prompt in PROMPTS:
        ids = tokenize(prompt)
        got = llm.tokenize(prompt.encode(), add_bos=True, special=False)
        if got != ids:
            print("tokens of", repr(prompt), "differ:", got, "wanted", ids)
            failed = True
        want, margins = hf_greedy(model, ids, n)
        out = llama_greedy(llm, ids, n)
        same = next((i for i in range(n) if out[i] != want[i]), n)
        note = "" if same == n else f", there the likeliest two are {margins[same]:.4f} apart"
        print(f"{prompt!r}: {same} of {n} tokens the same{note}")
        failed |= same < n
    sys.exit(failed)


if __name__ == "__main__":
    main()
