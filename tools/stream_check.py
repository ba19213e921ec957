#!/usr/bin/env python3
"""Random generations twice, whole and streamed, with the same seed: do the chunks join to the whole answer?
Standard library only.

  tools/stream_check.py BASE_URL [--count 500] [--seed 1]      (a server with both parsers)

Compared: content, reasoning, tool calls (arguments as JSON), finish and stop reasons, log-probabilities, usage; and of
/v1/completions the text, scores and token ids. Exit status 1 at the first difference.
"""
import argparse
import concurrent.futures
import json
import random
import sys
import urllib.request

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
TEXTS = ["What is the weather in {}?", "Question: {} has 3 toys and gets 4. How many?\nAnswer:", "{}"]
NAMES = ["Oslo", "Kevin", "a very long question about nothing at all", "中文 and émoji 🙂"]


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=300)


def events(response):
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def joined_chat(response, n):
    choices = [{"content": "", "reasoning": "", "calls": [], "logprobs": [], "finish": None} for _ in range(n)]
    usage = None
    for event in events(response):
        usage = event.get("usage") or usage
        for part in event["choices"]:
            choice, delta = choices[part["index"]], part["delta"]
            assert choice["finish"] is None, "a chunk behind the last one"
            choice["content"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(choice["calls"]):
                    choice["calls"].append([call["function"]["name"], ""])
                choice["calls"][call["index"]][1] += call["function"].get("arguments") or ""
            choice["logprobs"] += (part["logprobs"] or {"content": []})["content"]
            if part["finish_reason"]:
                choice["finish"] = [part["finish_reason"], part["stop_reason"]]
    for choice in choices:
        choice["calls"] = [[name, json.loads(text)] for name, text in choice["calls"]]
    return choices, usage


def whole_chat(body):
    choices = []
    for choice in body["choices"]:
        message = choice["message"]
        calls = [[c["function"]["name"], json.loads(c["function"]["arguments"])] for c in message.get("tool_calls") or []]
        choices.append({"content": message["content"] or "", "reasoning": message["reasoning"] or "", "calls": calls,
                        "logprobs": choice["logprobs"]["content"] if choice["logprobs"] else [],
                        "finish": [choice["finish_reason"], choice["stop_reason"]]})
    return choices, body["usage"]


def check_chat(url, number, draw):
    text = draw.choice(TEXTS).format(draw.choice(NAMES))
    n = draw.choice([1, 1, 2])
    body = {"messages": [{"role": "user", "content": text}], "temperature": draw.choice([0.7, 1, 2]), "n": n,
            "seed": number, "max_tokens": draw.randint(1, 80), "logprobs": draw.random() < 0.5}
    if draw.random() < 0.5:
        body["tools"] = TOOLS
    if draw.random() < 0.3:
        body["stop"] = [draw.choice(["e", " the", "\n"])]
    if draw.random() < 0.3:
        body["chat_template_kwargs"] = {"thinking_mode": "enabled"}
    whole, usage = whole_chat(json.load(post(url, "/v1/chat/completions", body)))
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    chunks, last = joined_chat(post(url, "/v1/chat/completions", stream), n)
    for choice, other in zip(whole, chunks):
        if choice["calls"] and not choice["content"].strip():  # blanks before a call: null in a whole answer
            choice["content"] = other["content"] = ""
    same_usage = all(usage[key] == last[key] for key in last)
    return body, whole == chunks and same_usage, whole, chunks


def check_completion(url, number, draw):
    body = {"prompt": [draw.choice(NAMES), "x"], "temperature": 1, "seed": number, "max_tokens": draw.randint(1, 40),
            "logprobs": draw.choice([None, 0, 3]), "echo": draw.random() < 0.5, "return_token_ids": draw.random() < 0.5}
    whole = json.load(post(url, "/v1/completions", body))["choices"]
    joined = [{"text": "", "ids": [], "scores": [], "offsets": [], "finish": None} for _ in whole]
    for event in events(post(url, "/v1/completions", {**body, "stream": True})):
        for part in event["choices"]:
            choice = joined[part["index"]]
            choice["text"] += part["text"]
            choice["ids"] += part["token_ids"] or []
            if part["logprobs"]:
                choice["scores"] += part["logprobs"]["token_logprobs"]
                choice["offsets"] += part["logprobs"]["text_offset"]
            choice["finish"] = part["finish_reason"] or choice["finish"]
    expected = [{"text": c["text"], "ids": c["token_ids"] or [], "finish": c["finish_reason"],
                 "scores": (c["logprobs"] or {"token_logprobs": []})["token_logprobs"],
                 "offsets": (c["logprobs"] or {"text_offset": []})["text_offset"]} for c in whole]
    return body, expected == joined, expected, joined


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def run(number):
        draw = random.Random(options.seed * 1_000_003 + number)
        return (check_completion if number % 5 == 0 else check_chat)(options.url, number, draw)

    calls = 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for body, same, whole, chunks in pool.map(run, range(options.count)):
            calls += sum(len(choice.get("calls", [])) for choice in whole)
            if not same:
                print("DIFFERENT", json.dumps(body), "\nwhole ", json.dumps(whole), "\nstream", json.dumps(chunks))
                sys.exit(1)
    print(f"{options.count} of {options.count} equal, {calls} tool calls among them")


main()
