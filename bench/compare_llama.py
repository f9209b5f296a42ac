#!/usr/bin/env python3
"""Prefill and decode speed beside llama.cpp's on the same GGUF files, interleaved in one run.

usage: compare_llama.py [--rounds N] [--threads N,N] [--prompt N,N] [--gen N] [--batch N,N]
                        [--csv] FILE.gguf...

Needs llama-cpp-python (PyPI, built with CMAKE_ARGS=-DGGML_NATIVE=ON). Each round times Sluice and
llama.cpp one after the other, so that both see the same load of the machine; a row has medians over
the rounds and the median of the rounds' ratios, and for Sluice the share of what the limits probed
beside it allow. Markdown on standard output, or CSV.
"""
import argparse
import ctypes
import datetime
import json
import os
import statistics
import subprocess
import time

import llama_cpp

SLUICE = os.environ.get("SLUICE", "build/sluice")


def sluice(path, threads, args):
    """{test: (tokens/s, share of the limit)}"""
    out = subprocess.run(
        [SLUICE, "bench", path, "-q", "-o", "json", "-r", "1", "-t", str(threads), "--n-prompt",
         args.prompt, "--n-gen", str(args.gen), "--batch", args.batch],
        check=True, capture_output=True, text=True).stdout
    return {test["test"]: (test["tokens_per_s"],
                           test["tokens_per_s"] / max(test["predicted_tokens_per_s"], 1e-9))
            for test in json.loads(out)["tests"]}


class Llama:
    """llama.cpp's C interface, so that sequences can decode together."""

    def __init__(self, path, threads, args):
        self.prompts = [int(n) for n in args.prompt.split(",")]
        self.batches = [int(n) for n in args.batch.split(",")]
        self.gen = args.gen
        model = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(max(self.prompts), args.gen * max(self.batches)) + 256
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = max(self.batches)
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def decode(self, places):
        """places: (token's number, position, sequence, wants logits)"""
        self.batch.n_tokens = len(places)
        for i, (number, pos, seq, logits) in enumerate(places):
            self.batch.token[i] = (number * 7919 + 101) % self.vocab
            self.batch.pos[i] = pos
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = seq
            self.batch.logits[i] = logits
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def warm(self):
        n = min(512, max(self.prompts))
        self.decode([(i, i, 0, i == n - 1) for i in range(n)])
        self.decode([(n, n, 0, True)])

    def timed(self, n_tokens, steps):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        start = time.perf_counter()
        for places in steps:
            self.decode(places)
        llama_cpp.llama_synchronize(self.context)
        return n_tokens / (time.perf_counter() - start)

    def measure(self):
        speed = {}
        for n in self.prompts:
            speed[f"pp{n}"] = self.timed(
                n, ([(i, i, 0, i == n - 1) for i in range(first, min(n, first + 512))]
                    for first in range(0, n, 512)))
        for n_seqs in self.batches:
            name = f"tg{self.gen}" + (f"x{n_seqs}" if n_seqs > 1 else "")
            speed[name] = self.timed(
                self.gen * n_seqs,
                ([(pos + s, pos, s, True) for s in range(n_seqs)] for pos in range(self.gen)))
        return speed


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", default="512")
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    if args.csv:
        print("date,file,threads,test,sluice_tokens_per_s,llama_tokens_per_s,ratio,share_of_limit",
              flush=True)
    else:
        print("| file | threads | test | Sluice | llama.cpp | ratio | % of limit |\n"
              "| --- | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    for path in args.files:
        for threads in map(int, args.threads.split(",")):
            other = Llama(path, threads, args)
            other.warm()
            rounds = [(sluice(path, threads, args), other.measure()) for _ in range(args.rounds)]
            other.close()
            for test in rounds[0][1]:
                ours = statistics.median(r[0][test][0] for r in rounds)
                theirs = statistics.median(r[1][test] for r in rounds)
                ratio = statistics.median(r[0][test][0] / r[1][test] for r in rounds)
                share = statistics.median(r[0][test][1] for r in rounds)
                name = os.path.basename(path)
                if args.csv:
                    print(f"{datetime.date.today()},{name},{threads},{test},{ours:.1f},"
                          f"{theirs:.1f},{ratio:.2f},{share:.2f}", flush=True)
                else:
                    print(f"| {name} | {threads} | {test} | {ours:.1f} | {theirs:.1f} | "
                          f"{ratio:.2f} | {100 * share:.0f} |", flush=True)


if __name__ == "__main__":
    main()
