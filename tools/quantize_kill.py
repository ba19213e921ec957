"""Kills a quantization of 40 shards with SIGKILL at random moments and goes on each time.

    python tools/quantize_kill.py WORK_DIR [--kills 200] [--seed 1] [--quern build/release/bin/quern]

The finished directory must equal, file for file, the one of a run that nothing disturbed, and no killed run may
leave a config.json. Whenever the job is finished it is started anew until all kills are spent.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import time

SHARDS = 40
ROWS, COLUMNS = 512, 2048  # 2 MiB a weight, two a shard


def write_source(directory, generator):
    directory.mkdir(parents=True)
    for shard in range(SHARDS):
        header, size = {}, ROWS * COLUMNS * 2
        for i in range(2):
            header[f"model.layers.{shard}.w{i}.weight"] = {
                "dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [i * size, (i + 1) * size]}
        text = json.dumps(header).encode()
        # Random mantissas, exponents near 2^-5.
        data = bytearray(generator.randbytes(2 * size))
        data[1::2] = b"\x3c" * size
        path = directory / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    (directory / "config.json").write_text('{"model_type": "x"}')
    (directory / "tokenizer.json").write_text("{}")


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work_dir", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quern", default="build/release/bin/quern")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    print("seed", args.seed)
    source, reference, output = (args.work_dir / name for name in ("in", "reference", "out"))
    for directory in (source, reference, output):
        shutil.rmtree(directory, ignore_errors=True)
    write_source(source, generator)

    def start(directory):
        return subprocess.Popen([args.quern, "quantize", "--model_dir", source, "--output_dir", directory,
                                 "--exclude_layers"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    begin = time.monotonic()
    undisturbed = start(reference)
    if undisturbed.wait() != 0:
        sys.exit(undisturbed.stderr.read().decode())
    seconds = time.monotonic() - begin
    expected = contents(reference)
    kills = finished = incomplete = 0
    while kills < args.kills or finished == 0:
        process = start(output)
        if kills < args.kills:
            time.sleep(generator.uniform(0, 0.4 * seconds))
            if process.poll() is None:
                process.kill()
                kills += 1
        status = process.wait()
        if status not in (0, -9):
            sys.exit(process.stderr.read().decode())
        if (output / "config.json").exists():
            # Loadable, so it must be whole, whether the program was killed just behind its last step or not.
            found = contents(output)
            if found != expected:
                differing = [n for n in set(found) | set(expected) if found.get(n) != expected.get(n)]
                sys.exit(f"after {kills} kills these files differ: {sorted(differing)}")
            finished += 1
            shutil.rmtree(output)
        else:
            incomplete += 1
    print(f"{SHARDS} shards, undisturbed run {seconds:.2f} s: {kills} kills, {incomplete} unfinished "
          f"directories gone on with, {finished} finished jobs identical to the undisturbed one")


if __name__ == "__main__":
    main()
