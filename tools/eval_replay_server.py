#!/usr/bin/env python3
"""A server that answers chat requests from a list, to compare `quern eval` with lm-evaluation-harness.

  eval_replay_server.py make DATA.jsonl ANSWERS.jsonl [N] [SEED] [cot]   writes answers of many forms
  eval_replay_server.py serve ANSWERS.jsonl PORT                              replays them
  eval_replay_server.py made_up PORT [BODIES]      answers anything, also echo and logprobs, out of the prompt

An answer belongs to a question: the last user message ends with "Question: <question>\\nAnswer:", or with
"Q: <question>\\nA:" (and perhaps more). `cot`: most answers end as the chain-of-thought tasks want them. The
same question always gets the same answer, whoever asks. `made_up` computes answers and likelihoods from the
prompt's bytes or tokens (tests/apps/made_up_server.h does the same) and appends the sha256 of each body to
BODIES. Python's standard library only.
"""
import functools
import hashlib
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


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives `answer(body)` -> (status, value) to every POST."""
    protocol_version = "HTTP/1.1"
    answer = None

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
        self.reply(*self.answer(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def chat_answer(model, content):
    message = {"role": "assistant", "content": content}
    return {"object": "chat.completion", "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def serve(path: str, port: int) -> None:
    answers = {}
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        answers[row["question"]] = row["content"]

    def answer(_, body):
        request = json.loads(body)
        question = question_of(request["messages"][-1]["content"])
        if question not in answers:
            return 404, {"error": {"message": "unknown question"}}
        return 200, chat_answer(request["model"], answers[question])

    Handler.answer = answer
    Server(("127.0.0.1", port), Handler).serve_forever()


def mix(state: int, value: int) -> int:
    return ((state * 1000003) ^ value) & 0xFFFFFFFF


def made_up_text(prompt):
    """Of messages, text or tokens; None: no content."""
    if isinstance(prompt, list) and isinstance(prompt[0], dict):
        prompt = "".join(message["content"] for message in prompt)
    values = prompt.encode() if isinstance(prompt, str) else prompt[0]
    state = functools.reduce(mix, values, 7)
    if state % 11 == 0:
        return None
    if state % 13 == 0:
        return "No number."
    return f"I think it is {state % 4}.\n#### {state // 4 % 4}"


def made_up_logprobs(tokens):
    chosen, top = [None], [None]
    for before, token in zip(tokens, tokens[1:] + [0]):
        state = mix(mix(7, before), token) % 1009
        chosen.append(-state / 1013)
        top.append({"chosen": chosen[-1], "best": chosen[-1] / (1 if state % 5 else 2)})
    return {"token_logprobs": chosen, "top_logprobs": top}


def made_up(port: int, bodies: str) -> None:
    def answer(_, body):
        if bodies:
            with open(bodies, "a", encoding="utf-8") as file:
                file.write(hashlib.sha256(body).hexdigest() + "\n")
        request = json.loads(body)
        if "messages" in request:
            return 200, chat_answer(request["model"], made_up_text(request["messages"]))
        if request.get("echo"):
            choice = {"index": 0, "text": "", "logprobs": made_up_logprobs(request["prompt"][0])}
        else:
            choice = {"index": 0, "text": made_up_text(request["prompt"])}
        return 200, {"object": "text_completion", "model": request["model"], "choices": [choice]}

    Handler.answer = answer
    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    if len(sys.argv) >= 4 and sys.argv[1] == "make":
        make(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 10**9,
             int(sys.argv[5]) if len(sys.argv) > 5 else 1, sys.argv[6:7] == ["cot"])
    elif len(sys.argv) == 4 and sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    elif len(sys.argv) in (3, 4) and sys.argv[1] == "made_up":
        made_up(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
    else:
        sys.exit(__doc__)
