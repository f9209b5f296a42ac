"""PyTorch's attention on the shapes of bench_cuda_attn: cuDNN and FlashAttention-2, contiguous."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def median_us(fn, n):
    for _ in range(3):
        fn(0)
    times = []
    for i in range(n):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        fn(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return sorted(times)[n // 2]


def attend(backend, q, k, v, causal):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def randn(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def row(what, heads, kv, dim, seqs, length, us, rate):
    print(f"{what},{heads},{kv},{dim},{seqs},{length},{us:.1f},{rate}", flush=True)


def prefill(name, heads, kv, dim, length, causal):
    n = 16384 // length
    q, k, v = randn(n, heads, length, dim), randn(n, kv, length, dim), randn(n, kv, length, dim)
    us = median_us(lambda i: attend(BACKENDS[name], q, k, v, causal), 9)
    flops = 4 * heads * dim * length * length * n / (2 if causal else 1)
    what = f"{name} prefill {'causal' if causal else 'full'}"
    row(what, heads, kv, dim, n, length, us, f"{flops / us * 1e-6:.0f} TFLOP/s")


def decode(name, heads, kv, dim, n, length):
    size = 4 * kv * dim * n * length
    sets = max(1, int(250e6 / size) + 1)
    q = randn(n, heads, 1, dim)
    data = [(randn(n, kv, length, dim), randn(n, kv, length, dim)) for _ in range(sets)]
    us = median_us(lambda i: attend(BACKENDS[name], q, *data[i % sets], False), 40)
    row(f"{name} decode", heads, kv, dim, n, length, us, f"{size / us * 1e-6:.3f} TB/s")


def attempt(fn, *args):
    try:
        fn(*args)
    except Exception as e:  # a backend that does not take the shape
        print(fn.__name__, *args, str(e).split("\n")[0][:120], flush=True)


print(torch.cuda.get_device_name(), torch.__version__)
for name in BACKENDS:
    for length in (512, 1024, 2048, 4096, 8192, 16384):
        attempt(prefill, name, 16, 16, 128, length, True)
        attempt(prefill, name, 16, 16, 128, length, False)
        attempt(prefill, name, 32, 8, 128, length, True)
        attempt(prefill, name, 32, 32, 64, length, True)
    for seqs, length in ((1, 8192), (1, 65536), (8, 8192), (32, 2048), (128, 2048)):
        attempt(decode, name, 32, 8, 128, seqs, length)
