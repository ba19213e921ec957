#!/usr/bin/env python3
"""A server that answers chat requests from a list, to compare `quern eval` with lm-evaluation-harness.

  eval_replay_server.py make DATA.jsonl ANSWERS.jsonl [N] [SEED] [cot]   writes answers of many forms
  eval_replay_server.py serve ANSWERS.jsonl PORT                              replays them

An answer belongs to a question: the last user message ends with "Question: <question>\\nAnswer:", or with
"Q: <question>\\nA:" (and perhaps more). `cot`: most answers end as the chain-of-thought tasks want them. The
same question always gets the same answer, whoever asks. Python's standard library only.
"""
import http.server
import json
import random
import sys


def forms(gold: str, work: str, rnd: random.Random):
    """(name, text or None) of one answer; right and wrong forms in about equal shares."""
    plain = gold.replace(",", "")
    wrong = str(int(plain) + rnd.choice([-7, -1, 1, 2, 10, 100]))
    grouped = f"{int(plain):,}"
    right = [
        work,
        f"The work.\n#### {gold}",
        f"#### {grouped}",
        f"#### {plain}.",
        f"The answer is ${grouped}.",
        f"So it is **{plain}** dollars",
        f"$$x = {plain}$$",
        f"First 3, then 4.5, at last {plain}",
        f"Ответ — {plain} 元",
        f"##### {plain}",
        f"#### {plain}\n\n",
        f"\u201cAnswer\u201d:\u00a0{plain}\u3000\U0001f600",
        f"#### {plain}\n#### {wrong}",
    ]
    bad = [
        f"#### {wrong}",
        f"#### ${plain}.00",
        f"#### {plain}.0",
        f"The answer is ${plain}.50.",
        f"#### {plain} of which 3",
        f"#### -{plain}",
        f"\u2212{wrong}",
        "No number at all.",
        "",
        None,
        f"I get {plain} from {wrong}",
        f"...{wrong}...",
        f"$.",
        f"１８ and {wrong},",
        "Question: again?",
        f"Line\r\n\t#### {wrong}\x0b",
        f"#### {plain},,{wrong}",
        f"{{\"answer\": \"{wrong}\\n\"}}",
    ]
    return rnd.choice(right) if rnd.random() < 0.6 else rnd.choice(bad)


def cot_form(gold: str, rnd: random.Random):
    plain = gold.replace(",", "")
    wrong = str(int(plain) + rnd.choice([-7, -1, 1, 2, 10, 100]))
    return rnd.choice([
        f"Work. The answer is {plain}.", f"The answer is {int(plain):,}.", f"The answer is {plain}",
        f"The answer is {wrong}. No: the answer is {plain}.", f"The answer is {wrong}.",
        f"The final answer is {plain}", f"The final answer is {wrong}. The answer is {wrong}.",
    ])


def make(data: str, out: str, count: int, seed: int, cot: bool) -> None:
    rnd = random.Random(seed)
    rows = [json.loads(line) for line in open(data, encoding="utf-8")][:count]
    with open(out, "w", encoding="utf-8") as file:
        for row in rows:
            gold = row["answer"].split("#### ")[-1]
            answer = cot_form(gold, rnd) if cot and rnd.random() < 0.7 else forms(gold, row["answer"], rnd)
            file.write(json.dumps({"question": row["question"], "content": answer}, ensure_ascii=False) + "\n")


def question_of(text: str) -> str:
    for begin, end in (("Question: ", "\nAnswer:"), ("Q: ", "\nA:"), ("\nProblem: ", "\nYour response")):
        if begin in text and end in text.rsplit(begin, 1)[1]:
            return text.rsplit(begin, 1)[1].rsplit(end, 1)[0]
    return text


def serve(path: str, port: int) -> None:
    answers = {}
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        answers[row["question"]] = row["content"]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, value):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path == "/v1/models":
                self.reply(200, {"object": "list", "data": [{"id": "replay", "fingerprint": "replay-1"}]})
            else:
                self.reply(404, {"error": {"message": "not found"}})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = question_of(request["messages"][-1]["content"])
            if question not in answers:
                self.reply(404, {"error": {"message": "unknown question"}})
                return
            message = {"role": "assistant", "content": answers[question]}
            self.reply(200, {"object": "chat.completion", "model": request["model"],
                             "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    if len(sys.argv) >= 4 and sys.argv[1] == "make":
        make(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 10**9,
             int(sys.argv[5]) if len(sys.argv) > 5 else 1, sys.argv[6:7] == ["cot"])
    elif len(sys.argv) == 4 and sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(__doc__)
