"""Talks to a running server with the `openai` package: answers, streams, tools, pictures, scores, responses, errors.

Usage: openai_client_check.py BASE_URL     (a server of models/m3-tiny with both parsers)
"""
import asyncio
import base64
import json
import pathlib
import sys

import openai

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
TOYS = ("Question: Kevin has 10 toys. Daniel has 3 more toys than Kevin. "
        "How many toys do they have together?\nAnswer:")
WEATHER = [{"role": "user", "content": "What is the weather in Oslo?"}]


def check(name, condition, shown=""):
    print(("ok    " if condition else "WRONG ") + name, shown)
    if not condition:
        sys.exit(1)


ABSENT = object()


def fields(what, found, expected):
    """Every member that the server sent: exactly these names, each of a type or with a value."""
    sent = found.model_dump(exclude_unset=True)
    wanted = {name: value for name, value in expected.items() if value is not ABSENT}
    check(f"{what}: members", set(sent) == set(wanted), set(sent) ^ set(wanted))
    for name, value in wanted.items():
        fits = isinstance(sent[name], value) if isinstance(value, (type, tuple)) else sent[name] == value
        check(f"{what}: {name}", fits, sent[name])


NULL = type(None)
ANSWER = {"id": str, "choices": list, "created": int, "object": "chat.completion", "service_tier": None, "usage": dict,
          "system_fingerprint": None, "prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None}
MESSAGE = {"role": "assistant", "refusal": None, "annotations": None, "audio": None, "function_call": None}
CHOICE = {"index": 0, "message": dict, "logprobs": None, "stop_reason": None, "token_ids": None}
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0,
          "maximum": 99}}, "required": ["name", "age"], "additionalProperties": False}


def answered(what, answer, model, message, **choice):
    fields(what, answer, {**ANSWER, "model": model})
    usage = answer.usage
    check(f"{what}: usage adds up", usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0, usage)
    fields(f"{what}: choice", answer.choices[0], {**CHOICE, **choice})
    fields(f"{what}: message", answer.choices[0].message, {**MESSAGE, **message})
    return answer.choices[0].message


