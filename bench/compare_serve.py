#!/usr/bin/env python3
"""The server beside llama.cpp's on the same GGUF file, in one run, under `sluice bench-serve`.

usage: compare_serve.py [--clients N,N] [--requests N] [--input N] [--output N] [--threads N]
                        [--rounds N] LLAMA_SERVER FILE.gguf

LLAMA_SERVER is the program that llama.cpp (the source that llama-cpp-python bundles) builds with
-DGGML_NATIVE=ON. For each number of clients both serve the same requests, one server after the
other, in rounds; a row has medians over the rounds. CSV on standard output.
"""
import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

SLUICE = os.environ.get("SLUICE", "build/sluice")


def start(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return process
        except OSError:
            if process.poll() is not None:
                sys.exit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.1)
    sys.exit(f"{command[0]} does not answer")


def measure(command, port, clients, args, name):
    process = start(command, port)
    try:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            for n in (min(clients, 2), max(args.requests, clients)):  # the first warms up
                subprocess.run([SLUICE, "bench-serve", "--url", f"http://127.0.0.1:{port}",
                                "--model-name", name, "--requests", str(n), "--concurrency",
                                str(clients), "--input-len", str(args.input), "--output-len",
                                str(args.output), "--seed", "1", "--save-result", file.name],
                               check=True, stdout=subprocess.DEVNULL)
            return json.load(open(file.name, encoding="utf-8"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--input", type=int, default=64)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("llama_server")
    parser.add_argument("file")
    args = parser.parse_args()
    keys = ["output_throughput", "median_ttft_ms", "median_itl_ms"]
    print("date,model,input,output,clients,server," + ",".join(keys), flush=True)
    name = os.path.basename(args.file).removesuffix(".gguf")
    for clients in map(int, args.clients.split(",")):
        context = (args.input + args.output + 16) * clients
        servers = {
            "sluice": [SLUICE, "serve", args.file, "-q", "--port", "8101", "-t", str(args.threads),
                       "--max-seqs", str(clients)],
            "llama.cpp": [args.llama_server, "-m", args.file, "--port", "8102", "-t",
                          str(args.threads), "-np", str(clients), "-c", str(context)]}
        reports = {server: [] for server in servers}
        for _ in range(args.rounds):
            for server, command in servers.items():
                port = 8101 if server == "sluice" else 8102
                reports[server].append(measure(command, port, clients, args, name))
        for server, rounds in reports.items():
            row = [datetime.date.today(), name, args.input, args.output, clients, server]
            row += [f"{statistics.median(r[key] for r in rounds):.1f}" for key in keys]
            print(",".join(map(str, row)), flush=True)


if __name__ == "__main__":
    main()
