#!/usr/bin/env python3
"""Perplexity, and KL divergence from the BF16 file, beside llama.cpp's on the same GGUF files.

usage: compare_quality.py [--windows N] [--threads N] [--csv] TOKENS.u16 BF16.gguf FILE.gguf...

TOKENS are ids as little-endian 16-bit numbers, cut into windows of 1,024 tokens; each window begins
anew, and every token of it predicts the next. Sluice's figures are those of `sluice eval`;
llama.cpp is fed the same ids and its logits are reduced here in f64. Each program's KL divergence
is from its own logits of BF16.gguf. Needs numpy and llama-cpp-python. Markdown, or CSV.
"""
import argparse
import ctypes
import json
import os
import subprocess

import llama_cpp
import numpy as np

SLUICE = os.environ.get("SLUICE", "build/sluice")
WINDOW = 1024


def sluice(path, args):
    out = subprocess.run(
        [SLUICE, "eval", path, "-q", "--json", "--ppl", args.tokens, "--against", args.bf16,
         "--window", str(WINDOW), "--windows", str(args.windows), "-t", str(args.threads)],
        check=True, capture_output=True, text=True).stdout
    return json.loads(out)


class Llama:
    """Logarithms of the probabilities that llama.cpp gives to every token at each place."""

    def __init__(self, path, threads):
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(WINDOW, 0, 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def log_probs(self, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i] = int(token)
            self.batch.pos[i] = i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = True
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i),
                                      shape=(self.vocab,)) for i in range(len(tokens))]
        logits = np.array(rows, np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def llama(path, windows, base, args):
    """base: the log probabilities of BF16, made here when it is empty."""
    model = Llama(path, args.threads)
    keep = not base
    loss, kl, same = [], [], []
    for w, window in enumerate(windows):
        log_q = model.log_probs(window[:WINDOW])
        if keep:
            base.append(log_q.astype(np.float32))
        log_p = base[w].astype(np.float64)
        loss.append(-log_q[np.arange(WINDOW), window[1:]].mean())
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
        same.append((log_p.argmax(axis=1) == log_q.argmax(axis=1)).mean())
    model.close()
    return {"perplexity": np.exp(np.mean(loss)), "kl": np.mean(kl), "same_top": np.mean(same)}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("tokens")
    parser.add_argument("bf16")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    ids = np.fromfile(args.tokens, "<u2")
    windows = [ids[i * WINDOW:(i + 1) * WINDOW + 1] for i in range(args.windows)]
    head = ["file", "perplexity", "llama_perplexity", "kl", "llama_kl", "same_top",
            "llama_same_top"]
    if args.csv:
        print(",".join(head), flush=True)
    else:
        print("| file | perplexity | llama.cpp | KL | llama.cpp | same top % | llama.cpp |\n"
              "| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    base = []
    for path in [args.bf16] + args.files:
        ours, theirs = sluice(path, args), llama(path, windows, base, args)
        row = [os.path.basename(path), f"{ours['perplexity']:.3f}", f"{theirs['perplexity']:.3f}",
               f"{ours['kl']:.5f}", f"{theirs['kl']:.5f}", f"{100 * ours['same_top']:.2f}",
               f"{100 * theirs['same_top']:.2f}"]
        print(",".join(row) if args.csv else "| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
