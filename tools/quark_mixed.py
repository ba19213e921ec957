"""Writes a checkpoint whose weights are hard to quantize, the same on every machine.

Blocks of zeros, subnormals, outliers 2^60 apart, every rounding tie and its neighbours, every exponent; BF16,
FP16 and F32 weights, a 3-D weight, a 1-D weight that Quark casts, tensors that are copied. Values are a
counter-based function (splitmix64) of tensor and position; tests/quantize/mixed_checkpoint.h is its twin in C++.

    python tools/quark_mixed.py OUTPUT_DIR [--rows 96 --cols 1024]      (large: --rows 1536 --cols 6144)
"""

import argparse
import json
import os

import numpy as np

U64 = np.uint64
MODULE = "language_model.model.layers.0."


def tensor_table(rows, cols):
    experts = MODULE + "block_sparse_moe.experts."
    table = [(f"{experts}{e}.w1.weight", "BF16", (rows, cols)) for e in range(10)]
    table += [
        (experts + "10.w1.weight", "F16", (rows, cols)),
        (experts + "11.w1.weight", "F32", (rows, cols)),
        (experts + "11.w2.weight", "BF16", (cols, rows)),
        (MODULE + "block_sparse_moe.conv.weight", "BF16", (3, rows, cols // 8)),
        (MODULE + "block_sparse_moe.gate.weight", "F32", (8, cols)),
        (MODULE + "block_sparse_moe.layer_scale.weight", "F32", (cols,)),
        (MODULE + "input_layernorm.weight", "F32", (cols,)),
        (MODULE + "self_attn.q_proj.weight", "BF16", (rows, cols)),
        ("language_model.model.embed_tokens.weight", "BF16", (rows, cols)),
    ]
    return table


def splitmix64(x):
    x = x + U64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


# Multiples of a quarter that are ties between E2M1 values, and 6, which fixes the scale.
TIES = np.array([24, 1, 3, 5, 7, 10, 14, 20], dtype=np.float32) / np.float32(4)


def float_bits(tensor, begin, count):
    """Bits of binary32 values [begin, begin + count) of a tensor; begin is a multiple of 32."""
    i = np.arange(begin, begin + count, dtype=U64)
    h = splitmix64((U64(tensor) << U64(40)) + i)
    b = splitmix64(~((U64(tensor) << U64(40)) + i // U64(32)))
    kind = (b & U64(7)).astype(np.int64)
    field = ((b >> U64(8)) % U64(255)).astype(np.int64)  # an exponent field of the block
    mantissa = (h >> U64(8) & U64(0x7FFFFF)).astype(np.int64)
    spread = (h >> U64(32) & U64(7)).astype(np.int64)
    first = (i % U64(32) == 0)
    power = (field % 200) + 25  # of 2, biased; leaves room for 6 and for a quarter
    tie = TIES[np.where(first, 0, spread)].view(np.int32).astype(np.int64) + ((power - 127) << 23)
    near = tie + np.where(first, 0, (h >> U64(40) & U64(1)).astype(np.int64) * 0x20000 - 0x10000)
    outlier = np.where(h >> U64(48) & U64(31) == 0, 60, 0)
    bits = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4, kind == 5],
        [
            np.zeros_like(mantissa),
            (np.minimum(spread, 2) << 23) | mantissa,
            ((60 + field % 100 + outlier - spread) << 23) | mantissa,
            tie,
            near,
            (np.maximum(field - spread, 0) << 23) | mantissa,
        ],
        ((118 - spread + field % 4) << 23) | mantissa,
    )
    sign = (h & U64(1)).astype(np.int64) << 31
    return (bits | sign).astype(np.uint32)


def tensor_bytes(tensor, dtype, begin, count):
    bits = float_bits(tensor, begin, count)
    if dtype == "F32":
        return bits.tobytes()
    if dtype == "BF16":
        return (bits >> 16).astype(np.uint16).tobytes()
    half = (bits >> 13 & 0x7FFF) | (bits >> 16 & 0x8000)  # any finite pattern
    return np.where(half & 0x7C00 == 0x7C00, half & 0xBFFF, half).astype(np.uint16).tobytes()


def write_checkpoint(directory, rows, cols):
    os.makedirs(directory, exist_ok=True)
    table = tensor_table(rows, cols)
    for shard, members in enumerate([list(range(0, 8)), list(range(8, len(table)))], 1):
        header, offset = {}, 0
        for t in members:
            name, dtype, shape = table[t]
            size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(directory, f"model-{shard:05}-of-00002.safetensors"), "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for t in members:
                _, dtype, shape = table[t]
                count = int(np.prod(shape))
                for begin in range(0, count, 1 << 20):
                    f.write(tensor_bytes(t, dtype, begin, min(1 << 20, count - begin)))
    with open(os.path.join(directory, "config.json"), "w") as f:
        f.write('{"model_type": "minimax_m3_vl", "torch_dtype": "bfloat16"}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output_dir")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--cols", type=int, default=1024)
    args = parser.parse_args()
    with np.errstate(over="ignore"):
        write_checkpoint(args.output_dir, args.rows, args.cols)


if __name__ == "__main__":
    main()
