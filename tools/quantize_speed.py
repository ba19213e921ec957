"""Quern's quantizer, a copy of the same bytes and AMD Quark on the same file in the same run.

    python tools/quantize_speed.py WORK_DIR [--mib 2048] [--quark_mib 1024] [--build build/release]

Runs bench/quantize_bench on a made checkpoint of --mib, then, when `import quark` works for the Python that runs
this, Quark and `quern quantize` on one of --quark_mib, on the same cores: Quark's own time without its start (a run on
a small file comes first and compiles what it compiles), quern's with its start, with and without its report.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time


def write_checkpoint(directory, mib):
    """Shards of at most a GiB."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(range(0, mib, 1024)):
        write_shard(directory / f"model-{shard + 1:05}.safetensors", 4 * shard, min(1024, mib - first))
    (directory / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')


def write_shard(path, layer, mib):
    import numpy

    rows = mib * (1 << 20) // (2 * 4096)
    names = [f"model.layers.{layer + i}.mlp.w.weight" for i in range(4)]
    header, begin = {}, 0
    for name in names:
        end = begin + rows // 4 * 4096 * 2
        header[name] = {"dtype": "BF16", "shape": [rows // 4, 4096], "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(1)
    piece = (random.standard_normal(1 << 21).astype(numpy.float32) * 0.02).view(numpy.uint32) >> 16
    piece = piece.astype(numpy.uint16).tobytes()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for offset in range(0, begin, len(piece)):
            file.write(piece[: begin - offset])


def settle(directory):
    """The source in the page cache (quern drops it from there), earlier output on the disk."""
    os.sync()
    for path in directory.glob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def size_gb(directory):
    return sum(path.stat().st_size for path in directory.glob("*.safetensors")) / 1e9


def quark_rate(source, output):
    from quark.torch import ModelQuantizer
    from quark.torch.quantization.config.template import LLMTemplate

    config = LLMTemplate.get("llama").get_config(scheme="mxfp4", exclude_layers=[])
    quantizer = ModelQuantizer(config)
    settle(source)
    begin = time.monotonic()
    quantizer.direct_quantize_checkpoint(pretrained_model_path=str(source), save_path=str(output), device="cpu")
    return size_gb(source) / (time.monotonic() - begin)


def quern_rate(binary, source, output, *options):
    shutil.rmtree(output, ignore_errors=True)
    settle(source)
    begin = time.monotonic()
    subprocess.run([binary, "quantize", "--model_dir", source, "--output_dir", output, "--exclude_layers", "none",
                    *options],
                   check=True, capture_output=True)
    return size_gb(source) / (time.monotonic() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work_dir", type=pathlib.Path)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--quark_mib", type=int, default=1024)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/release"))
    args = parser.parse_args()
    source, small, first = (args.work_dir / name for name in ("source", "quark_source", "quark_first"))
    write_checkpoint(source, args.mib)
    write_checkpoint(small, args.quark_mib)
    write_checkpoint(first, 1)
    subprocess.run([args.build / "bench/quantize_bench", source, args.work_dir], check=True, stderr=subprocess.DEVNULL)
    try:
        import quark  # noqa: F401
    except ImportError:
        print("quark        not installed for", sys.executable)
    else:
        quark_rate(first, args.work_dir / "quark")
        quark = quark_rate(small, args.work_dir / "quark")
        print(f"quark        file to file           {quark:7.3f} GB/s of source")
        for options in ([], ["--no_report"]):
            quern = max(quern_rate(args.build / "bin/quern", small, args.work_dir / "quern", *options) for _ in range(3))
            print(f"quern        {'without report' if options else 'with report':<22} {quern:7.3f} GB/s of source, {quern / quark:.1f} times Quark")
    for name in ("source", "quark_source", "quark_first", "quark", "quern"):
        shutil.rmtree(args.work_dir / name, ignore_errors=True)


if __name__ == "__main__":
    main()
