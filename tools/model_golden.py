#!/usr/bin/env python3
"""Makes tests/golden/model/*.safetensors with the NumPy reference (tools/model_reference.py).

    python3 -m venv V && V/bin/pip install numpy
    V/bin/python tools/model_golden.py sel f32 bf16 mxfp4_f32 mxfp4_bf16 mxfp4_weight_only_f32
    V/bin/python tools/model_golden.py tiny --published GOLDEN_OF_M3_TINY f32 bf16 ...

`sel` is the synthetic checkpoint of tools/model_synthetic.py with a prompt of 3,000 tokens (24 blocks of which
each of 4 groups selects 4); `tiny` is models/m3-tiny with the text prompts of its published reference outputs
(float32, another implementation), against which the reference itself is checked here.

Keys of sel.MODE.safetensors (L layers, M MoE = sparse layers, P positions, G groups, E = 2 experts, B = 4 blocks):
    input_ids I64 [3000]
    positions I64 [P]                the positions of everything below except greedy
    logits F32 [P, vocab]            logits.spread F32 [P]      top_gap F32 [P]: best minus second logit
    hidden F32 [L + 1, P, hidden]    hidden.spread F32 [L + 1, P]   embedding, then the residual after each layer
    router I64 [M, P, E]             router_gap F32 [M, P]: last chosen minus first dropped (sigmoid + bias);
                                     router_stable U8 [M, P]: 1 if all perturbed runs chose the same
    blocks I64 [M, P, G, B]          sorted ids, then -1; block_gap F32 [M, P, G]: worst chosen minus best dropped
                                     score (the query's own block aside; inf when nothing is dropped);
                                     block_stable U8 [M, P, G]
    greedy I64 [16]                  greedy_gap F32 [16]; the tokens after the prompt
sel.f32 also has, for every position: all_block_mask I32 [M, 3000, G] (bit b: block b selected), all_block_gap F32
[M, 3000, G], all_router U8 [M, 3000, E], all_router_gap F32 [M, 3000].
tiny.MODE.safetensors: the same keys (without all_*) behind "PROMPT.", positions: the last 4, and 24 greedy
tokens; tiny.f32 also has PROMPT.published.{logits_last8, hidden_last, greedy, router_top4, blocks}.
Spread and bounds: see tools/model_reference.py. Modes of weights only have no spread.
"""

import argparse
import pathlib
import sys

import numpy as np

import model_synthetic
from model_reference import Mode, Reference, read_checkpoint, read_safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODES = {
    "f32": Mode("f32"),
    "bf16": Mode("bf16"),
    "mxfp4_f32": Mode("f32", "mxfp4"),
    "mxfp4_bf16": Mode("bf16", "mxfp4"),
    "mxfp4_weight_only_f32": Mode("f32", "mxfp4_weight_only"),
}
NOISE = 2.0**-21
SEL_TOKENS = 3000
SEL_POSITIONS = [0, 127, 128, 511, 512, 639, 640, 700, 1023, 1024, 1291, 1500, 1799, 2047, 2048, 2300, 2500, 2815,
                 2996, 2997, 2998, 2999]
TINY_PROMPTS = ["short", "five_shot", "long", "tool", "thinking"]


def perturbed(mode, runs):
    """The runs that measure the spread: noise before each rounding, the last one with another base of P too."""
    import dataclasses
    return [dataclasses.replace(mode, noise=NOISE, seed=seed + 1, final_max=seed + 1 == runs) for seed in range(runs)]


def record(config, weights, mode, ids, positions, greedy, with_all=False):
    reference = Reference(config, weights, mode)
    trace = reference.forward(ids)
    logits = trace.logits[positions]
    top = np.sort(logits, axis=-1)
    tokens, gaps = reference.greedy(trace.logits[-1], greedy) if greedy else ([], [])
    result = {
        "input_ids": np.asarray(ids, dtype=np.int64),
        "positions": np.asarray(positions, dtype=np.int64),
        "logits": logits.astype(np.float32),
        "top_gap": (top[:, -1] - top[:, -2]).astype(np.float32),
        "hidden": np.stack([h[positions] for h in trace.hidden]).astype(np.float32),
        "router": np.stack([r[positions] for r in trace.router]).astype(np.int64),
        "router_gap": np.stack([r[positions] for r in trace.router_gap]).astype(np.float32),
        "blocks": np.stack([b[positions] for b in trace.blocks]).astype(np.int64),
        "block_gap": np.stack([b[positions] for b in trace.block_gap]).astype(np.float32),
        "greedy": np.asarray(tokens, dtype=np.int64),
        "greedy_gap": np.asarray(gaps, dtype=np.float32),
    }
    if with_all:
        blocks = np.stack(trace.blocks)
        result["all_block_mask"] = np.where(blocks >= 0, 1 << np.maximum(blocks, 0), 0).sum(axis=-1).astype(np.int32)
        result["all_block_gap"] = np.stack(trace.block_gap).astype(np.float32)
        result["all_router"] = np.stack(trace.router).astype(np.uint8)
        result["all_router_gap"] = np.stack(trace.router_gap).astype(np.float32)
    return result


