#!/usr/bin/env python3
"""make_data.py ARITH_DIR OUT_DIR: the rows of the likelihood tasks (train.jsonl, test.jsonl), from data/arith.

Choices are of different lengths in characters and bytes, so that acc, acc_norm and acc_bytes differ.
"""
import json
import pathlib
import random
import sys

TEST_ROWS, TRAIN_ROWS = 12, 8
arith, out = map(pathlib.Path, sys.argv[1:3])
rnd = random.Random(7)


def row_of(row, other):
    gold = row["answer"].split("#### ")[1]
    first = row["answer"].split("\n")[0]
    wrong = str(int(gold) + rnd.choice([-3, 1, 10]))
    choices = [row["answer"], f"{first}\n#### {wrong}", other["answer"], f"Ответ: {gold} — {wrong} 元"]
    order = list(range(len(choices)))
    rnd.shuffle(order)
    label = order.index(0)
    return {"question": row["question"], "answer": row["answer"], "choices": [choices[i] for i in order],
            "label": label, "labels": [label, order.index(1)], "gold": row["answer"],
            "option1": f"#### {gold}", "option2": f"#### {wrong}", "blank": rnd.choice(["1", "2"]),
            "prefix": first[:12]}


for split, count in (("train", TRAIN_ROWS), ("test", TEST_ROWS)):
    rows = [json.loads(line) for line in (arith / f"{split}.jsonl").open(encoding="utf-8")][:count + 1]
    with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for row, other in zip(rows, rows[1:]):
            file.write(json.dumps(row_of(row, other), ensure_ascii=False) + "\n")
