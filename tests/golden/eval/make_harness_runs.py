#!/usr/bin/env python3
"""Runs lm-evaluation-harness as harness_runs/runs.json says and keeps what it wrote: harness_runs/golden.json.

  make_harness_runs.py [NAME...]        (with the Python that has lm-eval[api] and transformers; only the runs of
                                         these names are made again)

Kept are: names of the files (date masked), the table, the results file without its environment, of each samples
file the sha256 of each line and the parts that a reader wants to see, and the sha256 of each request.

The harness's tokenizer is read by transformers, which for the class GPT2Tokenizer replaces the pre-tokenizer of
tokenizer.json by GPT-2's: it is given a copy that names PreTrainedTokenizerFast.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=tempfile.mkdtemp(), DISABLE_MULTIPROC="1")
import lm_eval.models.api_models as api_models  # noqa: E402
import transformers  # noqa: E402, F401
from lm_eval.__main__ import cli_evaluate  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = ROOT / "tests/golden/eval/harness_runs"
MODEL = "models/m3-tiny"
ENVIRONMENT_KEYS = ("git_hash", "date", "pretty_env_info", "transformers_version", "lm_eval_version", "upper_git_hash",
                    "total_evaluation_time_seconds")
SHOWN = ("doc_id", "target", "resps", "filtered_resps", "filter", "metrics")


def tokenizer_copy(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(ROOT / MODEL / name, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sample_of(line):
    sample = json.loads(line)
    shown = {key: sample[key] for key in (*SHOWN, *sample["metrics"]) if key in sample}
    return {"sha256": hashlib.sha256(line.encode()).hexdigest(), **shown}


def harness(command, environment, work):
    """Standard output of the harness's own main function, in a child of this process, which has it loaded."""
    child = os.fork()
    if child == 0:
        for name, fd in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        os.environ.update(environment)
        api_models.LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER = os.environ.get("LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER", "")
        sys.argv = command
        status = 1
        try:
            cli_evaluate()
            sys.stdout.flush()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(f"{command}: {(work / 'stderr').read_text()[-3000:]}")
    return (work / "stdout").read_text()


def run(spec, port, tokenizer, work, bodies):
    out = work / spec["name"]
    bodies.write_text("")
    model = "local-chat-completions" if "chat" in spec["url"] else "local-completions"
    model_args = f"model={MODEL},base_url=http://127.0.0.1:{port}/v1/{spec['url']},{spec['model_args']}"
    command = ["lm_eval", "--model", model,
               "--model_args", model_args.replace("TOKENIZER", f"tokenizer_backend=huggingface,tokenizer={tokenizer}"),
               "--include_path", str(HERE.relative_to(ROOT) / "tasks"), "--batch_size", "1",
               "--output_path", str(out / spec.get("output", "out")), *spec["arguments"]]
    if "--predict_only" not in command and "--config" not in command:
        command.append("--log_samples")
    stdout = harness(command, spec.get("environment", {}), work)

    def masked(text):
        text = text.replace(str(tokenizer), MODEL).replace(f"127.0.0.1:{port}", "HOST:PORT")
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}", "DATE", text)

    files = sorted(path for path in out.rglob("*") if path.is_file())
    results = next(path for path in files if path.suffix == ".json")
    found = json.loads(masked(results.read_text()))
    samples = {}
    for path in files:
        if path.suffix == ".jsonl":
            task = re.fullmatch(r"samples_(.*)_DATE\.jsonl", masked(path.name)).group(1)
            samples[task] = [sample_of(line) for line in path.read_text().splitlines()]
    for config in found["configs"].values():
        config["metadata"].pop("config_source", None)  # not in later versions
    return {"files": [masked(str(path.relative_to(out))) for path in files],
            "console": masked(stdout[stdout.index(model + " ("):]),
            "keys": list(found),
            "results": {key: value for key, value in found.items() if key not in ENVIRONMENT_KEYS},
            "samples": samples,
            "bodies": sorted(bodies.read_text().split())}


def main(names):
    golden_file = HERE / "golden.json"
    golden = json.loads(golden_file.read_text()) if golden_file.exists() else {}
    work = pathlib.Path(tempfile.mkdtemp())
    tokenizer = work / "tokenizer"
    tokenizer.mkdir()
    tokenizer_copy(tokenizer)
    port, bodies = free_port(), work / "bodies"
    server = subprocess.Popen([sys.executable, str(ROOT / "tools/eval_replay_server.py"), "made_up", str(port), str(bodies)])
    try:
        time.sleep(1)
        for spec in json.loads((HERE / "runs.json").read_text()):
            if not names or spec["name"] in names:
                golden[spec["name"]] = run(spec, port, tokenizer, work, bodies)
                golden_file.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
                print(spec["name"], len(golden[spec["name"]]["bodies"]), "requests", flush=True)
    finally:
        server.kill()
    shutil.rmtree(work)


if __name__ == "__main__":
    main(sys.argv[1:])
