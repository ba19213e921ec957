#!/usr/bin/env python3
"""Runs `transformers` in float32 on the synthetic checkpoint and compares it with tests/golden/model/sel.f32.

    python3 -m venv V && V/bin/pip install torch transformers==5.23.0
    V/bin/python tools/model_transformers.py          # writes tests/golden/model/sel.transformers_f32.safetensors

Keys: positions I64 [P] (those of sel.f32), logits F32 [P, vocab], hidden F32 [L + 1, P, hidden] (the residual after
each layer), blocks I64 [M, P, G, B] (sorted), router I64 [M, P, E] (sorted), greedy I64 [16], laid out as in sel.f32. The
selections of every position are compared here, with sel.f32's all_block_mask and all_router, and not stored.
"""

import argparse
import pathlib

import numpy as np
import torch
import transformers

import model_synthetic
from model_golden import ROOT, write
from model_reference import read_safetensors


def load(directory):
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    # The synthetic checkpoint has no vision tower; nothing else may be missing.
    _, info = type(model).from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    text = [k for k in info["missing_keys"] if not any(v in k for v in ("vision_tower", "multi_modal_projector"))]
    if text or info["unexpected_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"not loaded as stored: {text} {info['unexpected_keys']} {info['mismatched_keys']}")
    return model


def run(model, ids):
    """One prefill -> logits, hidden states, selected blocks and experts of every position."""
    hidden, blocks, experts, hooks = [], [], [], []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind == "MiniMaxM3VLDecoderLayer":
            if not hidden and not hooks:
                hooks.append(module.register_forward_pre_hook(lambda _, args, kwargs: hidden.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True))
            hooks.append(module.register_forward_hook(lambda _, __, out: hidden.append(out[0] if isinstance(out, tuple) else out)))
        elif kind == "MiniMaxM3VLIndexer":
            hooks.append(module.register_forward_hook(lambda _, __, out: blocks.append(out[0].permute(1, 0, 2).numpy())))
        elif kind == "MiniMaxM3VLTopKRouter":
            hooks.append(module.register_forward_hook(lambda _, __, out: experts.append(out[2].numpy())))
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    for hook in hooks:
        hook.remove()
    return logits, np.stack([h.reshape(len(ids), -1).numpy() for h in hidden]), blocks, experts


def sort_blocks(blocks):
    """Ascending, -1 last."""
    ordered = np.sort(np.where(blocks < 0, np.iinfo(np.int64).max, blocks), axis=-1)
    return np.where(ordered == np.iinfo(np.int64).max, -1, ordered)


def compare(ours, theirs):
    """Prints what differs. A choice may differ only where our margin is within float32 error."""
    print(f"logits: largest difference {np.abs(ours['logits'] - theirs['logits']).max():.3g} of {np.abs(ours['logits']).max():.4g}")
    print(f"hidden: largest difference {np.abs(ours['hidden'] - theirs['hidden']).max():.3g} of {np.abs(ours['hidden']).max():.4g}")
    print(f"greedy: {np.sum(ours['greedy'] == theirs['greedy'])} of {len(ours['greedy'])} equal")
    for label, choice, gap in (("block selections", ours["all_block_mask"] == theirs["all_block_mask"], ours["all_block_gap"]),
                               ("expert choices", (ours["all_router"] == theirs["all_router"]).all(axis=-1), ours["all_router_gap"])):
        worst = gap[~choice].max() if (~choice).any() else 0.0
        print(f"{label}: {choice.sum()} of {choice.size} equal; largest margin among the others {worst:.3g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, default=ROOT / "tests" / "golden" / "model")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp"))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    ours = read_safetensors(args.golden / "sel.f32.safetensors")
    model_synthetic.write_checkpoint(args.scratch / "sel", model_synthetic.PRESETS["sel"])
    model = load(args.scratch / "sel")
    ids, positions = ours["input_ids"].tolist(), ours["positions"]
    # The greedy tokens without a cache: fed with the golden continuation, the best token at each position
    # is the uncached greedy continuation as long as the two agree.
    continuation = ours["greedy"].tolist()
    logits, hidden, blocks, experts = run(model, ids + continuation[:-1])
    greedy = logits[len(ids) - 1 :].argmax(axis=-1)
    blocks = sort_blocks(np.stack(blocks))[:, : len(ids)]
    experts = np.sort(np.stack(experts), axis=-1)[:, : len(ids)]
    theirs = {
        "positions": positions,
        "logits": logits[positions],
        "hidden": hidden[:, positions],
        "blocks": blocks[:, positions],
        "router": experts[:, positions],
        "greedy": greedy.astype(np.int64),
        "all_block_mask": np.where(blocks >= 0, 1 << np.maximum(blocks, 0), 0).sum(axis=-1).astype(np.int32),
        "all_router": experts.astype(np.uint8),
    }
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {len(ids)} tokens")
    compare(ours, theirs)
    stored = {k: v for k, v in theirs.items() if not k.startswith("all_")}
    write(args.golden / "sel.transformers_f32.safetensors", stored)


if __name__ == "__main__":
    main()
