#!/usr/bin/env python3
"""Prints the results files of `quern eval` with lm-evaluation-harness's own table function.

  eval_table.py RESULTS.json...        (lm_eval in the path)
"""
import json
import sys

from lm_eval.utils import make_table

for path in sys.argv[1:]:
    print(make_table(json.load(open(path, encoding="utf-8"))))
