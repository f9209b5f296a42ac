#!/usr/bin/env python3
"""Whole-model speed of PyTorch on the shapes of `sluice bench --shape`, for the same rows.

usage: bench_model_torch.py SHAPE [--batch 1,8] [--depth 512] [--gen 32] [--prompt 512,2048]

A plain Llama in bf16 with made-up weights: what stands before and behind attention in a layer is
compiled by torch.compile, attention by scaled_dot_product_attention with the cuDNN backend first,
the decode step of all layers and the greedy pick recorded in a CUDA graph. Keys and values lie in
one piece for each layer, so no paging is paid for, and the last of --depth positions is the one
that is decoded, so that their number is as even as the libraries like it. Prints CSV: shape, test,
tokens/s, milliseconds; a test that does not fit in the GPU's memory is a line with its reason.
Needs a GPU and PyTorch 2.5 or newer.
"""
import argparse
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {
    "llama-3.2-1b": dict(dim=2048, layers=16, heads=32, kv=8, head=64, ff=8192, vocab=128256),
    "llama-3.1-8b": dict(dim=4096, layers=32, heads=32, kv=8, head=128, ff=14336, vocab=128256),
}


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@torch.compile(dynamic=False)
def before(x, w, s, cache, pos, cos, sin):
    """Of a layer what stands before attention, and the cache. x [B, T, dim]; cache: K and V
    [B, kv, context, head]; pos [T]."""
    n, t, _ = x.shape
    h = F.rms_norm(x, (s["dim"],), w["n1"], 1e-5)
    q, k, v = F.linear(h, w["qkv"]).split((s["heads"] * s["head"], s["kv"] * s["head"],
                                           s["kv"] * s["head"]), -1)
    q = rope(q.view(n, t, s["heads"], s["head"]).transpose(1, 2), cos, sin)
    k = rope(k.view(n, t, s["kv"], s["head"]).transpose(1, 2), cos, sin)
    v = v.view(n, t, s["kv"], s["head"]).transpose(1, 2)
    cache[0].index_copy_(2, pos, k)
    cache[1].index_copy_(2, pos, v)
    return q, k, v


def attend(q, k, v, s, cache, causal):
    """Not compiled, so that the first backend that can is taken. The heads of a single token that
    share keys stand as queries of one head, which is the same and needs no repeated keys."""
    n, heads, t, head = q.shape
    if causal:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    q = q.reshape(n, s["kv"], heads // s["kv"], head)
    return F.scaled_dot_product_attention(q, cache[0], cache[1]).reshape(n, heads, t, head)


@torch.compile(dynamic=False)
def after(x, a, w, s):
    n, t, _ = x.shape
    x = x + F.linear(a.transpose(1, 2).reshape(n, t, -1), w["o"])
    gate, up = F.linear(F.rms_norm(x, (s["dim"],), w["n2"], 1e-5), w["gu"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def layer(x, w, s, cache, pos, cos, sin, causal):
    q, k, v = before(x, w, s, cache, pos, cos, sin)
    return after(x, attend(q, k, v, s, cache, causal), w, s)


def weights(s):
    def made(n, k):
        return torch.randn(n, k, device="cuda", dtype=torch.bfloat16).mul_(k ** -0.5)
    ones = torch.ones(s["dim"], device="cuda", dtype=torch.bfloat16)
    layers = [dict(n1=ones, n2=ones, qkv=made((s["heads"] + 2 * s["kv"]) * s["head"], s["dim"]),
                   o=made(s["dim"], s["heads"] * s["head"]), gu=made(2 * s["ff"], s["dim"]),
                   down=made(s["dim"], s["ff"])) for _ in range(s["layers"])]
    return layers, made(s["vocab"], s["dim"]), made(s["vocab"], s["dim"])


def angles(pos, head):
    freq = 500000.0 ** (-torch.arange(0, head, 2, device="cuda") / head)
    a = pos[:, None] * freq[None]
    return a.cos().to(torch.bfloat16), a.sin().to(torch.bfloat16)


def measure(run, repeat):
    run()
    torch.cuda.synchronize()
    start = time.time()
    for _ in range(repeat):
        run()
    torch.cuda.synchronize()
    return (time.time() - start) / repeat


def decode(s, model, n, depth, repeat):
    layers, embed, head = model
    cache = [torch.zeros(2, n, s["kv"], depth, s["head"], device="cuda", dtype=torch.bfloat16)
             for _ in layers]
    token = torch.zeros(n, 1, device="cuda", dtype=torch.long)
    pos = torch.tensor([depth - 1], device="cuda")
    cos, sin = angles(pos, s["head"])
    ones = layers[0]["n1"]

    def step():
        x = embed[token]
        for w, c in zip(layers, cache):
            x = layer(x, w, s, c, pos, cos, sin, False)
        logits = F.linear(F.rms_norm(x, (s["dim"],), ones, 1e-5), head)
        token.copy_(logits.argmax(-1))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return measure(graph.replay, repeat)


def prefill(s, model, n):
    layers, embed, head = model
    cache = torch.zeros(2, 1, s["kv"], n, s["head"], device="cuda", dtype=torch.bfloat16)
    pos = torch.arange(n, device="cuda")
    token = ((pos * 7919 + 101) % s["vocab"])[None]
    cos, sin = angles(pos, s["head"])

    def run():
        x = embed[token]
        for w in layers:
            x = layer(x, w, s, cache, pos, cos, sin, True)
        return F.linear(F.rms_norm(x[:, -1], (s["dim"],), layers[0]["n1"], 1e-5), head)

    return measure(run, 3)


def attempt(shape, test, n, run, *args):
    try:
        seconds = run(*args)
        print(f"{shape},{test},{n / seconds:.1f},{seconds * 1e3:.3f}", flush=True)
    except torch.OutOfMemoryError as e:
        print(f"{shape},{test},{str(e).split('.')[0]}", flush=True)
    torch.cuda.empty_cache()


def main():
    numbers = lambda text: [int(x) for x in text.split(",") if x]
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--batch", type=numbers, default=[1])
    parser.add_argument("--depth", type=numbers, default=[512])
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--prompt", type=numbers, default=[])
    args = parser.parse_args()
    s = SHAPES[args.shape]
    torch.manual_seed(1)
    torch._dynamo.config.recompile_limit = 64
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with torch.no_grad(), sdpa_kernel(order, set_priority=True):
        model = weights(s)
        for depth in args.depth:
            for n in args.batch:
                attempt(args.shape, f"tgx{n}@{depth}", n, decode, s, model, n, depth,
                        args.gen)
        for n in args.prompt:
            attempt(args.shape, f"pp{n}", n, prefill, s, model, n)


if __name__ == "__main__":
    main()
