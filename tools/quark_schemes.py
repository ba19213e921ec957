"""Makes tests/golden/quark_schemes.json: what AMD Quark writes for each scheme and each shape, on the CPU.

The checkpoint is a function of tensor and position (tests/quantize/scheme_checkpoint.h is its twin in C++). Each
tensor is quantized alone first, since Quark refuses some shapes for some schemes (its error is recorded); then
all that it accepts together, for the whole files.

    python tools/quark_schemes.py WORK_DIR > tests/golden/quark_schemes.json
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys

import numpy as np
import quark
import xxhash
from quark.torch import ModelQuantizer
from quark.torch.quantization.config.template import LLMTemplate
from quark_golden import file_hash
from quark_mixed import U64, float_bits, splitmix64
from safetensors import safe_open

SCHEMES = [
    "mxfp4", "mxfp4_weight_only", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_mxfp6_e2m3", "mxfp4_fp8", "nvfp4",
    "fp4_block16_scale_e4m3", "ptpc_fp8", "fp8", "int8", "int4_wo_32", "int4_wo_64", "int4_wo_128",
    "int4_wo_per_channel", "int4_wa_64", "uint4_wo_32", "uint4_wo_64", "uint4_wo_128", "uint4_wo_per_channel",
    "int4_fp8",
]  # fmt: skip

# name, dtype, shape, values: "hard" as tools/quark_mixed.py, "weights" as trained ones, or one value.
TABLE = [
    ("model.a.weight", "BF16", (16, 32), "hard"),
    ("model.b.weight", "BF16", (8, 96), "hard"),
    ("model.c.weight", "BF16", (24, 4128), "hard"),
    ("model.d.weight", "BF16", (1, 256), "hard"),
    ("model.e.weight", "BF16", (3, 8, 128), "hard"),
    ("model.f.weight", "F16", (16, 128), "hard"),
    ("model.g.weight", "F32", (16, 128), "hard"),
    ("model.h.weight", "BF16", (64, 256), "weights"),
    ("model.i.weight", "F16", (64, 256), "weights"),
    ("model.j.weight", "F32", (64, 256), "weights"),
    ("model.k.weight", "BF16", (12, 128), "weights"),
    ("model.l.weight", "BF16", (3, 16, 64), "weights"),
    ("model.m.weight", "BF16", (8, 128), 0.0),
    ("model.n.weight", "F16", (8, 128), 0.0),
    ("model.o.weight", "F32", (8, 128), -2.5),
    ("model.p.weight", "BF16", (1, 32), "weights"),
    ("model.q.weight", "F16", (24, 4128), "weights"),
    ("model.r.weight", "F32", (24, 4128), "weights"),
]


def value_bits(tensor, count, values):
    if values == "hard":
        return float_bits(tensor, 0, (count + 31) // 32 * 32)[:count]
    if values == "weights":
        h = splitmix64((U64(tensor) << U64(40)) + np.arange(count, dtype=U64))
        bits = ((U64(122) - (h >> U64(32) & U64(7))) << U64(23)) | (h >> U64(8) & U64(0x7FFFFF))
        return (bits | (h & U64(1)) << U64(31)).astype(np.uint32)
    return np.full(count, values, np.float32).view(np.uint32)


def tensor_bytes(tensor, dtype, count, values):
    bits = value_bits(tensor, count, values)
    if dtype == "F32":
        return bits.tobytes()
    if dtype == "BF16":
        return (bits >> 16).astype(np.uint16).tobytes()
    if values != "hard":
        return bits.view(np.float32).astype(np.float16).tobytes()
    half = (bits >> 13 & 0x7FFF) | (bits >> 16 & 0x8000)
    return np.where(half & 0x7C00 == 0x7C00, half & 0xBFFF, half).astype(np.uint16).tobytes()


def write_checkpoint(directory, members):
    os.makedirs(directory)
    header, data = {}, b""
    for t in members:
        name, dtype, shape, values = TABLE[t]
        piece = tensor_bytes(t, dtype, int(np.prod(shape)), values)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)
    with open(os.path.join(directory, "config.json"), "w") as f:
        f.write('{"model_type": "llama", "torch_dtype": "bfloat16"}')


def run_quark(scheme, layer_config, source, output):
    config = LLMTemplate.get("llama").get_config(scheme=scheme, exclude_layers=[], layer_config=layer_config)
    ModelQuantizer(config).direct_quantize_checkpoint(pretrained_model_path=source, save_path=output, device="cpu")


def tensors_of(path):
    result = {}
    with safe_open(path, "np") as f, open(path, "rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
        for name in sorted(header):
            begin, end = header[name]["data_offsets"]
            raw.seek(8 + size + begin)
            digest = xxhash.xxh3_64(raw.read(end - begin)).hexdigest()
            result[name] = [header[name]["dtype"], header[name]["shape"], digest]
    return result


def golden_of(scheme, layer_config, work):
    entry = {"tensors": {}, "refused": {}}
    accepted = []
    for t, row in enumerate(TABLE):
        source, output = os.path.join(work, "in"), os.path.join(work, "out")
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
        write_checkpoint(source, [t])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run_quark(scheme, layer_config, source, output)
            entry["tensors"].update(tensors_of(os.path.join(output, "model.safetensors")))
            accepted.append(t)
        except Exception as error:
            entry["refused"][row[0]] = f"{type(error).__name__}: {str(error)[:160]}"
    shutil.rmtree(source)
    shutil.rmtree(output, ignore_errors=True)
    if not accepted:
        return entry
    write_checkpoint(source, accepted)
    with contextlib.redirect_stdout(io.StringIO()):
        run_quark(scheme, layer_config, source, output)
    entry["shard"] = file_hash(os.path.join(output, "model.safetensors"))
    entry["index"] = file_hash(os.path.join(output, "model.safetensors.index.json"))
    with open(os.path.join(output, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    del config["quantization_config"]["version"]
    text = json.dumps(config, ensure_ascii=False, indent=4)
    entry["config_without_version"] = xxhash.xxh3_64(text.encode()).hexdigest()
    entry["config"] = config["quantization_config"]
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work_dir")
    parser.add_argument("--schemes", nargs="*", default=SCHEMES)
    args = parser.parse_args()
    result = {"quark_version": quark.__version__, "source": {}, "schemes": {}}
    with np.errstate(over="ignore"):
        for t, (name, dtype, shape, values) in enumerate(TABLE):
            data = tensor_bytes(t, dtype, int(np.prod(shape)), values)
            result["source"][name] = xxhash.xxh3_64(data).hexdigest()
        for scheme in args.schemes:
            print(scheme, file=sys.stderr)
            result["schemes"][scheme] = golden_of(scheme, None, args.work_dir)
        mixed = {"*.h": "ptpc_fp8", "*.[a-i]": "mxfp6_e2m3", "*.j": "int8", "*.q": "fp8", "*.k": "int4_wo_128"}
        result["layer_config"] = {"patterns": mixed, **golden_of("mxfp4", mixed, args.work_dir)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
