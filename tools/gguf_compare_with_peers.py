#!/usr/bin/env python3
"""Compares llama.cpp or ik_llama.cpp on a GGUF of m3-tiny (tools/gguf_write.py) with `quern serve` and the NumPy oracle.

    quern serve MODEL_DIR --port 8000 --max-logprobs -1 --return-tokens-as-token-ids
    V/bin/python tools/gguf_compare_with_peers.py DRIVER MODEL.gguf http://127.0.0.1:8000 {bf16,mxfp4} [--questions 40]

DRIVER is tools/gguf_peer_driver.cc built against the peer (bench/README.md). Prompts are token ids, so that tokenizers
do not matter: the five of tests/golden/model/tiny.*.safetensors and questions of data/arith behind the chat template.
Printed for each golden prompt: positions at which both give the same best token, and KL(quern || peer) in nats over all
positions; the largest difference of a logit from the oracle's modes at the last four positions. Then how many greedy
answers are the same text, and how many of each are right.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile
import urllib.request

import numpy as np

from model_reference import read_safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPTS = ["short", "tool", "thinking", "five_shot", "long"]
# The oracle's modes to hold beside a file of this precision: with and without what the peer does not do.
MODES = {"bf16": ["f32", "bf16"], "mxfp4": ["mxfp4_weight_only_f32", "mxfp4_f32"]}
END = 2004
GREEDY_TOKENS, ANSWER_TOKENS = 24, 200


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())


def run_quern(url, model, ids, count, vocabulary):
    """-> log-probabilities [prompt tokens - 1, vocabulary] and the greedy tokens."""
    choice = post(url + "/v1/completions", {
        "model": model, "prompt": ids, "max_tokens": count, "temperature": 0, "return_token_ids": True,
        "prompt_logprobs": vocabulary})["choices"][0]
    rows = np.full((len(ids) - 1, vocabulary), -np.inf)
    for row, entries in zip(rows, choice["prompt_logprobs"][1:]):
        for token, entry in entries.items():
            row[int(token)] = entry["logprob"]
    return rows, choice["token_ids"]


def run_peer(driver, gguf, jobs):
    """jobs: (greedy tokens, ids) -> logits [prompt tokens, vocabulary] and greedy tokens of each."""
    lines = "".join(f"{count} {' '.join(map(str, ids))}\n" for count, ids in jobs)
    with tempfile.NamedTemporaryFile() as logits_file:
        done = subprocess.run([driver, gguf, logits_file.name, str(END)], input=lines, text=True, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"{driver}: exit status {done.returncode}\n{done.stderr[-2000:]}")
        logits = np.fromfile(logits_file.name, "<f4").reshape(sum(len(ids) for _, ids in jobs), -1)
    greedy = [[int(t) for t in line.split()] for line in done.stdout.splitlines()]
    cuts = np.cumsum([len(ids) for _, ids in jobs])[:-1]
    return list(zip(np.split(logits, cuts), greedy))


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def number(text):
    found = re.findall(r"#### (-?\d+)", text)
    return found[-1] if found else None


def compare_golden(args, model):
    golden = {mode: read_safetensors(ROOT / "tests/golden/model" / f"tiny.{mode}.safetensors") for mode in MODES[args.precision]}
    first = golden[MODES[args.precision][0]]
    ids = {p: first[f"{p}.input_ids"].tolist() for p in PROMPTS}
    peer = run_peer(args.driver, args.gguf, [(GREEDY_TOKENS, ids[p]) for p in PROMPTS])
    for prompt, (logits, greedy) in zip(PROMPTS, peer):
        ours, our_greedy = run_quern(args.url, model, ids[prompt], GREEDY_TOKENS, logits.shape[1])
        theirs = log_softmax(logits[:-1])
        kl = (np.exp(ours) * (ours - theirs)).sum(axis=-1)
        same_best = int((ours.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
        length = next((i for i, (a, b) in enumerate(zip(our_greedy, greedy)) if a != b), min(len(our_greedy), len(greedy)))
        print(f"{prompt:9} {len(ids[prompt]):4} tokens: best token {same_best}/{len(ours)}, KL median {np.median(kl):.2g} "
              f"mean {kl.mean():.2g} max {kl.max():.2g}; greedy {length}/{max(len(our_greedy), len(greedy))} equal", end="")
        for mode, tensors in golden.items():
            expected = tensors[f"{prompt}.logits"]
            apart = np.abs(logits[tensors[f"{prompt}.positions"]] - expected).max()
            print(f"; {mode}: {apart:.2g} of {np.abs(expected).max():.3g}", end="")
        print()


def compare_answers(args, model):
    lines = (ROOT / "data/arith/test.jsonl").read_text(encoding="utf-8").splitlines()[:args.questions]
    questions = [json.loads(line) for line in lines]
    ids = [post(args.url + "/tokenize", {"model": model, "messages": [{"role": "user", "content": q["question"]}]})["tokens"]
           for q in questions]
    peer = run_peer(args.driver, args.gguf, [(ANSWER_TOKENS, i) for i in ids])
    same, right = 0, [0, 0]
    for question, prompt, (_, theirs) in zip(questions, ids, peer):
        ours = post(args.url + "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS,
                                                   "temperature": 0, "return_token_ids": True})["choices"][0]["token_ids"]
        texts = [post(args.url + "/detokenize", {"model": model, "tokens": [t for t in tokens if t != END]})["prompt"]
                 for tokens in (ours, theirs)]
        same += texts[0] == texts[1]
        for i, text in enumerate(texts):
            right[i] += number(text) == number(question["answer"])
    print(f"answers: {same} of {len(questions)} the same text; right: quern {right[0]}, peer {right[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver")
    parser.add_argument("gguf")
    parser.add_argument("url")
    parser.add_argument("precision", choices=MODES)
    parser.add_argument("--questions", type=int, default=40)
    args = parser.parse_args()
    model = json.loads(urllib.request.urlopen(args.url + "/v1/models").read())["data"][0]["id"]
    compare_golden(args, model)
    compare_answers(args, model)


if __name__ == "__main__":
    main()
