#!/usr/bin/env python3
"""Writes a synthetic MiniMax-M3 checkpoint, byte for byte the one tests/support writes in C++.

    tools/model_synthetic.py OUTPUT_DIR [--preset sel]     # sel: the checkpoint of tests/golden/model
    tools/model_synthetic.py --digest [--preset sel]       # sha256 over all tensors, and of config.json

Element i of tensor N with seed S:

    h = splitmix64(fnv1a64(N) xor S)                 fnv1a64: offset 0xcbf29ce484222325, prime 0x100000001b3
    r = splitmix64(h + i mod 2^64) >> 40             24 random bits
    t = 2 r + 1 - 2^24                               odd integer, |t| < 2^24, exact in float32
    v = float32(float64(t) * (scale * 2^-24) + offset)
    stored as F32, or as BF16 after rounding to nearest even

`scale` and `offset` are float32 numbers, so the float64 product is exact (24 x 24 bits) and a fused
multiply-add gives the same bits as two operations. splitmix64(x) is the finalizer of x + 0x9e3779b97f4a7c15.

The table `tensors()` gives scale and offset by kind. Linear weights have variance 1 / fan_in. Gains differ
where it helps tests: the norms of q and k, the router and lm_head are larger, so that attention is peaked,
experts differ clearly and the greedy token has a margin; o_proj and the down projections are smaller, so
that a rounding is not amplified by later choices of blocks and experts until nothing can be compared.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import struct

import numpy as np

MASK64 = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    seed: int = 1
    vocab_size: int = 512
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_dense_layers: int = 1
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 32
    rotary_dim: int = 16
    intermediate_size: int = 64
    dense_intermediate_size: int = 256
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    sparse_index_dim: int = 32
    sparse_topk_blocks: int = 4
    max_position_embeddings: int = 8192


PRESETS = {"sel": SyntheticConfig()}


def splitmix64(x):
    """One number (int) or many (uint64 array)."""
    if isinstance(x, int):
        return int(splitmix64(np.array([x & MASK64], dtype=np.uint64))[0])
    with np.errstate(over="ignore"):
        z = x + np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK64
    return h


def bf16_bits(values):
    """float32 -> BF16 bit patterns, round to nearest even (finite input)."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple
    scale: float  # a float32 value
    offset: float = 0.0  # a float32 value
    dtype: str = "BF16"


SUBLAYER_GAIN = 0.15


def linear_scale(fan_in, gain=1.0):
    """Uniform in +-scale has variance scale^2 / 3."""
    return float(np.float32(gain * math.sqrt(3.0 / fan_in)))


