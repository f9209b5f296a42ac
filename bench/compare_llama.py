#!/usr/bin/env python3
"""Prefill and decode speed beside llama.cpp's on the same GGUF files, interleaved in one run.

usage: compare_llama.py [--rounds N] [--threads N,N] [--prompt N] [--gen N] FILE.gguf...

Needs llama-cpp-python (PyPI, built with CMAKE_ARGS=-DGGML_NATIVE=ON). Each round times Sluice and
llama.cpp one after the other, so that both see the same load of the machine; the table gives
medians over the rounds and the median of the rounds' ratios. Markdown on standard output.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import llama_cpp

SLUICE = os.environ.get("SLUICE", "build/sluice")


def sluice(path, threads, prompt, gen):
    out = subprocess.run(
        [SLUICE, "bench", path, "-q", "-o", "json", "-r", "1", "-t", str(threads), "--n-prompt",
         str(prompt), "--n-gen", str(gen)], check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    speed = {test["test"]: test["tokens_per_s"] for test in report["tests"]}
    return speed[f"pp{prompt}"], speed[f"tg{gen}"]


class Llama:
    def __init__(self, path, threads, prompt, gen):
        self.model = llama_cpp.Llama(path, n_ctx=max(prompt, gen) + 16, n_batch=512, n_ubatch=512,
                                     n_threads=threads, n_threads_batch=threads, verbose=False)
        vocab = self.model.n_vocab()
        self.tokens = [(i * 7919 + 101) % vocab for i in range(max(prompt, gen))]
        self.prompt, self.gen = prompt, gen

    def measure(self):
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(self.tokens[:self.prompt])
        prefill = self.prompt / (time.perf_counter() - start)
        self.model.reset()
        start = time.perf_counter()
        for token in self.tokens[:self.gen]:
            self.model.eval([token])
        return prefill, self.gen / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    print(f"| file | threads | pp{args.prompt} Sluice | llama.cpp | ratio | tg{args.gen} Sluice "
          "| llama.cpp | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for path in args.files:
        for threads in map(int, args.threads.split(",")):
            other = Llama(path, threads, args.prompt, args.gen)
            other.measure()
            rounds = [(*sluice(path, threads, args.prompt, args.gen), *other.measure())
                      for _ in range(args.rounds)]
            del other
            pp, tg, pp2, tg2 = (statistics.median(column) for column in zip(*rounds))
            pp_ratio = statistics.median(r[0] / r[2] for r in rounds)
            tg_ratio = statistics.median(r[1] / r[3] for r in rounds)
            print(f"| {os.path.basename(path)} | {threads} | {pp:.1f} | {pp2:.1f} | {pp_ratio:.2f} "
                  f"| {tg:.1f} | {tg2:.1f} | {tg_ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
