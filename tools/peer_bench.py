#!/usr/bin/env python3
"""Speed of quern, llama.cpp and ik_llama.cpp on one checkpoint: one sequence, prompts and decoding, from an empty cache.
Standard library only.

  tools/peer_bench.py --threads 1 --rounds 5 --model_dir DIR --quern build/release/bin/quern \\
      --gguf DIR.gguf --llama LLAMA/bin/llama-bench --gguf_no_indexer DIR-dense.gguf --ik IK/bin/llama-bench

DIR.gguf and DIR-dense.gguf (ik_llama.cpp has no block selection): tools/gguf_write.py. A program that is not given is left
out. In each round every program runs once, in an order that rotates, so that what else happens on the machine hits all
of them; each run loads the model, warms up and measures each test once. The table has the median and extremes of the
rounds, and how many times as fast as the peer quern was in the same round (median). Below it: load, versions, commands.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", help="the checkpoint, for quern")
    parser.add_argument("--gguf", help="the same for llama.cpp")
    parser.add_argument("--gguf_no_indexer", help="the same for ik_llama.cpp")
    parser.add_argument("--quern", help="program of quern")
    parser.add_argument("--llama", help="llama-bench of llama.cpp")
    parser.add_argument("--ik", help="llama-bench of ik_llama.cpp")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", default="512,2048", help="lengths of prompts")
    parser.add_argument("--generate", type=int, default=32, help="tokens to decode")
    parser.add_argument("--batch", type=int, default=2048, help="tokens of a prompt in one step, for all of them")
    for name in ("quern", "llama", "ik"):
        parser.add_argument(f"--{name}_args", default="", help=f"further arguments, in one word: --{name}_args='-a 1'")
    parser.add_argument("--json", help="write every figure to this file")
    args = parser.parse_args()
    for program, model in (("quern", "model_dir"), ("llama", "gguf"), ("ik", "gguf_no_indexer")):
        if getattr(args, program) and not getattr(args, model):
            parser.error(f"--{program} needs --{model}")
    if not (args.quern or args.llama or args.ik):
        parser.error("expected --quern, --llama or --ik")
    return args


def commands(args):
    """-> command line of each program. The speeds go to standard output, quern's to the file that follows --json."""
    common = ["-p", args.prompts, "-n", str(args.generate), "-t", str(args.threads), "-r", "1"]
    # Flash attention: without it llama.cpp leaves out block selection.
    peer = ["-b", str(args.batch), "-ub", str(args.batch), "-fa", "1", "-o", "json"]
    result = {}
    if args.quern:
        result["quern"] = [args.quern, "bench", args.model_dir, *common, "--contexts", "0", "--max-num-batched-tokens",
                           str(args.batch), *args.quern_args.split()]
    if args.llama:
        result["llama.cpp"] = [args.llama, "-m", args.gguf, *common, *peer, *args.llama_args.split()]
    if args.ik:
        result["ik_llama.cpp"] = [args.ik, "-m", args.gguf_no_indexer, *common, *peer, *args.ik_args.split()]
    return result


def execute(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def rows_of(name, command):
    """One run -> the program's own rows."""
    if name == "quern":
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            execute([*command, "--json", file.name])
            return json.load(open(file.name))
    # Remarks may stand around the list.
    text = execute(command)
    start = text.find("[\n")
    if start < 0:
        raise SystemExit(f"{' '.join(command)}: no list of results in\n{text[:500]}")
    return json.JSONDecoder().raw_decode(text, start)[0]


def speeds_of(rows):
    """-> tokens per second by test."""
    speeds = {}
    for row in rows:
        test = f"pp{row['n_prompt']}" if row["n_gen"] == 0 else f"tg{row['n_gen']}"
        speeds[test] = row["median_ts"] if "median_ts" in row else row["avg_ts"]
    return speeds


def measure(args, lines):
    """-> speeds[name][test] of all rounds, load averages, commits."""
    expected = [f"pp{length}" for length in args.prompts.split(",")] + [f"tg{args.generate}"]
    speeds = {name: {test: [] for test in expected} for name in lines}
    loads, commits = [], {}
    names = list(lines)
    for round_number in range(args.rounds):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            loads.append(os.getloadavg()[0])
            rows = rows_of(name, lines[name])
            commits[name] = rows[0].get("build_commit", "")
            found = speeds_of(rows)
            if set(found) != set(expected):
                raise SystemExit(f"{name}: measured {sorted(found)}, expected {sorted(expected)}")
            for test in expected:
                speeds[name][test].append(found[test])
            print(f"round {round_number + 1}, {name}: "
                  + ", ".join(f"{test} {speed:.2f}" for test, speed in found.items()), file=sys.stderr, flush=True)
    return speeds, loads, commits


def table(speeds):
    head = ["test"]
    for name in speeds:
        head.append(f"{name}, t/s")
        if name != "quern" and "quern" in speeds:
            head.append(f"quern / {name}")
    lines = [head, ["---"] * len(head)]
    for test in next(iter(speeds.values())):
        cells = [test]
        for name, tests in speeds.items():
            values = tests[test]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
            if name != "quern" and "quern" in speeds:
                ratio = statistics.median(ours / theirs for ours, theirs in zip(speeds["quern"][test], values))
                cells.append(f"{ratio:.2f}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())


def main():
    args = arguments()
    lines = commands(args)
    speeds, loads, commits = measure(args, lines)
    print(table(speeds))
    print(f"\n{processor()}, {os.cpu_count()} cores, {args.threads} threads, {args.rounds} rounds, "
          f"load average {min(loads):.1f} to {max(loads):.1f}")
    for name, line in lines.items():
        version = f" {commits[name]}" if commits[name] else ""
        print(f"- {name}{version}: `{' '.join(line)}`")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"speeds": speeds, "loads": loads, "commits": commits, "commands": lines}, file, indent=1)


if __name__ == "__main__":
    main()
