#!/usr/bin/env python3
"""Makes tests/golden/eval/divergence.json: base against MXFP4 of models/m3-tiny, by NumPy in float64.

    V/bin/python tools/divergence_golden.py > tests/golden/eval/divergence.json     (V: numpy)

Both models are tools/model_reference.py (written independently of the C++ model); the texts are the prompts of
tests/golden/model/tiny.f32.safetensors. Every token but a text's first is scored. "figures" holds the value of
each figure and its spread: the largest distance to it in runs whose operands are disturbed by 2^-21 before each
rounding, which is what float32 arithmetic in another order may do (a value at the border of two FP4 codes flips).
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np

from model_reference import Mode, Reference, read_checkpoint, read_safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPTS = ["short", "five_shot", "tool"]
NOISE = 2.0**-21
RUNS = 4


def log_softmax(logits):
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def estimate(name, values):
    return {name: values.mean(), name + ".stderr": values.std(ddof=1) / np.sqrt(len(values))}


def figures(base, quantized, texts):
    """base, quantized: one Trace a text."""
    kl, nll_b, nll_q, dp, dc, same = [], [], [], [], [], []
    for ids, b, q in zip(texts, base, quantized):
        lb, lq = log_softmax(b.logits[:-1]), log_softmax(q.logits[:-1])
        rows, token, choice = np.arange(len(ids) - 1), np.asarray(ids)[1:], lb.argmax(axis=-1)
        kl.append((np.exp(lb) * (lb - lq)).sum(axis=-1))
        nll_b.append(-lb[rows, token])
        nll_q.append(-lq[rows, token])
        dp.append(np.exp(lq[rows, token]) - np.exp(lb[rows, token]))
        dc.append(np.exp(lq[rows, choice]) - np.exp(lb[rows, choice]))
        same.append((lq.argmax(axis=-1) == choice).astype(float))
    kl, nll_b, nll_q, dp, dc, same = (np.concatenate(x) for x in (kl, nll_b, nll_q, dp, dc, same))
    out = {"tokens": float(len(kl))}
    out.update(estimate("kl_divergence", kl))
    out.update(estimate("top1_agreement", same))
    out.update(estimate("token_probability_change", dp))
    out.update(estimate("base_choice_probability_change", dc))
    out.update(estimate("log_perplexity_ratio", nll_q - nll_b))
    for name, nll in (("base_perplexity", nll_b), ("quantized_perplexity", nll_q)):
        out[name] = np.exp(nll.mean())
        out[name + ".stderr"] = np.exp(nll.mean()) * nll.std(ddof=1) / np.sqrt(len(nll))
    cov = np.cov(nll_b, nll_q)
    pb, pq = out["base_perplexity"], out["quantized_perplexity"]
    out["perplexity_difference"] = pq - pb
    out["perplexity_difference.stderr"] = np.sqrt(
        (pb**2 * cov[0, 0] + pq**2 * cov[1, 1] - 2 * pb * pq * cov[0, 1]) / len(kl))
    out["log_probability_correlation"] = np.corrcoef(nll_b, nll_q)[0, 1]
    out["token_probability_change_rms"] = np.sqrt((dp**2).mean())
    out["base_choice_probability_change_rms"] = np.sqrt((dc**2).mean())
    for name, share in (("maximum", 1), ("99 %", .99), ("95 %", .95), ("median", .5), ("10 %", .1), ("minimum", 0)):
        out["kl_divergence_quantiles." + name] = np.quantile(kl, share)
        out["token_probability_change_quantiles." + name] = np.quantile(dp, share)
    layers = len(base[0].hidden) - 1
    for layer in range(layers):
        b = np.concatenate([t.hidden[layer + 1] for t in base])
        q = np.concatenate([t.hidden[layer + 1] for t in quantized])
        if (b != q).any():  # layers before the first quantized one are equal
            out[f"layers.{layer}.sqnr_db"] = 10 * np.log10((b**2).sum() / ((b - q) ** 2).sum())
    dense = layers - len(base[0].router)
    for kind, first in (("router", dense), ("blocks", layers - len(base[0].blocks))):
        for i in range(len(getattr(base[0], kind))):
            pairs = [(x, y) for b, q in zip(base, quantized)
                     for x, y in zip(getattr(b, kind)[i].reshape(-1, getattr(b, kind)[i].shape[-1]),
                                     getattr(q, kind)[i].reshape(-1, getattr(q, kind)[i].shape[-1]))]
            all_ = sum(int((x >= 0).sum()) for x, _ in pairs)
            equal = sum(len({int(v) for v in x if v >= 0} & set(map(int, y))) for x, y in pairs)
            out[f"layers.{first + i}.equal_{'experts' if kind == 'router' else 'blocks'}"] = equal / all_
    return {name: float(value) for name, value in out.items()}


def main():
    config, weights = read_checkpoint(ROOT / "models" / "m3-tiny")
    golden = read_safetensors(ROOT / "tests" / "golden" / "model" / "tiny.f32.safetensors")
    texts = [[int(t) for t in golden[f"{prompt}.input_ids"]] for prompt in PROMPTS]

    def run(mode):
        traces = []
        for ids in texts:
            traces.append(Reference(config, weights, mode).forward(ids))
        print(f"ran {mode}", file=sys.stderr, flush=True)
        return traces

    base = run(Mode("f32"))
    mode = Mode("f32", "mxfp4")
    value = figures(base, run(mode), texts)
    spread = dict.fromkeys(value, 0.0)
    for seed in range(1, RUNS + 1):
        noisy = figures(base, run(dataclasses.replace(mode, noise=NOISE, seed=seed)), texts)
        for name in value:
            spread[name] = max(spread[name], abs(noisy[name] - value[name]))
    json.dump({"texts": texts, "figures": {n: {"value": value[n], "spread": spread[n]} for n in value}},
              sys.stdout, indent=0)
    print()


if __name__ == "__main__":
    main()