def tensors(c):
    """All tensors of the text tower in the release's names, in file order."""
    h, d = c.hidden_size, c.head_dim
    f32 = lambda x: float(np.float32(x))
    linear = lambda name, out, fan_in, gain=1.0, dtype="BF16": TensorSpec(
        name, (out, fan_in), linear_scale(fan_in, gain), 0.0, dtype)
    norm = lambda name, n, offset=0.0: TensorSpec(name, (n,), f32(0.1), f32(offset))

    out = [TensorSpec("language_model.model.embed_tokens.weight", (c.vocab_size, h), linear_scale(1)),
           linear("language_model.lm_head.weight", c.vocab_size, h, 4.0),
           norm("language_model.model.norm.weight", h)]
    for layer in range(c.num_hidden_layers):
        p = f"language_model.model.layers.{layer}."
        sparse = layer >= c.num_dense_layers
        out += [norm(p + "input_layernorm.weight", h),
                norm(p + "post_attention_layernorm.weight", h),
                linear(p + "self_attn.q_proj.weight", c.num_attention_heads * d, h),
                linear(p + "self_attn.k_proj.weight", c.num_key_value_heads * d, h),
                linear(p + "self_attn.v_proj.weight", c.num_key_value_heads * d, h),
                linear(p + "self_attn.o_proj.weight", h, c.num_attention_heads * d, SUBLAYER_GAIN),
                norm(p + "self_attn.q_norm.weight", d, 0.25),
                norm(p + "self_attn.k_norm.weight", d, 0.25)]
        if not sparse:
            out += [linear(p + "mlp.gate_proj.weight", c.dense_intermediate_size, h),
                    linear(p + "mlp.up_proj.weight", c.dense_intermediate_size, h),
                    linear(p + "mlp.down_proj.weight", h, c.dense_intermediate_size, SUBLAYER_GAIN)]
            continue
        i = c.intermediate_size
        moe = p + "block_sparse_moe."
        out += [linear(p + "self_attn.index_q_proj.weight", c.num_key_value_heads * c.sparse_index_dim, h),
                linear(p + "self_attn.index_k_proj.weight", c.sparse_index_dim, h),
                norm(p + "self_attn.index_q_norm.weight", c.sparse_index_dim),
                norm(p + "self_attn.index_k_norm.weight", c.sparse_index_dim),
                linear(moe + "gate.weight", c.num_local_experts, h, 4.0, "F32"),
                TensorSpec(moe + "e_score_correction_bias", (c.num_local_experts,), f32(0.1), 0.0, "F32")]
        for expert in range(c.num_local_experts):
            e = f"{moe}experts.{expert}."
            out += [linear(e + "w1.weight", i, h), linear(e + "w3.weight", i, h),
                    linear(e + "w2.weight", h, i, SUBLAYER_GAIN)]
        s = moe + "shared_experts."
        out += [linear(s + "gate_proj.weight", i, h), linear(s + "up_proj.weight", i, h),
                linear(s + "down_proj.weight", h, i, SUBLAYER_GAIN)]
    return out


def values(spec, seed):
    """The stored elements: uint16 bit patterns for BF16, float32 for F32."""
    base = splitmix64(fnv1a64(spec.name) ^ seed)
    count = math.prod(spec.shape)
    with np.errstate(over="ignore"):
        counters = np.uint64(base) + np.arange(count, dtype=np.uint64)
    t = (splitmix64(counters) >> np.uint64(40)).astype(np.int64) * 2 + 1 - (1 << 24)
    v = (t.astype(np.float64) * (spec.scale * 2.0**-24) + spec.offset).astype(np.float32).reshape(spec.shape)
    return bf16_bits(v) if spec.dtype == "BF16" else v


