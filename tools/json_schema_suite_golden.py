#!/usr/bin/env python3
"""Writes tests/golden/grammar/json_schema_suite.json from the JSON Schema Test Suite, which the source
distribution of `jsonschema` on PyPI carries.

    pip download jsonschema==4.26.0 --no-binary :all: --no-deps -d DIR
    tools/json_schema_suite_golden.py DIR/jsonschema-4.26.0.tar.gz

Kept: the mandatory tests of draft 2020-12 except those that need other documents (refRemote) or another
vocabulary; as rows [file, description, schema, [[test, instance, valid], ...]]."""
import json
import pathlib
import sys
import tarfile

SKIPPED = {"refRemote", "vocabulary", "unevaluatedItems", "unevaluatedProperties", "dynamicRef", "format"}


def main() -> None:
    archive = tarfile.open(sys.argv[1])
    root = archive.getnames()[0].split("/")[0]
    folder = f"{root}/json/tests/draft2020-12/"
    rows = []
    for member in sorted(archive.getmembers(), key=lambda m: m.name):
        name = member.name
        if not name.startswith(folder) or not name.endswith(".json") or "/" in name[len(folder):]:
            continue
        file = name[len(folder):-len(".json")]
        if file in SKIPPED:
            continue
        for case in json.load(archive.extractfile(member)):
            schema = case["schema"]
            if isinstance(schema, dict):
                schema.pop("$schema", None)
            rows.append([file, case["description"], schema,
                         [[t["description"], t["data"], t["valid"]] for t in case["tests"]]])
    out = pathlib.Path(__file__).parent.parent / "tests/golden/grammar"
    out.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n"
    (out / "json_schema_suite.json").write_text(text)
    licence = archive.extractfile(f"{root}/json/LICENSE").read().decode()
    (out / "json_schema_suite.LICENSE").write_text(licence)
    print(len(rows), "schemas,", sum(len(row[3]) for row in rows), "instances")


if __name__ == "__main__":
    main()