def record_with_spread(config, weights, mode, ids, positions, greedy, runs, with_all=False):
    base = record(config, weights, mode, ids, positions, greedy, with_all)
    logits = np.zeros(len(positions), np.float32)
    hidden = np.zeros(base["hidden"].shape[:2], np.float32)
    router = np.ones(base["router"].shape[:2], np.uint8)
    blocks = np.ones(base["blocks"].shape[:3], np.uint8)
    for other_mode in perturbed(mode, runs):
        other = record(config, weights, other_mode, ids, positions, 0)
        logits = np.maximum(logits, np.abs(other["logits"] - base["logits"]).max(axis=-1))
        hidden = np.maximum(hidden, np.abs(other["hidden"] - base["hidden"]).max(axis=-1))
        router &= (other["router"] == base["router"]).all(axis=-1)
        blocks &= (other["blocks"] == base["blocks"]).all(axis=-1)
    if runs:
        base.update({"logits.spread": logits, "hidden.spread": hidden, "router_stable": router, "block_stable": blocks})
    return base


def write(path, arrays):
    names = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64", np.dtype(np.int32): "I32", np.dtype(np.uint8): "U8"}
    # Wider types first, so that every tensor is aligned for its type.
    entries = sorted(((k, names[v.dtype], v.shape, v) for k, v in arrays.items()), key=lambda e: (-e[3].itemsize, e[0]))
    model_synthetic.write_safetensors(path, entries)
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


def summary(label, arrays, prefix=""):
    spread = arrays.get(prefix + "logits.spread")
    text = "none" if spread is None else f"median {np.median(spread):.2g} max {spread.max():.2g}"
    print(f"{label}: |logits| {np.abs(arrays[prefix + 'logits']).max():.4g}, logit spread {text}, least gap: greedy "
          f"{arrays[prefix + 'greedy_gap'].min():.3g}, router {arrays[prefix + 'router_gap'].min():.3g}, "
          f"blocks {arrays[prefix + 'block_gap'].min():.3g}", flush=True)


def make_sel(args):
    preset = model_synthetic.PRESETS["sel"]
    directory = pathlib.Path(args.scratch) / "sel"
    model_synthetic.write_checkpoint(directory, preset)
    config, weights = read_checkpoint(directory)
    ids = model_synthetic.prompt(SEL_TOKENS, preset.vocab_size - 2)  # the last two ids are image and video
    for name in args.modes:
        runs = 0 if "weight_only" in name else args.runs
        arrays = record_with_spread(config, weights, MODES[name], ids, SEL_POSITIONS, 16, runs, name == "f32")
        summary(f"sel {name}", arrays)
        write(args.output / f"sel.{name}.safetensors", arrays)


def check_published(name, arrays, published):
    """Our float32 mode against the reference outputs published with m3-tiny: the tolerances of their README."""
    logits = np.abs(arrays["logits"] - published["logits_last8"][-len(arrays["logits"]) :]).max()
    hidden = np.abs(arrays["hidden"][:, -1] - published["hidden_last"]).max()
    equal = {key: bool((arrays[ours][..., -1, :] == published[key]).all() if ours == "router" else
                       (arrays[ours][:, -1] == published[key]).all())
             for ours, key in (("router", "router_top4"), ("blocks", "blocks"))}
    equal["greedy"] = bool((arrays["greedy"] == published["greedy"]).all())
    print(f"tiny {name} against published: logits {logits:.3g}, hidden {hidden:.3g}, {equal}", flush=True)
    if logits > 1e-4 or hidden > 2e-4 or not all(equal.values()):
        sys.exit("the reference disagrees with the published outputs")


def make_tiny(args):
    config, weights = read_checkpoint(ROOT / "models" / "m3-tiny")
    published = read_safetensors(args.published)
    for name in args.modes:
        out = {}
        for prompt in TINY_PROMPTS:
            ids = published[prompt + ".input_ids"].tolist()
            positions = list(range(len(ids) - 4, len(ids)))
            runs = 0 if "weight_only" in name else args.runs
            arrays = record_with_spread(config, weights, MODES[name], ids, positions, 24, runs)
            if name == "f32":
                theirs = {k: published[f"{prompt}.{k}"]
                          for k in ("logits_last8", "hidden_last", "greedy", "router_top4", "blocks")}
                check_published(prompt, arrays, theirs)
                out.update({f"{prompt}.published.{k}": v for k, v in theirs.items()})
            summary(f"tiny {name} {prompt}", arrays)
            out.update({f"{prompt}.{k}": v for k, v in arrays.items()})
        write(args.output / f"tiny.{name}.safetensors", out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", choices=["sel", "tiny"])
    parser.add_argument("modes", nargs="+", choices=sorted(MODES))
    parser.add_argument("--published", help="golden.safetensors published with m3-tiny")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "tests" / "golden" / "model")
    parser.add_argument("--scratch", default="/tmp")
    parser.add_argument("--runs", type=int, default=3, help="perturbed runs that measure the spread")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    {"sel": make_sel, "tiny": make_tiny}[args.checkpoint](args)


if __name__ == "__main__":
    main()
