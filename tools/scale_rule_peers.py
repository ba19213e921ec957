"""`--scale_rule even|floor|ceil|rceil` against torchao's MX formats: every scale byte and every value.

    python tools/scale_rule_peers.py WORK_DIR [--quern build/release/bin/quern]

Needs `pip install torch torchao numpy`. Blocks whose largest magnitude takes each of the 128 BF16 mantissas at exponents
-100 .. 100, and normal weights. Scales below 2^-126 are left out: Quark's files have none.
"""

import argparse
import json
import pathlib
import shutil
import struct
import subprocess

import numpy
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx

VALUES = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6])


def weights():
    generator = torch.Generator().manual_seed(20261125)
    rows = []
    for exponent in range(-100, 101):
        peaks = (1 + torch.arange(128) / 128) * 2.0**exponent
        blocks = (torch.rand(128, 32, generator=generator) * 2 - 1) * peaks[:, None]
        blocks[:, 7] = peaks
        rows.append(blocks.reshape(4, 1024))
    rows.append(torch.randn(256, 1024, generator=generator) * 0.02)
    return torch.cat(rows).to(torch.bfloat16)


def write_checkpoint(directory, weight):
    directory.mkdir(parents=True)
    data = weight.view(torch.int16).numpy().tobytes()
    header = json.dumps({"m.weight": {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [0, len(data)]}})
    header += " " * (-len(header) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    (directory / "config.json").write_text('{"model_type": "x"}')


def read_output(directory):
    blob = (directory / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", blob[:8])[0]
    header, data = json.loads(blob[8:8 + length]), blob[8 + length:]

    def tensor(name):
        begin, end = header[name]["data_offsets"]
        return torch.from_numpy(numpy.frombuffer(data[begin:end], numpy.uint8).copy()).reshape(header[name]["shape"])

    return tensor("m.weight"), tensor("m.weight_scale")


def values(packed):
    low, high = packed & 15, packed >> 4
    return VALUES[torch.stack([low, high], -1).reshape(packed.shape[0], -1).long()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work_dir", type=pathlib.Path)
    parser.add_argument("--quern", default="build/release/bin/quern")
    args = parser.parse_args()
    shutil.rmtree(args.work_dir, ignore_errors=True)
    weight = weights()
    write_checkpoint(args.work_dir / "source", weight)
    for rule in ("even", "floor", "ceil", "rceil"):
        output = args.work_dir / rule
        subprocess.run([args.quern, "quantize", "--model_dir", args.work_dir / "source", "--output_dir", output,
                        "--scale_rule", rule, "--exclude_layers", "none", "--no_report"], check=True,
                       capture_output=True)
        packed, scale = read_output(output)
        mode = ScaleCalculationMode[rule.upper()]
        peer_scale, peer_packed = to_mx(weight, torch.float4_e2m1fn_x2, 32, mode)
        scales = (peer_scale.view(torch.uint8).reshape(scale.shape) != scale).sum().item()
        other = (values(peer_packed.view(torch.uint8).reshape(packed.shape)) != values(packed)).sum().item()
        print(f"{rule:<6} {scale.numel()} scales, {scales} differ; {weight.numel()} values, {other} differ")
        assert scales == 0 and other == 0, rule


if __name__ == "__main__":
    main()
