"""Writes a checkpoint of one shard of about SIZE_GB gigabytes of BF16 weights, one tensor of them half of it.

For the constant-memory measurement: python tools/big_shard.py OUTPUT_DIR --size_gb 4.5
"""

import argparse
import json
import os
import random


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output_dir")
    parser.add_argument("--size_gb", type=float, default=4.5)
    args = parser.parse_args()
    os.makedirs(args.output_dir, exist_ok=True)
    columns = 6144
    small_rows = 3072
    total_rows = int(args.size_gb * 1e9) // (2 * columns)
    rows = [total_rows // 2] + [small_rows] * (total_rows // 2 // small_rows)
    header, offset = {}, 0
    for i, r in enumerate(rows):
        name = f"language_model.model.layers.0.block_sparse_moe.experts.{i}.w1.weight"
        header[name] = {"dtype": "BF16", "shape": [r, columns], "data_offsets": [offset, offset + 2 * r * columns]}
        offset += 2 * r * columns
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = random.Random(1)
    # Exponents 120..123, any sign and mantissa.
    piece = b"".join(
        ((rng.getrandbits(1) << 15) | (rng.randrange(120, 124) << 7) | rng.getrandbits(7)).to_bytes(2, "little")
        for _ in range(1 << 20)
    )
    with open(os.path.join(args.output_dir, "model-00001-of-00001.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        while offset > 0:
            f.write(piece[:offset])
            offset -= min(offset, len(piece))
    with open(os.path.join(args.output_dir, "config.json"), "w") as f:
        f.write('{"model_type": "minimax_m3_vl", "torch_dtype": "bfloat16"}')


if __name__ == "__main__":
    main()
