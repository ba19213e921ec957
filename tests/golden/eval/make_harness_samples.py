#!/usr/bin/env python3
"""make_harness_samples.py HARNESS_DIR OUT.jsonl: the first 150 documents of a samples file, without prompts."""
import json
import pathlib
import sys

source = sorted(pathlib.Path(sys.argv[1]).rglob("samples_*.jsonl"))[-1]
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for line in source.open(encoding="utf-8"):
        sample = json.loads(line)
        if sample["doc_id"] < 150:
            del sample["arguments"]
            out.write(json.dumps(sample, ensure_ascii=False) + "\n")
