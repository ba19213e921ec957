#!/usr/bin/env python3
"""Compares llama.cpp's next-token distributions on m3-tiny with the NumPy oracle's (tests/golden/model/tiny.*).

    python3 -m venv V && V/bin/pip install numpy xllamacpp
    V/bin/python tools/gguf_write.py models/m3-tiny bf16.gguf
    V/bin/python tools/gguf_compare_logits.py bf16.gguf bf16 [--dense] [--cache f32]

xllamacpp is llama.cpp as a wheel, so nothing has to be built. Prompts are the oracle's token ids; compared are the
log-probabilities of all tokens behind the last four positions of each prompt. A peer that holds the weights of a mode
but computes otherwise differs from that mode by its activations; how far two modes of the oracle are apart is the scale
to judge by. --dense is without flash attention, for which llama.cpp leaves out block selection.
"""

import argparse
import pathlib

import numpy as np
import xllamacpp

from model_reference import read_safetensors

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/model"
PROMPTS = ["short", "tool", "thinking", "five_shot", "long"]
MODES = {"bf16": ["f32", "bf16"], "mxfp4": ["mxfp4_weight_only_f32", "mxfp4_f32"]}


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def start(gguf, dense, cache):
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_parallel = 4096, 2048, 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache.upper()}")
    kinds = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = (kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED if dense else kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED)
    return xllamacpp.Server(params)


def next_token(server, ids, vocabulary):
    """-> log-probabilities [vocabulary] of the token behind ids."""
    answer = server.handle_completions({"prompt": ids, "max_tokens": 1, "logprobs": vocabulary, "temperature": 0,
                                        "cache_prompt": False})
    entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    row = np.full(vocabulary, np.nan)
    for entry in entries:
        row[entry["id"]] = entry["logprob"]
    if np.isnan(row).any():
        raise SystemExit(f"{np.isnan(row).sum()} of {vocabulary} tokens are without a log-probability")
    return row


def distance(expected, found):
    """KL(expected || found) in nats, the most of the positions, and how often the best token is the same."""
    kl = (np.exp(expected) * (expected - found)).sum(axis=-1).max()
    same = (expected.argmax(axis=-1) == found.argmax(axis=-1)).sum()
    return f"KL {kl:.2g}, best {same}/{len(expected)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("precision", choices=MODES)
    parser.add_argument("--dense", action="store_true", help="without block selection")
    parser.add_argument("--cache", choices=["f16", "f32"], default="f16", help="type of the KV cache")
    args = parser.parse_args()
    golden = {mode: read_safetensors(GOLDEN / f"tiny.{mode}.safetensors") for mode in MODES[args.precision]}
    server = start(args.gguf, args.dense, args.cache)
    for prompt in PROMPTS:
        tensors = next(iter(golden.values()))
        ids = tensors[f"{prompt}.input_ids"].tolist()
        expected = [log_softmax(mode[f"{prompt}.logits"]) for mode in golden.values()]
        found = np.stack([next_token(server, ids[:int(p) + 1], expected[0].shape[-1])
                          for p in tensors[f"{prompt}.positions"]])
        texts = [f"{mode}: {distance(e, found)}" for mode, e in zip(golden, expected)]
        print(f"{prompt:9} {len(ids):4} tokens; {'; '.join(texts)}; the modes: {distance(*expected)}", flush=True)


if __name__ == "__main__":
    main()