def config_json(c):
    """config.json with every key of the release (sizes of the vision tower are nominal: no tensors)."""
    freq = [int(layer >= c.num_dense_layers) for layer in range(c.num_hidden_layers)]
    sides = [336, 672, 1008, 1344, 1680, 2016]
    compression = {"image_token_compression_method": "patch_merge", "spatial_merge_size": 2,
                   "temporal_patch_size": 2}
    return {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_minimax_m3_vl.MiniMaxM3VLConfig"},
        "model_type": "minimax_m3_vl",
        "image_grid_pinpoints": "[" + ", ".join(f"({a}, {b})" for a in sides for b in sides) + "]",
        "image_seq_length": 576,
        "image_token_index": c.vocab_size - 2,
        "video_token_index": c.vocab_size - 1,
        "img_token_compression_config": compression,
        "multimodal_projector_bias": True,
        "num_reward_heads": 0,
        "process_image_mode": "dynamic_res",
        "projector_hidden_act": "gelu",
        "projector_hidden_size": c.hidden_size,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
        "text_config": {
            "architectures": ["MiniMaxM3SparseForCausalLM"],
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "dense_intermediate_size": c.dense_intermediate_size,
            "num_hidden_layers": c.num_hidden_layers,
            "num_attention_heads": c.num_attention_heads,
            "num_key_value_heads": c.num_key_value_heads,
            "head_dim": c.head_dim,
            "vocab_size": c.vocab_size,
            "max_position_embeddings": c.max_position_embeddings,
            "rms_norm_eps": 1e-06,
            "use_gemma_norm": True,
            "attention_output_gate": False,
            "rope_theta": 5000000,
            "rotary_dim": c.rotary_dim,
            "partial_rotary_factor": 0.5,
            "num_local_experts": c.num_local_experts,
            "num_experts_per_tok": c.num_experts_per_tok,
            "n_shared_experts": 1,
            "shared_intermediate_size": c.intermediate_size,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "routed_scaling_factor": 2.0,
            "moe_layer_freq": freq,
            "hidden_act": "swigluoai",
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "use_qk_norm": True,
            "qk_norm_type": "per_head",
            "tie_word_embeddings": False,
            "num_mtp_modules": 7,
            "num_nextn_predict_layers": 1,
            "sparse_attention_config": {
                "use_sparse_attention": True,
                "sparse_index_dim": c.sparse_index_dim,
                "sparse_num_index_heads": c.num_key_value_heads,
                "sparse_topk_blocks": c.sparse_topk_blocks,
                "sparse_block_size": 128,
                "sparse_disable_index_value": freq,
                "sparse_score_type": "max",
                "sparse_init_block": 0,
                "sparse_local_block": 1,
                "sparse_attention_freq": freq,
            },
        },
        "vision_config": {
            "hidden_size": 1280,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "intermediate_size": 5120,
            "patch_size": 14,
            "image_size": 2016,
            "projection_dim": c.hidden_size,
            "position_embedding_type": "rope",
            "rope_mode": "3d",
            "rope_theta": 10000.0,
            "attention_dropout": 0.0,
            "hidden_act": "gelu",
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-05,
            "model_type": "clip_vision_model",
            "num_channels": 3,
            "vocab_size": 32000,
            "vision_segment_max_frames": 4,
            "img_token_compression_config": compression,
        },
    }


def config_text(c):
    return json.dumps(config_json(c), indent=2) + "\n"


def digest(c):
    """sha256 over `name NUL dtype NUL d0,d1 NUL bytes` of every tensor in the order of tensors()."""
    h = hashlib.sha256()
    for spec in tensors(c):
        h.update(f"{spec.name}\0{spec.dtype}\0{','.join(map(str, spec.shape))}\0".encode())
        h.update(values(spec, c.seed).tobytes())
    return h.hexdigest()


def write_safetensors(path, entries):
    """entries: (name, dtype name, shape, array). Plain layout, in the order given."""
    header, offset = {}, 0
    for name, dtype, shape, array in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, array in entries:
            f.write(np.ascontiguousarray(array).tobytes())
    return offset


def write_checkpoint(directory, c):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    specs = tensors(c)
    shard = "model-00001-of-00001.safetensors"
    total = write_safetensors(directory / shard, [(s.name, s.dtype, s.shape, values(s, c.seed)) for s in specs])
    index = {"metadata": {"total_size": total}, "weight_map": {s.name: shard for s in specs}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (directory / "config.json").write_text(config_text(c))


def prompt(count, num_ids, seed=7):
    """Deterministic token ids. Stretches of 96 tokens draw from a window of 48 ids each, so that 128-token
    blocks have distinct content and the indexer has something to choose."""
    ids = []
    for p in range(count):
        start = splitmix64(seed ^ (p // 96 << 32)) % num_ids
        ids.append((start + splitmix64((seed << 48) ^ p) % 48) % num_ids)
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?")
    parser.add_argument("--preset", default="sel", choices=sorted(PRESETS))
    parser.add_argument("--digest", action="store_true")
    args = parser.parse_args()
    config = PRESETS[args.preset]
    if args.digest:
        print(f"tensors {digest(config)}")
        print(f"config.json {hashlib.sha256(config_text(config).encode()).hexdigest()}")
    if args.output:
        write_checkpoint(args.output, config)


if __name__ == "__main__":
    main()
