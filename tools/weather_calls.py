#!/usr/bin/env python3
"""The conversations of data/weather through a server's chat API: is the call the expected one, and after the
tool's result the answer? Standard library only.

  tools/weather_calls.py BASE_URL MODEL [--stream] [--tool-choice auto|required|named] [--limit N]

Prints two counts; exit status 1 when a request failed or an answer was malformed (not when the model was wrong).
"""
import argparse
import concurrent.futures
import json
import pathlib
import urllib.request

DATA = pathlib.Path(__file__).resolve().parent.parent / "data/weather/test.jsonl"


def post(url, body):
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=300)


def streamed_message(response):
    """Joins the deltas of a streamed answer to one message."""
    message = {"role": "assistant", "content": None, "tool_calls": []}
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            delta = choice["delta"]
            if delta.get("content"):
                message["content"] = (message["content"] or "") + delta["content"]
            for piece in delta.get("tool_calls") or []:
                calls = message["tool_calls"]
                if piece["index"] == len(calls):
                    calls.append({"id": piece["id"], "type": "function",
                                  "function": {"name": piece["function"]["name"], "arguments": ""}})
                calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
    return message


def ask(options, row, messages):
    body = {"model": options.model, "messages": messages, "tools": row["tools"], "max_tokens": 128,
            "temperature": 0, "stream": options.stream}
    if options.tool_choice == "named" and len(messages) == 1:
        body["tool_choice"] = {"type": "function", "function": {"name": row["call"]["name"]}}
    elif options.tool_choice == "required" and len(messages) == 1:
        body["tool_choice"] = "required"
    with post(options.url, body) as response:
        if options.stream:
            return streamed_message(response)
        return json.load(response)["choices"][0]["message"]


def conversation(options, row):
    first = ask(options, row, row["messages"])
    calls = [{"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])}
             for c in first.get("tool_calls") or []]
    expected = [row["call"]]
    messages = row["messages"] + [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call-0", "type": "function",
             "function": {"name": row["call"]["name"], "arguments": json.dumps(row["call"]["arguments"])}}]},
        {"role": "tool", "tool_call_id": "call-0", "content": row["tool_result"]}]
    second = ask(options, row, messages)
    return calls == expected, (second["content"] or "").strip() == row["answer"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://127.0.0.1:8000")
    parser.add_argument("model")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--tool-choice", choices=["auto", "required", "named"], default="auto")
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    rows = [json.loads(line) for line in DATA.read_text().splitlines()][:options.limit]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda row: conversation(options, row), rows))
    print(f"calls {sum(c for c, _ in results)} of {len(rows)}, answers {sum(a for _, a in results)} of {len(rows)}")


main()
