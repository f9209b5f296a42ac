#!/usr/bin/env python3
"""Writes tests/tensor/quant_golden.bin: block formats as the gguf package reads and writes them.

usage: tools/make_quant_golden.py OUT      (needs numpy and gguf)

Records: name[16], u32 n elements, u32 n bytes, u32 what (0: the package read the bytes to the
floats, 1: it quantized the floats to the bytes), the bytes, the floats. All little-endian.
"""
import struct
import sys

import gguf
import numpy as np

# name, type, offsets of the f16 fields in a group
FORMATS = [
    ("q4_0", [0]), ("q4_1", [0, 2]), ("q5_0", [0]), ("q5_1", [0, 2]), ("q8_0", [0]),
    ("q2_k", [80, 82]), ("q3_k", [108]), ("q4_k", [0, 2]), ("q5_k", [0, 2]), ("q6_k", [208]),
    ("iq4_nl", [0]), ("iq4_xs", [0]), ("mxfp4", []),
]


def record(out, name, raw, floats, what):
    raw, floats = raw.astype(np.uint8).ravel(), floats.astype("<f4").ravel()
    out.write(struct.pack("<16sIII", name.encode(), floats.size, raw.size, what))
    out.write(raw.tobytes() + floats.tobytes())


def random_groups(rng, name, f16_at):
    kind = gguf.GGMLQuantizationType[name.upper()]
    group_len, group_bytes = gguf.GGML_QUANT_SIZES[kind]
    n = 16 if group_len == 32 else 4
    raw = rng.integers(0, 256, (n, group_bytes), dtype=np.uint8)
    for at in f16_at:
        scales = (rng.standard_normal(n) * 10.0 ** rng.integers(-7, 3, n)).astype("<f2")
        raw[:, at:at + 2] = scales.view(np.uint8).reshape(n, 2)
    if name == "mxfp4":  # the package reads the NaN exponent as a number
        raw[:, 0] = np.minimum(raw[:, 0], 250)
        raw[:2, 0] = [0, 1]
    return kind, raw


def quantize_input(rng):
    x = rng.standard_normal((12, 32)).astype(np.float32)
    x[0] = 0
    x[1] = np.arange(32) - 16  # whole steps
    x[2] = (np.arange(32) - 16) / 2 + 0.25  # ties
    x[3] = 1e-9
    x[4] = -x[5]
    x[6, 3] = 3e4
    x[7] = np.abs(x[7])
    return x


def main():
    rng = np.random.default_rng(7)
    with open(sys.argv[1], "wb") as out:
        for name, f16_at in FORMATS:
            kind, raw = random_groups(rng, name, f16_at)
            with np.errstate(all="ignore"):
                record(out, name, raw, gguf.quants.dequantize(raw, kind), 0)
        for name in ("q8_0", "q4_0"):
            x = quantize_input(rng)
            with np.errstate(all="ignore"):
                kind = gguf.GGMLQuantizationType[name.upper()]
                record(out, name, gguf.quants.quantize(x, kind), x, 1)


if __name__ == "__main__":
    main()
