#!/usr/bin/env python3
"""Whole-model speed of PyTorch on the shapes of `sluice bench --shape`, for the same rows.

usage: bench_model_torch.py SHAPE [--batch 1,8] [--depth 512] [--gen 32] [--prompt 512,2048]
                            [--attention cudnn,flash]

A plain Llama, or a mixture in its place, in bf16 with made-up weights: what stands before and
behind attention in a layer is compiled by torch.compile, attention by scaled_dot_product_attention
with each of the backends of --attention, experts by grouped_mm over rows sorted by expert, the step
of all layers (a decode with its greedy pick, or a prompt) recorded in a CUDA graph. Keys and values
lie in one piece for each layer, so no paging is paid for, and the last of --depth positions is the
one that is decoded, so that their number is as even as the libraries like it. Prints CSV: shape,
attention, test, tokens/s, milliseconds; a test that fails is a line with its reason. Needs a GPU and
PyTorch 2.10 or newer.
"""
import argparse
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {
    "llama-3.2-1b": dict(dim=2048, layers=16, heads=32, kv=8, head=64, ff=8192, vocab=128256),
    "llama-3.1-8b": dict(dim=4096, layers=32, heads=32, kv=8, head=128, ff=14336, vocab=128256),
    "qwen3-30b-a3b": dict(dim=2048, layers=48, heads=32, kv=4, head=128, ff=768, vocab=151936,
                          experts=128, used=8),
}
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@torch.compile(dynamic=False)
def before(x, w, s, keys, values, pos, cos, sin):
    """Of a layer what stands before attention, and the cache. x [B, T, dim]; keys, values
    [B, kv, context, head]; pos [T]."""
    n, t, _ = x.shape
    h = F.rms_norm(x, (s["dim"],), w["n1"], 1e-5)
    q, k, v = F.linear(h, w["qkv"]).split((s["heads"] * s["head"], s["kv"] * s["head"],
                                           s["kv"] * s["head"]), -1)
    q, k, v = (a.view(n, t, -1, s["head"]).transpose(1, 2) for a in (q, k, v))
    if "experts" in s:
        q = F.rms_norm(q, (s["head"],), w["nq"], 1e-6)
        k = F.rms_norm(k, (s["head"],), w["nk"], 1e-6)
    q, k = rope(q, cos, sin), rope(k, cos, sin)
    keys.index_copy_(2, pos, k)
    values.index_copy_(2, pos, v)
    return q, k, v


def attend(q, k, v, s, keys, values, causal):
    """Not compiled, so that the backend asked for is taken. The heads of a single token that share
    keys stand as queries of one head, which is the same and needs no repeated keys."""
    n, heads, t, head = q.shape
    if causal:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    q = q.reshape(n, s["kv"], heads // s["kv"], head)
    return F.scaled_dot_product_attention(q, keys, values).reshape(n, heads, t, head)


def experts(h, w, s):
    """The mixture of the rows h [T, dim]: pairs of row and expert sorted by expert."""
    weight, expert = F.linear(h, w["router"]).float().softmax(-1).topk(s["used"], -1)
    weight = weight / weight.sum(-1, keepdim=True)
    expert, order = expert.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, w["numbers"], right=True).to(torch.int32)
    row = order // s["used"]
    gate, up = F.grouped_mm(h[row], w["gu"].transpose(1, 2), offs=ends).chunk(2, -1)
    out = F.grouped_mm(F.silu(gate) * up, w["down"].transpose(1, 2), offs=ends)
    out = out * weight.flatten()[order, None].to(out.dtype)
    return torch.zeros_like(h).index_add_(0, row, out)


