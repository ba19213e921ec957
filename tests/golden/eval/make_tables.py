#!/usr/bin/env python3
"""make_tables.py OUT.json: random results files and what lm-evaluation-harness's make_table prints for them.

Values are such that the rules of pytablewriter show: columns with and without text, few and many decimals, huge
and tiny numbers, whole numbers, N/A. Needs lm-eval in the path.
"""
import json
import random
import sys

from lm_eval.utils import make_table

rnd = random.Random(8)
VERSIONS = [3.0, 1, 2.5, "Yaml", "1.0.1", 10]
FILTERS = ["none", "strict-match", "flexible-extract", "maj@8"]
METRICS = ["exact_match", "acc", "acc_norm", "perplexity", "bits_per_byte"]


def value():
    return rnd.choice([rnd.random(), rnd.random(), round(rnd.random(), 2), 0.0, 1.0, rnd.random() * 1000, 5e-5, 4e-6,
                       rnd.random() * 1e20, 2.5e33, 0.5, 12345678.25, 999, -rnd.random()])


def error(kind):
    return rnd.choice({"numbers": [rnd.random() / 50, 0.0, 0.006], "both": [rnd.random() / 50, "N/A", 0.0, 3e25],
                       "none": ["N/A"]}[kind])


def results():
    names = rnd.sample(["gsm8k", "arith", "a_task", "x", "Große Aufgabe"], rnd.randint(1, 3))
    kind = rnd.choice(["numbers", "both", "none"])
    out = {"results": {}, "versions": {}, "n-shot": {}, "higher_is_better": {}, "group_subtasks": {}}
    for name in names:
        task = {"name": name, "alias": rnd.choice([name, f"{name} (alias)"]), "sample_len": 12}
        for metric in rnd.sample(METRICS, rnd.randint(1, 3)):
            for filter_name in rnd.sample(FILTERS, rnd.randint(1, 2)):
                task[f"{metric},{filter_name}"] = value()
                task[f"{metric}_stderr,{filter_name}"] = error(kind)
        out["results"][name] = task
        out["versions"][name] = rnd.choice(VERSIONS)
        out["n-shot"][name] = rnd.choice([0, 5, 8])
        out["higher_is_better"][name] = {metric: rnd.choice([True, False]) for metric in METRICS[:4]}
    return out


cases = [{"results": case, "table": make_table(case)} for case in (results() for _ in range(60))]
json.dump(cases, open(sys.argv[1], "w", encoding="utf-8"), ensure_ascii=False, indent=0)
