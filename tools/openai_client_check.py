"""Talks to a running server with the `openai` package: answers, streams, tools, pictures, errors.

Usage: openai_client_check.py BASE_URL     (a server of models/m3-tiny with both parsers)
"""
import asyncio
import base64
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

    async def many():
        aclient = openai.AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
        answers = await asyncio.gather(*[aclient.chat.completions.create(
            model=model, messages=toys, max_tokens=100, temperature=0) for _ in range(32)])
        return {a.choices[0].message.content for a in answers}
    check("32 at once, all the same", asyncio.run(many()) == {text})


main()
