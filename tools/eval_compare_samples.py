#!/usr/bin/env python3
"""Compares the results of `quern eval` and of lm-evaluation-harness, question by question.

  eval_compare_samples.py QUERN_DIR HARNESS_DIR

Equal must be: hashes of document, prompt and target, answer, extraction and score of every line, keys and
their order, aggregate, standard error, task hash. Exits 1 at the first difference.
"""
import json
import pathlib
import sys


def newest(folder, pattern):
    files = sorted(pathlib.Path(folder).rglob(pattern), key=lambda file: file.name)
    if not files:
        sys.exit(f"{folder}: no {pattern}")
    return files[-1]


def main(ours_dir, theirs_dir):
    ours = json.loads(newest(ours_dir, "results_*.json").read_text())
    theirs = json.loads(newest(theirs_dir, "results_*.json").read_text())
    for task, values in theirs["results"].items():
        # The harness adds the squared deviations of NumPy floats one by one, as we do: equal to the bit.
        if ours["results"][task] != values:
            sys.exit(f"{task}: results differ:\n{ours['results'][task]}\n{values}")
        if list(ours["results"][task]) != list(values):
            sys.exit(f"{task}: order of result keys differs")
        if ours["task_hashes"][task] != theirs["task_hashes"][task]:
            sys.exit(f"{task}: task hashes differ")
        a = [json.loads(line) for line in newest(ours_dir, f"samples_{task}_*.jsonl").open()]
        b = [json.loads(line) for line in newest(theirs_dir, f"samples_{task}_*.jsonl").open()]
        if len(a) != len(b):
            sys.exit(f"{task}: {len(a)} and {len(b)} samples")
        for i, (x, y) in enumerate(zip(a, b)):
            if list(x) != list(y) or x != y:
                keys = [key for key in y if x.get(key) != y[key]]
                sys.exit(f"{task} line {i + 1}: {keys}: {[(x.get(k), y[k]) for k in keys]}")
        counts = {}
        for sample in b:
            right, total = counts.get(sample["filter"], (0, 0))
            counts[sample["filter"]] = (right + int(sample["exact_match"]), total + 1)
        print(f"{task}: {len(b)} lines identical; " +
              ", ".join(f"{name} {right} of {total} right" for name, (right, total) in counts.items()))
    missing = [key for key in theirs if key not in ours]
    order = [key for key in ours if key in theirs] == [key for key in theirs if key in ours]
    print(f"keys of the results file: missing {missing}, order {'equal' if order else 'DIFFERS'}")
    if not order or missing:
        sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