@torch.compile(dynamic=False)
def after(x, a, w, s):
    n, t, _ = x.shape
    x = x + F.linear(a.transpose(1, 2).reshape(n, t, -1), w["o"])
    h = F.rms_norm(x, (s["dim"],), w["n2"], 1e-5)
    if "experts" in s:
        return x + experts(h.view(n * t, -1), w, s).view(n, t, -1)
    gate, up = F.linear(h, w["gu"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def layer(x, w, s, keys, values, pos, cos, sin, causal):
    q, k, v = before(x, w, s, keys, values, pos, cos, sin)
    return after(x, attend(q, k, v, s, keys, values, causal), w, s)


def weights(s):
    def made(*dims):
        return torch.randn(*dims, device="cuda", dtype=torch.bfloat16).mul_(dims[-1] ** -0.5)
    ones = torch.ones(s["dim"], device="cuda", dtype=torch.bfloat16)
    n = (s["experts"],) if "experts" in s else ()
    layers = [dict(n1=ones, n2=ones, qkv=made((s["heads"] + 2 * s["kv"]) * s["head"], s["dim"]),
                   o=made(s["dim"], s["heads"] * s["head"]), gu=made(*n, 2 * s["ff"], s["dim"]),
                   down=made(*n, s["dim"], s["ff"])) for _ in range(s["layers"])]
    if n:
        for w in layers:
            w.update(nq=ones[:s["head"]], nk=ones[:s["head"]], router=made(*n, s["dim"]),
                     numbers=torch.arange(*n, device="cuda"))
    return layers, made(s["vocab"], s["dim"]), made(s["vocab"], s["dim"])


def angles(pos, head):
    freq = 500000.0 ** (-torch.arange(0, head, 2, device="cuda") / head)
    a = pos[:, None] * freq[None]
    return a.cos().to(torch.bfloat16), a.sin().to(torch.bfloat16)


def record(run):
    """A call that replays what run queues, so that the host's time is none of it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


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
    cache = [[torch.zeros(n, s["kv"], depth, s["head"], device="cuda", dtype=torch.bfloat16)
              for _ in range(2)] for _ in layers]
    token = torch.randint(s["vocab"], (n, 1), device="cuda")
    pos = torch.tensor([depth - 1], device="cuda")
    cos, sin = angles(pos, s["head"])
    ones = layers[0]["n1"]

    def step():
        x = embed[token]
        for w, c in zip(layers, cache):
            x = layer(x, w, s, *c, pos, cos, sin, False)
        logits = F.linear(F.rms_norm(x, (s["dim"],), ones, 1e-5), head)
        token.copy_(logits.argmax(-1))

    return measure(record(step), repeat)


def prefill(s, model, n):
    layers, embed, head = model
    cache = [torch.zeros(1, s["kv"], n, s["head"], device="cuda", dtype=torch.bfloat16)
             for _ in range(2)]
    token = torch.randint(s["vocab"], (1, n), device="cuda")
    pos = torch.arange(n, device="cuda")
    cos, sin = angles(pos, s["head"])

    def run():
        x = embed[token]
        for w in layers:
            x = layer(x, w, s, *cache, pos, cos, sin, True)
        return F.linear(F.rms_norm(x[:, -1], (s["dim"],), layers[0]["n1"], 1e-5), head)

    return measure(record(run), 3)


def attempt(name, n, run, *args):
    """One line; what a library says when it fails is its first line."""
    try:
        seconds = run(*args)
        print(f"{name},{n / seconds:.1f},{seconds * 1e3:.3f}", flush=True)
    except (RuntimeError, torch.OutOfMemoryError) as e:
        print(f"{name},{str(e).splitlines()[0]}", flush=True)
    torch.cuda.empty_cache()


def main():
    numbers = lambda text: [int(x) for x in text.split(",") if x]
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--batch", type=numbers, default=[1])
    parser.add_argument("--depth", type=numbers, default=[512])
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--prompt", type=numbers, default=[])
    parser.add_argument("--attention", type=lambda text: text.split(","), default=["cudnn"])
    args = parser.parse_args()
    s = SHAPES[args.shape]
    torch.manual_seed(1)
    torch._dynamo.config.recompile_limit = 64
    with torch.no_grad():
        model = weights(s)
        for name in args.attention:
            with sdpa_kernel(BACKENDS[name]):
                for depth in args.depth:
                    for n in args.batch:
                        attempt(f"{args.shape},{name},tgx{n}@{depth}", n, decode, s, model, n,
                                depth, args.gen)
                for n in args.prompt:
                    attempt(f"{args.shape},{name},pp{n}", n, prefill, s, model, n)


if __name__ == "__main__":
    main()
