"""Makes tests/golden/quantize_sources: small checkpoints that are quantized already, and what must come of them.

FP8, MXFP8 and MXFP4 sources, which AMD Quark does not read on a CPU, are dequantized here with NumPy from the
definition of the formats; Quark quantizes the result. Sources of compressed-tensors are made by that package and
read by Quark itself. golden.json holds dtype, shape and hash of every tensor of Quark's output.

    python tools/quantize_sources.py tests/golden/quantize_sources
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile

import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from quark.torch import ModelQuantizer
from quark.torch.quantization.config.template import LLMTemplate
from quark.torch.quantization.file2file_quantization import _build_exclude_aware_quant_config
from quark_schemes import tensors_of

DTYPES = {"F32": np.float32, "BF16": np.uint16, "U8": np.uint8, "I8": np.int8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
          "F8_E8M0": np.uint8, "I32": np.int32, "I64": np.int64}  # fmt: skip
EXCLUDE = ["*.excluded"]
rng = np.random.default_rng(2026)


def write_shard(path, tensors):
    """tensors: name -> (dtype, array of that dtype's bits)"""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        piece = np.ascontiguousarray(array, dtype=DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)


def write_checkpoint(directory, shards, quantization=None, extra=None):
    os.makedirs(directory)
    weight_map = {}
    for i, tensors in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(os.path.join(directory, name), tensors)
        weight_map.update({t: name for t in tensors})
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": weight_map}, f)
    config = {"model_type": "llama", "torch_dtype": "bfloat16", **(extra or {})}
    if quantization:
        config["quantization_config"] = quantization
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(config, f)


# --- the formats, from their definitions ---------------------------------------------------------------------


def minifloat(codes, exponent_bits, mantissa_bits, bias):
    codes = codes.astype(np.int64)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
    sign = np.where(codes >> (exponent_bits + mantissa_bits) & 1, -1.0, 1.0)
    subnormal = np.ldexp(mantissa.astype(np.float64), 1 - bias - mantissa_bits)
    normal = np.ldexp(1.0 + mantissa / (1 << mantissa_bits), exponent - bias)
    return (sign * np.where(exponent == 0, subnormal, normal)).astype(np.float32)


def e4m3(codes):
    return minifloat(codes, 4, 3, 7)


def e8m0(codes):
    return np.ldexp(np.float32(1), codes.astype(np.int64) - 127).astype(np.float32)


def e2m1(packed):
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return minifloat(codes, 2, 1, 1)


def grid(scales, shape, block, chunk_rows=None):
    """Scales spread over the values that they cover."""
    rows, cols = shape
    chunk_rows = chunk_rows or rows
    per_chunk = -(-chunk_rows // block[0])
    r = np.arange(rows)
    return scales[(r // chunk_rows * per_chunk + r % chunk_rows // block[0])[:, None], np.arange(cols) // block[1]]


def to_bf16(values):
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def random_e4m3(shape):
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.where(codes & 0x7F == 0x7F, codes ^ 1, codes)  # no NaN


def random_scales(shape):
    return (rng.random(shape, dtype=np.float32) + 0.5) * np.float32(2e-3)


# --- cases: (source shards, its quantization_config, plain tensors) -------------------------------------------


def plain(name, values):
    """What Quark quantizes, or what it writes for an excluded layer."""
    excluded = name.endswith(".excluded.weight")
    return ("BF16", to_bf16(values)) if excluded else ("F32", values)


def fp8_case():
    block, first, second, expected = (32, 64), {}, {}, {}
    for name in ("model.a.weight", "model.b.excluded.weight"):
        w, s = random_e4m3((80, 160)), random_scales((3, 3))
        first[name], second[name + "_scale_inv"] = ("F8_E4M3", w), ("F32", s)
        expected[name] = plain(name, e4m3(w) * grid(s, w.shape, block))
    w, s = random_e4m3((64, 96)), rng.integers(112, 124, (2, 2), dtype=np.uint8)  # sibling .scale, E8M0
    first["model.c.weight"], first["model.c.scale"] = ("F8_E4M3", w), ("F8_E8M0", s)
    expected["model.c.weight"] = plain("", e4m3(w) * grid(e8m0(s), w.shape, block))
    w, s = random_e4m3((144, 64)), random_scales((6, 1))  # three chunks of 48 rows: blocks of 32 and 16
    first["model.d.qkv.weight"], first["model.d.qkv.weight_scale_inv"] = ("F8_E4M3", w), ("F32", s)
    expected["model.d.qkv.weight"] = plain("", e4m3(w) * grid(s, w.shape, block, 48))
    w, s = rng.integers(0, 256, (16, 48), dtype=np.uint8), rng.integers(110, 124, (16, 3), dtype=np.uint8)
    first["model.e.weight"], first["model.e.scale"] = ("I8", w.view(np.int8)), ("F8_E8M0", s)
    expected["model.e.weight"] = ("BF16", to_bf16(e2m1(w) * grid(e8m0(s), (16, 96), (1, 32))))
    for name, dtype in (("model.f.weight", "F32"), ("model.norm.weight", "F32"), ("model.b.excluded.bias", "F32")):
        shape = (8, 64) if name == "model.f.weight" else (64,)
        second[name] = expected[name] = (dtype, rng.standard_normal(shape, dtype=np.float32))
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(block),
              "presharded_weights": {"*.qkv.weight": 48}}  # fmt: skip
    return [first, second], config, expected


def mxfp8_case():
    source, expected = {}, {}
    for name in ("model.a.weight", "model.b.excluded.weight"):
        w, s = random_e4m3((24, 160)), rng.integers(110, 126, (24, 5), dtype=np.uint8)
        source[name], source[name + "_scale_inv"] = ("F8_E4M3", w), ("U8", s)
        expected[name] = plain(name, e4m3(w) * grid(e8m0(s), w.shape, (1, 32)))
    source["model.norm.weight"] = expected["model.norm.weight"] = ("BF16", to_bf16(np.ones(64)))
    config = {"quant_method": "mxfp8", "activation_scheme": "dynamic", "weight_block_size": [1, 32]}
    return [source], config, expected


def quark_mxfp4_case():
    source, expected = {}, {}
    for name in ("model.a.weight", "model.b.excluded.weight"):
        w, s = rng.integers(0, 256, (24, 80), dtype=np.uint8), rng.integers(110, 126, (24, 5), dtype=np.uint8)
        source[name], source[name + "_scale"] = ("U8", w), ("U8", s)
        expected[name] = ("BF16", to_bf16(e2m1(w) * grid(e8m0(s), (24, 160), (1, 32))))
    return [source], {"quant_method": "quark", "exclude": []}, expected


def compressed_case(form, dtype="BF16", **args):
    args = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)()
    source = {}
    for name, shape in (("model.a", (24, 160)), ("model.b.excluded", (16, 64)), ("model.c", (16, 96))):
        weight = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        groups = {"tensor": (1,), "channel": (shape[0], 1), "group": (shape[0], shape[1] // (args.group_size or 1))}
        spread = weight.reshape(groups[args.strategy][0], -1) if args.strategy == "tensor" else weight.reshape(
            -1, shape[1] // groups[args.strategy][1])  # fmt: skip
        low, high = spread.amin(1).clamp(max=0), spread.amax(1).clamp(min=0)
        levels = 448.0 if args.type == "float" else 2 ** (args.num_bits - 1) - 0.5
        half = torch.maximum(-low, high) if args.symmetric else (high - low) / 2
        scale = (half / levels).reshape(groups[args.strategy]).to(torch.bfloat16)
        state = {"weight": weight, "weight_scale": scale}
        if not args.symmetric:
            zero = torch.round(-low.reshape(scale.shape) / scale.float()) - 2 ** (args.num_bits - 1)
            state["weight_zero_point"] = zero.clamp(-(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1).to(torch.int8)
        for key, tensor in compressor.compress(state, scheme).items():
            source[f"{name}.{key}"] = tensor
    source["model.norm.weight"] = torch.ones(64, dtype=torch.bfloat16)
    weights = {"num_bits": args.num_bits, "type": args.type, "strategy": args.strategy, "group_size": args.group_size,
               "symmetric": args.symmetric}  # fmt: skip
    config = {"quant_method": "compressed-tensors", "format": form,
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}  # fmt: skip
    return source, json.loads(json.dumps(config, default=lambda v: v.value)), None


def mxfp4_pack_case():
    """compressed-tensors' own MXFP4, with random numbers of its own: it came after the others."""
    own = np.random.default_rng(20261125)
    args = QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32, symmetric=True,
                            scale_dtype=torch.uint8)
    compressor = BaseCompressor.get_value_from_registry("mxfp4-pack-quantized")()
    source = {}
    for name, shape in (("model.a", (24, 160)), ("model.b.excluded", (16, 64)), ("model.c", (16, 96))):
        weight = torch.from_numpy(own.standard_normal(shape, dtype=np.float32))
        peaks = weight.reshape(shape[0], -1, 32).abs().amax(2)
        scale = torch.exp2(torch.floor(torch.log2(peaks)) - 2)
        state = {"weight": weight.to(torch.bfloat16), "weight_scale": scale.to(torch.bfloat16)}
        for key, tensor in compressor.compress(state, QuantizationScheme(targets=["Linear"], weights=args)).items():
            source[f"{name}.{key}"] = tensor
    source["model.norm.weight"] = torch.ones(64, dtype=torch.bfloat16)
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    config = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}  # fmt: skip
    return source, config, None


def fused_case():
    """Plain weights, experts in stacks: the weight converters of the template qwen3_5_moe take them apart."""
    moe = "model.layers.0.mlp.experts."
    shapes = {moe + "gate_up_proj": (3, 64, 96), moe + "down_proj": (3, 96, 32), "model.x.weight": (8, 64)}
    source = {name: ("BF16", to_bf16(rng.standard_normal(shape, dtype=np.float32))) for name, shape in shapes.items()}
    return [source], None, source


CASES = {
    "fused": fused_case,
    "fp8": fp8_case,
    "mxfp8": mxfp8_case,
    "quark_mxfp4": quark_mxfp4_case,
    "ct_int4_group": lambda: compressed_case("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=True),
    "ct_int4_group_zero": lambda: compressed_case("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False),
    "ct_int3_channel": lambda: compressed_case("pack-quantized", num_bits=3, type="int", strategy="channel", symmetric=True),
    "ct_int8_pack_zero": lambda: compressed_case("pack-quantized", num_bits=8, type="int", strategy="channel", symmetric=False),
    "ct_int_quantized": lambda: compressed_case("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True),
    "ct_float_tensor": lambda: compressed_case("float-quantized", num_bits=8, type="float", strategy="tensor", symmetric=True),
    "ct_float_channel": lambda: compressed_case("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True),
    "ct_naive_group_zero": lambda: compressed_case("naive-quantized", num_bits=8, type="int", strategy="group", group_size=32, symmetric=False),
    "ct_mxfp4_pack": mxfp4_pack_case,
}  # fmt: skip


def kept_config(directory):
    """What Quark's config says when excluded layers stay in the source's format."""
    config = LLMTemplate.get("llama").get_config(scheme="mxfp4", exclude_layers=EXCLUDE)
    with open(os.path.join(directory, "config.json")) as f:
        kept = _build_exclude_aware_quant_config(directory, config, json.load(f), True).to_dict()
    return {"exclude": sorted(kept["exclude"]), "layer_quant_config": kept["layer_quant_config"]}


def quark_output(source, scheme, converters=None):
    output = tempfile.mkdtemp()
    config = LLMTemplate.get("llama").get_config(scheme=scheme, exclude_layers=EXCLUDE)
    with contextlib.redirect_stdout(io.StringIO()):
        ModelQuantizer(config).direct_quantize_checkpoint(pretrained_model_path=source, save_path=output, device="cpu",
                                                           weight_converters=converters)  # fmt: skip
    tensors = {}
    for name in sorted(os.listdir(output)):
        if name.endswith(".safetensors"):
            tensors.update(tensors_of(os.path.join(output, name)))
    shutil.rmtree(output)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output_dir")
    args = parser.parse_args()
    shutil.rmtree(args.output_dir, ignore_errors=True)
    golden = {}
    for name, make in CASES.items():
        print(name, file=sys.stderr)
        source, config, expected = make()
        directory = os.path.join(args.output_dir, name)
        if expected is None:  # Quark reads it itself
            from safetensors.torch import save_file

            os.makedirs(directory)
            save_file(source, os.path.join(directory, "model.safetensors"))
            with open(os.path.join(directory, "config.json"), "w") as f:
                json.dump({"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": config}, f)
            reference = directory
        else:
            write_checkpoint(directory, source, config, {"model_type": "qwen3_5_moe"} if name == "fused" else None)
            reference = os.path.join(tempfile.mkdtemp(), "plain")
            write_checkpoint(reference, [expected])
        converters = LLMTemplate.get("qwen3_5_moe").f2f_weight_converters if name == "fused" else None
        golden[name] = {s: quark_output(reference, s, converters) for s in ("mxfp4", "int4_wo_32")}
        if name == "fp8":
            golden[name]["kept"] = kept_config(directory)
    with open(os.path.join(args.output_dir, "golden.json"), "w") as f:
        json.dump(golden, f, indent=1)


if __name__ == "__main__":
    main()
