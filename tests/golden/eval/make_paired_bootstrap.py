#!/usr/bin/env python3
"""make_paired_bootstrap.py OUT.json: scipy's exact McNemar test and paired percentile bootstrap on random scores.

The bootstrap's ends are means over seeds, with their spread: one run of either program has that error.
"""
import json
import sys

import numpy as np
from scipy.stats import binomtest, bootstrap

rng = np.random.default_rng(3)
SEEDS, RESAMPLES = 6, 10_000
cases = []
for n, base_rate, kept, won in ((50, 0.8, 0.9, 0.1), (200, 0.97, 0.98, 0.2), (400, 0.5, 0.7, 0.3), (1319, 0.94, 0.985, 0.2),
                                (300, 0.6, 0.5, 0.5)):
    base = (rng.random(n) < base_rate).astype(float)
    quantized = np.where(base == 1, rng.random(n) < kept, rng.random(n) < won).astype(float)
    lost, gained = int(np.sum((base == 1) & (quantized == 0))), int(np.sum((base == 0) & (quantized == 1)))
    ends = {"difference": [], "recovery": []}
    for seed in range(SEEDS):
        def interval(statistic):
            found = bootstrap((base, quantized), statistic, paired=True, vectorized=False, n_resamples=RESAMPLES,
                              method="percentile", rng=np.random.default_rng(seed)).confidence_interval
            return [found.low, found.high]
        ends["difference"].append(interval(lambda a, b: b.mean() - a.mean()))
        ends["recovery"].append(interval(lambda a, b: b.mean() / a.mean()))
    case = {"base": base.astype(int).tolist(), "quantized": quantized.astype(int).tolist(),
            "mcnemar_p": binomtest(min(lost, gained), lost + gained, 0.5).pvalue if lost + gained else 1.0}
    for name, found in ends.items():
        case[name] = {"ends": np.mean(found, axis=0).tolist(), "spread": np.std(found, axis=0, ddof=1).tolist()}
    cases.append(case)
json.dump(cases, open(sys.argv[1], "w"), indent=0)
