#!/usr/bin/env python3
"""Structured output and forced tool calls against a running server, judged by `jsonschema` from PyPI.

    quern serve models/m3-tiny --port 8000 --enable-auto-tool-choice --tool-call-parser minimax_m3 \\
        --reasoning-parser minimax_m3
    tools/structured_output_check.py http://localhost:8000 [--schemas 330] [--max-tokens 1500]

1. Schemas (those of the JSON Schema Test Suite that the server supports, and random ones: nested,
   recursive, unicode, numbers, patterns, large) sampled at temperature 2. Every answer that finishes has
   to validate.
2. The conversations of data/weather with tool_choice required and named: each answer is a call that
   validates against its tool's parameters."""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import urllib.error
import urllib.request

import jsonschema

ROOT = pathlib.Path(__file__).parent.parent


def post(url, body):
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=900) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def random_schema(r, depth):
    kind = r.choice(["string", "string", "integer", "number", "boolean", "null", "enum", "const", "format",
                     "pattern"] + (["object"] * 5 + ["array"] * 2 + ["anyOf", "allOf"] if depth else []))
    if kind == "string":
        low = r.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + r.randrange(30)}
    if kind == "integer":
        low = r.randrange(-1000, 1000)
        schema = {"type": "integer", "minimum": low, "maximum": low + r.randrange(20, 5000)}
        if r.random() < 0.3:
            schema["multipleOf"] = r.randrange(1, 12)
        return schema
    if kind == "number":
        low = round(r.uniform(-100, 100), 2)
        return {"type": "number", r.choice(["minimum", "exclusiveMinimum"]): low,
                r.choice(["maximum", "exclusiveMaximum"]): low + 50}
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "enum":
        return {"enum": r.sample(["red", "grün", "蓝", 7, -1.5, None, True, [1, 2], {"k": "v"}], 4)}
    if kind == "const":
        return {"const": r.choice(["ok", 42, False, {"a": [None]}, "ünï\n\"cödé\""])}
    if kind == "format":
        return {"type": "string", "format": r.choice(["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email",
                                                      "uri", "hostname", "duration"])}
    if kind == "pattern":
        return {"type": "string", "pattern": r.choice(["^[A-Z]{2,5}-[0-9]{1,6}$", "^(foo|bar)+baz?$", "^\\d{3}\\s\\w+$",
                                                       "^[äöüß]{1,9}$", "^$|^x[^y]y$"]), "maxLength": 40}
    if kind == "array":
        low = r.randrange(3)
        return {"type": "array", "items": random_schema(r, depth - 1), "minItems": low, "maxItems": low + r.randrange(4)}
    if kind == "anyOf":
        return {"anyOf": [random_schema(r, depth - 1) for _ in range(3)]}
    if kind == "allOf":
        return {"allOf": [{"type": "integer", "minimum": r.randrange(50)}, {"maximum": 50 + r.randrange(50)}]}
    names = r.sample(["id", "name", "größe", "名前", "a b", "quote\"d", "x_1", "value", "items", "meta"], r.randrange(1, 6))
    return {"type": "object", "properties": {n: random_schema(r, depth - 1) for n in names},
            "required": r.sample(names, r.randrange(len(names) + 1)), "additionalProperties": False}


def recursive_schema(r):
    return {"$ref": "#/$defs/node",
            "$defs": {"node": {"type": "object", "additionalProperties": False, "required": ["v", "next"],
                               "properties": {"v": random_schema(r, 0),
                                              "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}}


def large_schema(r):
    return {"type": "object", "additionalProperties": False,
            "properties": {f"field_{i}": random_schema(r, 1) for i in range(60)}, "required": ["field_0", "field_7"]}


def schemas(count, every):
    suite = json.loads((ROOT / "tests/golden/grammar/json_schema_suite.json").read_text())[::every]
    result = [row[2] for row in suite]
    r = random.Random(1)
    while len(result) < count + len(suite):
        result.append(r.choice([lambda: random_schema(r, 3)] * 6 + [lambda: recursive_schema(r), lambda: large_schema(r)])())
    return result


def check_schema(url, schema, seed, max_tokens):
    status, answer = post(url, {
        "messages": [{"role": "user", "content": "Give me an example."}], "temperature": 2, "top_p": 1, "top_k": -1, "seed": seed,
        "max_tokens": max_tokens, "chat_template_kwargs": {"thinking_mode": "disabled"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
    if status == 400:
        return "refused", answer["error"]["message"]
    if status != 200:
        return "FAILED", f"{status} {answer}"
    choice = answer["choices"][0]
    if choice["finish_reason"] != "stop":
        return "unfinished", ""
    try:
        value = json.loads(choice["message"]["content"])
        jsonschema.Draft202012Validator(schema).validate(value)
    except Exception as error:
        return "INVALID", f"{json.dumps(schema)} -> {choice['message']['content']!r}: {error}"
    return "valid", ""


def check_tool(url, row, seed, named):
    name = row["call"]["name"]
    choice = {"type": "function", "function": {"name": name}} if named else "required"
    status, answer = post(url, {
        "messages": row["messages"], "tools": row["tools"], "tool_choice": choice, "temperature": 1, "seed": seed,
        "max_tokens": 600, "chat_template_kwargs": {"thinking_mode": "disabled"}})
    if status != 200:
        return "FAILED", f"{status} {answer}"
    choice = answer["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    if choice["finish_reason"] == "length":
        return "unfinished", ""
    try:
        assert calls and choice["message"].get("content") is None, choice
        for call in calls:
            tool = next(t["function"] for t in row["tools"] if t["function"]["name"] == call["function"]["name"])
            jsonschema.validate(json.loads(call["function"]["arguments"]), tool["parameters"])
        assert not named or [c["function"]["name"] for c in calls] == [name], choice
    except Exception as error:
        return "INVALID", f"{choice}: {error}"
    same = calls[0]["function"]["name"] == name and json.loads(calls[0]["function"]["arguments"]) == row["call"]["arguments"]
    return ("valid, the call wanted" if same else "valid, another call"), ""


def report(title, results):
    counts = {}
    for kind, _ in results:
        counts[kind] = counts.get(kind, 0) + 1
    print(title, dict(sorted(counts.items())), flush=True)
    for kind, detail in results:
        if kind in ("INVALID", "FAILED"):
            print(" ", kind, detail)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--schemas", type=int, default=330, help="random ones, beside those of the suite")
    parser.add_argument("--suite-every", type=int, default=1, help="each n-th schema of the suite")
    parser.add_argument("--max-tokens", type=int, default=1500)
    parser.add_argument("--parallel", type=int, default=32)
    args = parser.parse_args()
    weather = [json.loads(line) for line in (ROOT / "data/weather/test.jsonl").read_text().splitlines()][:100]
    with concurrent.futures.ThreadPoolExecutor(args.parallel) as pool:
        bad = 0
        for named in (False, True):
            jobs = [pool.submit(check_tool, args.url, row, i, named) for i, row in enumerate(weather)]
            counts = report("named" if named else "required", [job.result() for job in jobs])
            bad += counts.get("INVALID", 0) + counts.get("FAILED", 0)
        jobs = [pool.submit(check_schema, args.url, s, i, args.max_tokens) for i, s in enumerate(schemas(args.schemas, args.suite_every))]
        counts = report("schemas", [job.result() for job in jobs])
        bad += counts.get("INVALID", 0) + counts.get("FAILED", 0)
        few = counts.get("valid", 0) < 250
    sys.exit(1 if bad or few else 0)


if __name__ == "__main__":
    main()
