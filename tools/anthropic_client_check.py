"""Talks to a running server with the `anthropic` package: a conversation with a call, streams, errors.

Usage: anthropic_client_check.py BASE_URL     (a server of models/m3-tiny with both parsers)
"""
import json
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


def fields(what, found, expected):
    """Every member that the server sent: exactly these names, each of a type or with a value."""
    sent = found.model_dump(exclude_unset=True)
    check(f"{what}: members", set(sent) == set(expected), set(sent) ^ set(expected))
    for name, value in expected.items():
        fits = isinstance(sent[name], value) if isinstance(value, type) else sent[name] == value
        check(f"{what}: {name}", fits, sent[name])


def conversation(client, model, common):
    """Thinking, two calls with their results, each plain and streamed, an answer by a schema."""
    def both(what, stop_reason, **request):
        whole = client.messages.create(**common, **request)
        fields(what, whole, {"id": str, "type": "message", "role": "assistant", "content": list, "model": model,
                             "stop_reason": stop_reason, "stop_sequence": None, "usage": dict})
        check(f"{what}: usage", whole.usage.input_tokens > 0 < whole.usage.output_tokens, whole.usage)
        with client.messages.stream(**common, **request) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()
        check(f"{what}: events", kinds[0] == "message_start" and kinds[-1] == "message_stop"
              and kinds.count("content_block_start") == kinds.count("content_block_stop") == len(whole.content))
        clean = lambda block: {k: v for k, v in block.model_dump().items() if k not in ("id", "signature")}
        check(f"{what}: streamed", [clean(b) for b in streamed.content] == [clean(b) for b in whole.content]
              and streamed.stop_reason == stop_reason and streamed.usage.output_tokens == whole.usage.output_tokens)
        return whole

    thought = both("thinking", "end_turn", messages=[{"role": "user", "content": TOYS}],
                   extra_body={"temperature": 0, "chat_template_kwargs": {"thinking_mode": "enabled"}})
    fields("thinking: block", thought.content[0], {"type": "thinking", "thinking": str, "signature": str})
    fields("thinking: text", thought.content[1], {"type": "text", "text": str})
    messages = []
    plain = {"extra_body": {"temperature": 0}, "tools": TOOLS}
    for turn, (city, weather) in enumerate((("Oslo", "snowy"), ("Athens", "sunny"))):
        messages.append({"role": "user", "content": f"What is the weather in {city}?"})
        asked = both(f"call {turn}", "tool_use", messages=messages, **plain)
        call = asked.content[-1]
        fields(f"call {turn}: block", call, {"type": "tool_use", "id": str, "name": "get_weather", "input": {"city": city}})
        messages += [{"role": "assistant", "content": [block.model_dump(exclude_unset=True) for block in asked.content]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content":
                      f'{{"city": "{city}", "temperature": 14, "condition": "{weather}"}}'}]}]
        told = both(f"result {turn}", "end_turn", messages=messages, **plain)
        fields(f"result {turn}: block", told.content[-1], {"type": "text", "text": str})
        check(f"result {turn}: told", weather in told.content[-1].text and city in told.content[-1].text, told.content)
        messages.append({"role": "assistant", "content": [block.model_dump(exclude_unset=True) for block in told.content]})
    person = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2]}},
              "required": ["name", "age"]}
    formed = both("schema", "end_turn", messages=WEATHER, extra_body={
        "temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": person}}})
    answer = json.loads(formed.content[-1].text)
    check("schema: valid", list(answer) == ["name", "age"] and len(answer["name"]) <= 8 and answer["age"] in (1, 2), answer)


def main():
    client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none")
    model = client.models.list().data[0].id
    # Newer packages know no temperature.
    common = {"model": model, "max_tokens": 200, "extra_body": {"temperature": 0}}
    enabled = {**common, "extra_body": {"temperature": 0, "chat_template_kwargs": {"thinking_mode": "enabled"}}}
    toys = [{"role": "user", "content": TOYS}]

    conversation(client, model, {"model": model, "max_tokens": 120})
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
