"""Makes tests/golden/quark_hashes.json from outputs of AMD Quark (tools/quark_reference.py).

    python tools/quark_golden.py NAME=QUARK_OUTPUT[,SOURCE] ... > tests/golden/quark_hashes.json
"""

import json
import os
import sys

import quark
import xxhash


def file_hash(path):
    digest = xxhash.xxh3_64()
    with open(path, "rb") as f:
        while piece := f.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()


def shard_hashes(directory):
    names = sorted(n for n in os.listdir(directory) if n.endswith(".safetensors"))
    return {name: file_hash(os.path.join(directory, name)) for name in names}


def main():
    result = {"quark_version": quark.__version__}
    for argument in sys.argv[1:]:
        name, paths = argument.split("=")
        output, _, source = paths.partition(",")
        entry = {"source": shard_hashes(source)} if source else {}
        entry["shards"] = shard_hashes(output)
        entry["index"] = file_hash(os.path.join(output, "model.safetensors.index.json"))
        with open(os.path.join(output, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        del config["quantization_config"]["version"]
        text = json.dumps(config, ensure_ascii=False, indent=4)
        entry["config_without_version"] = xxhash.xxh3_64(text.encode()).hexdigest()
        result[name] = entry
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
