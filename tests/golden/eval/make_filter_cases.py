#!/usr/bin/env python3
"""Writes filter_cases.json with the filters of lm-evaluation-harness 0.4.12 (lm_eval in the path).

  make_filter_cases.py OUT.json
"""
import json
import random
import sys

from lm_eval.filters import build_filter_ensemble

ANSWERS = [
    ["The answer is 18. The answer is 19.", "The answer is 19.", "The answer is 19."],
    ["The answer is (B) because", "b", "It says: Oslo"],
    ["  x \u00a0\n", "X", "x"],
    ["", "#### ", "ÄÖ ß ǅ"],
    ["no", "yes", "no"],
    ["I think Oslo!, is it. : C", "oslo", "So: A"],
    ["A", "B", "A"],
    ["Answer : B", ": C and : A", "paris"],
]
# Random answers out of pieces that the filters look for.
PIECES = ["The answer is ", "#### ", "####", "18", "-3", "1,050", ".", ",", "$", " ", "\n", "\u00a0", "\u2028", "(B)", "(a)", ": C",
          ": D", ":b", "Oslo", "PARIS", "paris.", "a+b (c)", "x", "X", "yes", "no", "A", "B", "ß", "É", "１８", "\U0001f600", "[", "\\"]
rnd = random.Random(5)
RANDOM_ANSWERS = [["".join(rnd.choices(PIECES, k=rnd.randint(0, 9))) for _ in range(rnd.randint(2, 5))] for _ in range(40)]
DOC = {"choices": [" Oslo", "Paris.", "a+b (c)"]}
FIRST = {"function": "take_first"}
FILTERS = [
    [{"function": "regex", "regex_pattern": r"The answer is (\-?[0-9\.\,]*[0-9]+)"}],
    [{"function": "regex", "regex_pattern": r"The answer is (\-?[0-9\.\,]*[0-9]+)", "group_select": -1,
      "fallback": " none "}],
    [{"function": "regex", "regex_pattern": r"(x)|([0-9]+)|()", "fallback": " f "}],
    [{"function": "remove_whitespace"}],
    [{"function": "lowercase"}],
    [{"function": "uppercase"}],
    [{"function": "map", "mapping_dict": {"A": "1", "B": "2", "yes": "ja"}, "default_value": "?"}],
    [{"function": "map", "mapping_dict": {"A": 1, "B": 2}, "default_value": 0}],
    [{"function": "majority_vote"}],
    [{"function": "take_first_k", "k": 2}, {"function": "lowercase"}, {"function": "majority_vote"}],
    [{"function": "regex", "regex_pattern": r"The answer is (\-?[0-9\.\,]*[0-9]+)"}, {"function": "majority_vote"}],
    [{"function": "multi_choice_regex", "regex_pattern": r"(\([A-Z]\))"}],
    [{"function": "multi_choice_regex", "regex_pattern": r"(\([A-Z]\))", "ignore_case": True,
      "ignore_punctuation": True, "group_select": -1}],
    [{"function": "multi_choice_regex", "regex_pattern": "####([0-9])", "regexes_to_ignore": ["[.!]", "x"],
      "ignore_case": True, "fallback": "[none]"}],
    [{"function": "map", "mapping_dict": {"A": 1}, "default_value": None},
     {"function": "regex", "regex_pattern": "([a-z]+)"}],
]


class Instance:
    def __init__(self, resps):
        self.resps, self.doc, self.filtered_resps = resps, DOC, {}


cases = []
for steps in FILTERS:
    ensemble = build_filter_ensemble(
        "f", [(s["function"], {k: v for k, v in s.items() if k != "function"}) for s in steps + [FIRST]])
    for answers in ANSWERS + RANDOM_ANSWERS:
        instance = Instance(list(answers))
        ensemble.apply([instance])
        cases.append({"filter": steps + [FIRST], "answers": answers, "value": instance.filtered_resps["f"]})
json.dump({"doc": DOC, "cases": cases}, open(sys.argv[1], "w"), ensure_ascii=False, indent=0)