def conversation(client, model):
    """Thinking, two tool calls with their results, plain and streamed, an answer by a schema, log-probabilities."""
    ask = lambda **kw: client.chat.completions.create(model=model, **{"temperature": 0, "max_tokens": 120, **kw})
    messages = [{"role": "user", "content": TOYS}]
    thought = answered("thinking", ask(messages=messages, extra_body={"chat_template_kwargs": {"thinking_mode": "enabled"}}),
                       model, {"content": str, "reasoning": str, "tool_calls": ABSENT}, finish_reason="stop")
    check("thinking: apart", thought.reasoning and "mm:think" not in thought.content + thought.reasoning)

    for turn, (city, weather) in enumerate((("Oslo", "snowy"), ("Athens", "sunny"))):
        messages = messages[:0] if turn == 0 else messages
        messages.append({"role": "user", "content": f"What is the weather in {city}?"})
        request = {"messages": messages, "tools": TOOLS}
        call = answered(f"call {turn}", ask(**request), model, {"content": None, "reasoning": None, "tool_calls": list},
                        finish_reason="tool_calls")
        tool = call.tool_calls[0]
        fields(f"call {turn}: tool", tool, {"id": str, "type": "function", "function": dict})
        fields(f"call {turn}: function", tool.function, {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'})
        check(f"call {turn}: id", tool.id.startswith("chatcmpl-tool-") and len(tool.id) == 46, tool.id)
        check(f"call {turn}: one", len(call.tool_calls) == 1)
        stream = list(ask(**request, stream=True, stream_options={"include_usage": True}))
        deltas = [d for c in stream if c.choices for d in c.choices[0].delta.tool_calls or []]
        check(f"call {turn}: streamed", deltas[0].id and deltas[0].type == "function" and deltas[0].index == 0
              and deltas[0].function.name == "get_weather" and all(d.id is None for d in deltas[1:])
              and "".join(d.function.arguments or "" for d in deltas) == tool.function.arguments)
        check(f"call {turn}: stream's end", stream[-2].choices[0].finish_reason == "tool_calls" and not stream[-1].choices
              and stream[-1].usage.total_tokens > 0 and len({c.id for c in stream}) == 1)
        messages += [call.model_dump(exclude_none=True),
                     {"role": "tool", "tool_call_id": tool.id,
                      "content": f'{{"city": "{city}", "temperature": 14, "condition": "{weather}"}}'}]
        request["messages"] = messages
        told = answered(f"result {turn}", ask(**request), model, {"content": str, "reasoning": None, "tool_calls": ABSENT},
                        finish_reason="stop")
        check(f"result {turn}: told", weather in told.content and city in told.content, told.content)
        pieces = [c.choices[0].delta for c in ask(**request, stream=True)]
        check(f"result {turn}: streamed", pieces[0].role == "assistant"
              and "".join(d.content or "" for d in pieces) == told.content)
        messages.append(told.model_dump(exclude_none=True))

    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    for seed in range(3):
        answer = ask(messages=WEATHER, response_format=form, temperature=1, seed=seed, logprobs=True, top_logprobs=2)
        message = answered(f"schema {seed}", answer, model, {"content": str, "reasoning": (str, NULL), "tool_calls": ABSENT},
                           logprobs=dict, finish_reason="stop")
        person = json.loads(message.content)
        check(f"schema {seed}: valid", list(person) == ["name", "age"] and len(person["name"]) <= 8
              and 0 <= person["age"] <= 99, person)
        scores = answer.choices[0].logprobs.content
        check(f"schema {seed}: a score a token", len(scores) == answer.usage.completion_tokens)
        for score in scores:
            raw = bytes(score.bytes).decode(errors="replace")
            if not (score.logprob <= 0 and len(score.top_logprobs) <= 2 and (raw == score.token or "\ufffd" in score.token)
                    and all(a.logprob >= b.logprob for a, b in zip(score.top_logprobs, score.top_logprobs[1:]))):
                check("score", False, score)


def completions(client, model):
    """Scores of a prompt, as an evaluation asks for them, and what the answer's lists say about each other."""
    ask = lambda **kw: client.completions.create(model=model, **{"temperature": 0, **kw})
    whole = ask(prompt=TOYS, max_tokens=20, logprobs=2)
    lists = whole.choices[0].logprobs
    check("completion logprobs", len(lists.tokens) == len(lists.token_logprobs) == len(lists.text_offset) ==
          len(lists.top_logprobs) == whole.usage.completion_tokens)
    check("greedy tokens are the most probable", all(
        logprob == max(top.values()) for logprob, top in zip(lists.token_logprobs, lists.top_logprobs)))
    echo = ask(prompt=[TOYS, "Question:"], max_tokens=1, logprobs=1, echo=True)
    first = echo.choices[0].logprobs
    check("echo", [c.index for c in echo.choices] == [0, 1] and echo.choices[0].text.startswith(TOYS)
          and first.token_logprobs[0] is None and first.top_logprobs[0] is None)
    check("offsets", all(TOYS[o:o + len(t)] == t for o, t in zip(first.text_offset, first.tokens) if o < len(TOYS)))
    check("scores do not depend on the company", ask(prompt="Question:", max_tokens=1, logprobs=1, echo=True)
          .choices[0].logprobs.token_logprobs == echo.choices[1].logprobs.token_logprobs)
    # The prompt's scores are those that generation had: echo the answer, compare its end.
    again = ask(prompt=TOYS + whole.choices[0].text, max_tokens=0, logprobs=0, echo=True).choices[0]
    tail = again.logprobs.token_logprobs[-len(lists.tokens):]
    same_tokens = again.logprobs.tokens[-len(lists.tokens):] == lists.tokens
    check("scoring equals generating", not same_tokens or all(
        abs(a - b) < 1e-4 for a, b in zip(tail, lists.token_logprobs)), f"same tokens: {same_tokens}")
    streamed = "".join(c.choices[0].text for c in ask(prompt=TOYS, max_tokens=20, stream=True))
    check("streamed completion", streamed == whole.choices[0].text)


def responses(client, model):
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    first = client.responses.create(model=model, input=WEATHER, tools=tools, temperature=0, max_output_tokens=100)
    call = first.output[-1]
    check("response with a call", first.status == "completed" and call.type == "function_call"
          and call.arguments == '{"city": "Oslo"}', call)
    after = client.responses.create(
        model=model, tools=tools, temperature=0, max_output_tokens=100,
        input=WEATHER + [i.model_dump(exclude_none=True) for i in first.output] + [
            {"type": "function_call_output", "call_id": call.call_id,
             "output": '{"city": "Oslo", "temperature": 14, "condition": "snowy"}'}])
    check("response from the tool's result", "14 degrees" in after.output_text, after.output_text)
    events = list(client.responses.create(model=model, input=TOYS, temperature=0, max_output_tokens=100, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    check("response events", [e.sequence_number for e in events] == list(range(len(events)))
          and events[-1].type == "response.completed" and events[-1].response.output_text == text, repr(text[-20:]))
    cut = client.responses.create(model=model, input=TOYS, temperature=0, max_output_tokens=3)
    check("incomplete response", cut.status == "incomplete"
          and cut.incomplete_details.reason == "max_output_tokens" and cut.usage.output_tokens == 3)


def main():
    client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
    model = client.models.list().data[0].id
    ask = lambda **kw: client.chat.completions.create(model=model, **{"temperature": 0, **kw})
    toys = [{"role": "user", "content": TOYS}]

    whole = ask(messages=toys, max_tokens=100)
    text = whole.choices[0].message.content
    check("answer", text.endswith("#### 23") and whole.choices[0].finish_reason == "stop", repr(text))

    chunks = list(ask(messages=toys, max_tokens=100, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check("stream equals answer", streamed == text and chunks[0].choices[0].delta.role == "assistant")
    check("stream usage", chunks[-1].usage == whole.usage or
          chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1].usage.total_tokens)

    call = ask(messages=WEATHER, tools=TOOLS, max_tokens=100).choices[0]
    check("tool call", call.finish_reason == "tool_calls" and
          call.message.tool_calls[0].function.arguments == '{"city": "Oslo"}',
          call.message.tool_calls[0].function)
    pieces = [c.choices[0].delta.tool_calls for c in
              ask(messages=WEATHER, tools=TOOLS, max_tokens=100, stream=True)]
    pieces = [p[0] for p in pieces if p]
    check("streamed tool call", pieces[0].function.name == "get_weather" and
          "".join(p.function.arguments or "" for p in pieces) == '{"city": "Oslo"}')
    after = ask(tools=TOOLS, max_tokens=100, messages=WEATHER + [
        call.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.message.tool_calls[0].id,
         "content": '{"city": "Oslo", "temperature": 14, "condition": "snowy"}'}])
    check("answer from the tool's result", "14 degrees" in after.choices[0].message.content,
          after.choices[0].message.content)

    think = ask(messages=toys, max_tokens=200,
                extra_body={"chat_template_kwargs": {"thinking_mode": "enabled"}}).choices[0].message
    check("reasoning apart", bool(think.reasoning) and "mm:think" not in (think.content or ""),
          repr(think.reasoning))

    stop = ask(messages=toys, max_tokens=100, stop=["Together"]).choices[0]
    check("stop string", stop.stop_reason == "Together" and "Together" not in stop.message.content)
    logprobs = ask(messages=toys, max_tokens=5, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    check("logprobs", len(logprobs) == 5 and all(
        len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob for t in logprobs))
    seeded = [ask(messages=toys, max_tokens=30, temperature=1, seed=7, n=2) for _ in range(2)]
    check("seed and n", [c.message.content for c in seeded[0].choices] ==
          [c.message.content for c in seeded[1].choices] and len(seeded[0].choices) == 2)
    try:
        ask(messages=toys, max_tokens=10**6)
        check("too long", False)
    except openai.BadRequestError as error:
        check("too long", "maximum context length" in str(error))
    try:
        client.chat.completions.create(model="nothing", messages=toys)
        check("unknown model", False)
    except openai.NotFoundError as error:
        check("unknown model", "does not exist" in str(error))

    def picture(name):
        data = (pathlib.Path(__file__).resolve().parent.parent / "data/shapes" / name).read_bytes()
        return {"type": "image_url", "image_url": {
            "url": "data:image/png;base64," + base64.b64encode(data).decode()}}
    what = {"type": "text", "text": "What is in this picture?"}
    seen = ask(max_tokens=32, messages=[{"role": "user", "content": [picture("green_triangle_112.png"), what]}])
    check("picture", seen.choices[0].message.content == "a green triangle", seen.choices[0].message.content)
    turns = ask(max_tokens=32, messages=[
        {"role": "user", "content": [picture("green_triangle_112.png"), what]},
        {"role": "assistant", "content": "a green triangle"},
        {"role": "user", "content": [picture("red_circle_56.png"), what]}])
    check("picture in a second turn", turns.usage.prompt_tokens > seen.usage.prompt_tokens,
          turns.choices[0].message.content)
    try:
        ask(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}]}])
        check("picture from inside", False)
    except openai.BadRequestError as error:
        check("picture from inside", "not public" in str(error))

    conversation(client, model)
    completions(client, model)
    responses(client, model)

    async def many():
        aclient = openai.AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
        answers = await asyncio.gather(*[aclient.chat.completions.create(
            model=model, messages=toys, max_tokens=100, temperature=0) for _ in range(32)])
        return {a.choices[0].message.content for a in answers}
    check("32 at once, all the same", asyncio.run(many()) == {text})


main()
