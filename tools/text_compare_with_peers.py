#!/usr/bin/env python3
"""Compares the tokenizer and the Jinja engine with `tokenizers` and `jinja2`.

  c++ -O1 -std=c++20 -Isrc tools/text_peer_driver.cc build/release/src/quern/text/libquern_text.a \
      build/release/src/quern/base/libquern_base.a -lpcre2-8 -lfmt -lspdlog -o /tmp/text_peer_driver
  python tools/text_compare_with_peers.py /tmp/text_peer_driver [strings] [message lists]
"""
import json, random, subprocess, sys, unicodedata
from pathlib import Path
import jinja2, jinja2.ext, jinja2.sandbox, tokenizers

ROOT = Path(__file__).resolve().parent.parent
DRIVER, STRINGS, LISTS = sys.argv[1], int((sys.argv[2:] or [10000])[0]), int((sys.argv[3:] or [200])[0])
SEED = 20240607
rng = random.Random(SEED)
SCRIPTS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x590, 0x700), (0x900, 0xA00),
           (0xE00, 0xE80), (0x1100, 0x1200), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A0),
           (0x1F300, 0x1FAFF), (0x1680, 0x1820), (0x2000, 0x2070), (0x300, 0x370)]
ADDED = ["]~b]", "[e~[", "]<]minimax[>[", "<tool_call>", "<mm:think>", "</mm:think>", "]<]image[>["]
CODE = (ROOT / "src/quern/text/tokenizer.cc").read_text()


def text():
    kind = rng.randrange(8)
    n = rng.randrange(1, 40)
    if kind == 0:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randrange(low, high)) for _ in range(n))
    if kind == 1:
        return "".join(rng.choice(" \t\n\r\u00a0\u3000\u2028ab.") for _ in range(n))
    if kind == 2:
        return rng.randbytes(n * 3).decode("utf-8", "replace")
    if kind == 3:
        at = rng.randrange(len(CODE))
        return CODE[at:at + rng.randrange(200)]
    if kind == 4:
        return rng.choice(["a", "Word", "ЖАР", "中", "1", "-", "HTTP"]) * rng.randrange(1, 300)
    if kind == 5:
        return "".join(rng.choice(ADDED + [" ", "x", "\n", "</", "Hello"]) for _ in range(n // 3))
    if kind == 6:
        words = ["I'm", "don't", "WE'LL", "they've", "12345", "3.14", "naïve", "/*\n//", "e\u0301", "**\n/", "ſ's", "K'ſ"]
        return " ".join(rng.choice(words) for _ in range(n))
    return "".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(n))
                   if unicodedata.category(chr(c)) not in ("Cs", "Cn"))


def value(depth=0):
    kinds = [lambda: rng.choice(["Oslo", "a < b & 'c'", 'quote "', "über", "😀", "", "line\nbreak"]),
             lambda: rng.randrange(-9, 999), lambda: rng.choice([0.5, 1e20, 1e-7, 5.0, -0.0]),
             lambda: rng.random() < 0.5, lambda: None,
             lambda: [value(depth + 1) for _ in range(rng.randrange(3))],
             lambda: {f"k{i}": value(depth + 1) for i in range(rng.randrange(3))}]
    return rng.choice(kinds if depth < 3 else kinds[:5])()


def messages():
    out = []
    if rng.random() < 0.2: out.append({"role": "root", "content": rng.choice(["", "Root."])})
    if rng.random() < 0.5: out.append({"role": rng.choice(["system", "developer"]), "content": "Be brief."})
    for _ in range(rng.randrange(1, 6)):
        role = rng.choice(["user", "assistant", "tool"])
        m = {"role": role, "content": rng.choice(["Hi", text(), [{"type": "text", "text": "see"}, {"type": "image"}]])}
        if role == "assistant":
            if rng.random() < 0.4: m["reasoning_content"] = rng.choice(["", "because"])
            if rng.random() < 0.2: m["content"] = "<mm:think>\nwhy\n</mm:think>\nso"
            if rng.random() < 0.5:
                m["tool_calls"] = [{"type": "function", "function": {"name": f"f{i}", "arguments": {
                    f"p{j}": value() for j in range(rng.randrange(4))}}} for i in range(rng.randrange(3))]
        out.append(m)
    return out


def environment(chat):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=chat, lstrip_blocks=chat, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return env


def snippets():
    golden = json.loads((ROOT / "tests/golden/text/jinja_snippets.json").read_text())
    return [dict(case, context=golden["context"]) for case in golden["cases"]]


def main():
    tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / "models/m3-tiny/tokenizer.json"))
    requests, expected = [], []
    for _ in range(STRINGS):
        t = text()
        requests.append({"text": t})
        expected.append({"ids": tokenizer.encode(t, add_special_tokens=False).ids, "decoded": t})
    for path in ["models/m3-tiny/chat_template.jinja", "tests/golden/text/minimax_m3_chat_template.jinja"]:
        source = (ROOT / path).read_text()
        compiled = environment(True).from_string(source)
        for _ in range(LISTS):
            context = {"messages": messages(), "tools": rng.choice([None, [{"type": "function", "function": {
                "name": "f", "description": "d <&> é", "parameters": {"z": value(), "a": value()}}}]]),
                "add_generation_prompt": rng.random() < 0.5}
            if rng.random() < 0.6: context["thinking_mode"] = rng.choice(["enabled", "disabled", "adaptive", "x"])
            requests.append({"template": source, "context": context, "chat": True})
            expected.append({"rendered": compiled.render(**context)})
    for case in snippets():
        requests.append({"template": case["template"], "context": case["context"], "chat": case.get("chat", False)})
        try:
            expected.append({"rendered": environment(case.get("chat", False)).from_string(case["template"]).render(**case["context"])})
        except Exception as error:
            expected.append({"error": f"{type(error).__name__}: {error}"})
    stream = "\n".join(json.dumps(r) for r in requests) + "\n"
    lines = subprocess.run([DRIVER, str(ROOT / "models/m3-tiny")], input=stream.encode(), capture_output=True, check=True).stdout
    wrong = 0
    for request, want, line in zip(requests, expected, lines.decode().split("\n"), strict=False):
        got = json.loads(line)
        same = ("error" in got) if "error" in want else got == want
        if not same:
            wrong += 1
            if wrong <= 40: print("DIFFERENT", json.dumps(request)[-300:], "\n  want", json.dumps(want)[:300], "\n  got ", json.dumps(got)[:300])
    print(f"tokenizers {tokenizers.__version__}, jinja2 {jinja2.__version__}, seed {SEED}: {len(requests)} cases "
          f"({STRINGS} strings, 2 x {LISTS} message lists, {len(requests) - STRINGS - 2 * LISTS} snippets), {wrong} different")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
