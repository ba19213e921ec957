"""Shows a running server the pictures of data/shapes and counts the right answers.

Usage: shapes_score.py BASE_URL [DATA_DIR]     (a server of m3-tiny, BF16 or MXFP4)
Prints right answers by the pictures' size; exits 1 when the server fails.
"""
import base64
import collections
import concurrent.futures
import json
import pathlib
import re
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def ask(url, picture, question):
    data = base64.b64encode(picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}},
               {"type": "text", "text": question}]
    body = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 32,
                       "temperature": 0}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", body,
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def main():
    url = sys.argv[1].rstrip("/")
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "data/shapes"
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: ask(url, folder / row["image"], row["question"]), rows))
    right, total = collections.Counter(), collections.Counter()
    for row, answer in zip(rows, answers):
        size = int(re.search(r"_(\d+)\.png$", row["image"]).group(1))
        total[size] += 1
        right[size] += answer == row["answer"]
        if answer != row["answer"]:
            print(f"  {row['image']}: {row['answer']!r}, answered {answer!r}")
    for size in sorted(total):
        print(f"{size} x {size}: {right[size]} of {total[size]}")
    print(f"all: {sum(right.values())} of {sum(total.values())}")


main()
