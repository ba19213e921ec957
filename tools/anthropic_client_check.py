"""Talks to a running server with the `anthropic` package: a conversation with a call, streams, errors.

Usage: anthropic_client_check.py BASE_URL     (a server of models/m3-tiny with both parsers)
"""
import sys

import anthropic

TOOLS = [{"name": "get_weather", "description": "Get the current weather in a city.",
          "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]
TOYS = ("Question: Kevin has 10 toys. Daniel has 3 more toys than Kevin. "
        "How many toys do they have together?\nAnswer:")
WEATHER = [{"role": "user", "content": "What is the weather in Oslo?"}]


def check(name, condition, shown=""):
    print(("ok    " if condition else "WRONG ") + name, shown)
    if not condition:
        sys.exit(1)


def main():
    client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none")
    model = client.models.list().data[0].id
    # Newer packages know no temperature.
    common = {"model": model, "max_tokens": 200, "extra_body": {"temperature": 0}}
    enabled = {**common, "extra_body": {"temperature": 0, "chat_template_kwargs": {"thinking_mode": "enabled"}}}
    toys = [{"role": "user", "content": TOYS}]

    whole = client.messages.create(messages=toys, **common)
    check("answer", whole.content[-1].text.endswith("#### 23") and whole.stop_reason == "end_turn"
          and whole.role == "assistant" and whole.usage.output_tokens > 0, repr(whole.content[-1].text))
    counted = client.messages.count_tokens(model=model, messages=toys)
    check("count_tokens", counted.input_tokens == whole.usage.input_tokens, counted.input_tokens)
    with client.messages.stream(messages=toys, **common) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("stream equals answer", text == whole.content[-1].text and final.stop_reason == "end_turn"
          and final.usage.output_tokens == whole.usage.output_tokens)

    asked = client.messages.create(messages=WEATHER, tools=TOOLS, **common)
    call = asked.content[-1]
    check("tool call", asked.stop_reason == "tool_use" and call.name == "get_weather" and call.input == {"city": "Oslo"},
          call)
    with client.messages.stream(messages=WEATHER, tools=TOOLS, **common) as stream:
        final = stream.get_final_message()
    check("streamed tool call", final.content[-1].input == call.input and final.stop_reason == "tool_use")
    after = client.messages.create(tools=TOOLS, messages=WEATHER + [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in asked.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id,
                                      "content": '{"city": "Oslo", "temperature": 14, "condition": "snowy"}'}]}], **common)
    check("answer from the tool's result", "14 degrees" in after.content[-1].text, after.content[-1].text)

    thinking = client.messages.create(messages=toys, **enabled)
    check("thinking apart", thinking.content[0].type == "thinking" and thinking.content[0].thinking != ""
          and all("mm:think" not in getattr(block, "text", "") for block in thinking.content))
    with client.messages.stream(messages=toys, **enabled) as stream:
        final = stream.get_final_message()
    check("streamed thinking", final.content[0].thinking == thinking.content[0].thinking)
    cut = client.messages.create(messages=toys, **{**common, "max_tokens": 3})
    check("cut", cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3)
    for name, kind, change in [("unknown model", anthropic.NotFoundError, {"model": "nothing"}),
                               ("too long", anthropic.BadRequestError, {"max_tokens": 10**4})]:
        try:
            client.messages.create(messages=toys, **{**common, **change})
            check(name, False)
        except kind as error:
            check(name, error.body["type"] == "error", error.body["error"]["message"][:60])


main()
