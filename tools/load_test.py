#!/usr/bin/env python3
"""Loads a running server with more than it takes: plain and streamed answers, clients that leave, slow readers, broken
JSON, bodies that are too large. Standard library only.

  tools/load_test.py URL PID [--seconds 120] [--clients 64] [--seed 1]

URL: of `quern serve models/m3-tiny --max-num-seqs 16 --max-queue-len 32 --max-body-mb 1 --num-gpu-blocks-override 64`
(few blocks, so that all are touched soon); PID: its process, whose resident
memory is read. Fails unless every answer is one of those expected, no client waits longer than 60 s, memory stays flat
after the first third, and in the end the counters add up: as
many generations ended as were accepted, none runs or waits.
"""
import argparse
import asyncio
import collections
import json
import random
import re
import sys
import time
import urllib.parse
import urllib.request

EXPECTED = {"chat": {200, 429}, "completion": {200, 429}, "broken": {400}, "large": {413}, "wrong": {400, 404, 405}}


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))


def metrics(url):
    totals = collections.Counter()
    for line in urllib.request.urlopen(url + "/metrics").read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            totals[name.split("{")[0]] += float(value)
    return totals


class Client:
    def __init__(self, host, port, seed, counts):
        self.host, self.port, self.random, self.counts = host, port, random.Random(seed), counts

    def body(self, kind):
        words = " ".join(self.random.choice(["Oslo", "seven", "toys", "why", "12"]) for _ in range(self.random.randint(1, 200)))
        common = {"max_tokens": self.random.randint(1, 40), "temperature": self.random.choice([0, 1]),
                  "stream": self.random.random() < 0.5, "ignore_eos": True}
        if kind == "chat":
            return "/v1/chat/completions", json.dumps({**common, "messages": [{"role": "user", "content": words}]})
        if kind == "completion":
            return "/v1/completions", json.dumps({**common, "prompt": [words, "Oslo"]})
        if kind == "broken":
            return "/v1/chat/completions", self.random.choice(['{"messages":', "[]", '{"messages": 5}', "\xff", "{" * 500])
        if kind == "large":
            return "/v1/chat/completions", '{"messages": "' + "x" * (2 << 20) + '"}'
        return self.random.choice(["/nowhere", "/v1/responses", "/v1/messages", "/v1/models"]), "{}"

    async def one(self):
        kind = self.random.choices(["chat", "completion", "broken", "large", "wrong"], [10, 5, 2, 1, 1])[0]
        path, body = self.body(kind)
        data = body.encode("latin-1")
        leaves = self.random.random() < 0.2
        slow = self.random.random() < 0.1
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 12)
        try:
            head = (f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(data)}\r\n\r\n").encode()
            try:
                writer.write(head + data)
                await writer.drain()
            except ConnectionError:
                pass  # a refused body may be cut off; the answer is still there to read
            if leaves:
                await asyncio.sleep(self.random.random() * 0.5)
                self.counts["left"] += 1
                return
            answer = b""
            while piece := await reader.read(256 if slow else 1 << 16):
                answer += piece
                if slow:
                    await asyncio.sleep(0.01)
            match = re.match(rb"HTTP/1.1 (\d+)", answer)
            status = int(match.group(1)) if match else 0
            self.counts[f"{kind} {status}"] += 1
            if status not in EXPECTED[kind]:
                self.counts["UNEXPECTED"] += 1
                print("unexpected:", kind, path, answer[:300])
            if status == 429:
                self.counts["no Retry-After"] += b"Retry-After" not in answer
                await asyncio.sleep(self.random.random())
            if b"text/event-stream" in answer and not answer.rstrip().endswith(b"0") and b"[DONE]" not in answer:
                self.counts["UNEXPECTED"] += 1
                print("a stream without an end:", answer[-200:])
        finally:
            writer.close()

    async def run(self, end):
        while time.monotonic() < end:
            try:
                await asyncio.wait_for(self.one(), 60)
            except asyncio.TimeoutError:
                self.counts["UNEXPECTED"] += 1
                print("no answer in 60 s")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("pid", type=int)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place = urllib.parse.urlparse(options.url)
    counts = collections.Counter()
    start = time.monotonic()
    tasks = [asyncio.create_task(Client(place.hostname, place.port, options.seed * 1000 + i, counts).run(start + options.seconds))
             for i in range(options.clients)]
    memory = []
    while time.monotonic() < start + options.seconds:
        await asyncio.sleep(max(0.5, options.seconds / 60))
        memory.append(resident_kb(options.pid))
    await asyncio.gather(*tasks)
    await asyncio.sleep(2)
    end = metrics(options.url)
    ended = end["vllm:request_success_total"]
    accepted = counts["chat 200"] + 2 * counts["completion 200"]  # besides those whose client left
    load = json.load(urllib.request.urlopen(options.url + "/load"))["server_load"]
    third = len(memory) // 3
    early, late = max(memory[third:2 * third]), max(memory[2 * third:])
    print(dict(sorted(counts.items())))
    print(f"generations ended: {ended:.0f}, running {end['vllm:num_requests_running']:.0f}, "
          f"waiting {end['vllm:num_requests_waiting']:.0f}, KV cache in use {end['vllm:kv_cache_usage_perc']:.3f}")
    print(f"resident memory: middle third {early} kB, last third {late} kB")
    wrong = []
    if counts["UNEXPECTED"] or counts["no Retry-After"]:
        wrong.append("unexpected answers")
    if ended < accepted or ended > accepted + 2 * counts["left"] or load or end["vllm:num_requests_running"] or end["vllm:num_requests_waiting"]:
        wrong.append("the counters do not add up")
    if end["vllm:kv_cache_usage_perc"]:
        wrong.append("blocks are not given back")
    if late > early * 1.05 + 4096:
        wrong.append("memory grows")
    print("ok" if not wrong else "WRONG: " + ", ".join(wrong))
    sys.exit(1 if wrong else 0)


asyncio.run(main())
