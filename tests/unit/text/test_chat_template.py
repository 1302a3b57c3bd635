"""Chat templates: what they render, and that hostile ones are stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hardpoint.contract.errors import ConfigError, RequestError
from hardpoint.text.chat_template import ChatRenderer
from hardpoint.text.render_messages import RenderLimits
from tiny_tokenizers import CHATML, tiny_tokenizer

LIMITS = RenderLimits(template=20_000, output=100_000, seconds=1.0, memory=200 * 2**20, workers=1)
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def renderer() -> Iterator[ChatRenderer]:
    templates = {"default": CHATML, "tool_use": "{{ tools | tojson }}|{{ messages[-1].tool_calls }}"}
    renderer = ChatRenderer(templates, {"bos_token": "<s>", "eos_token": "</s>"}, LIMITS)
    yield renderer
    renderer.close()


def test_renders_a_conversation(renderer: ChatRenderer) -> None:
    conversation = [{"role": "system", "content": "Be brief."}, *USER]
    assert renderer.render(conversation) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert renderer.render(conversation, add_generation_prompt=False).endswith("Hi<|im_end|>\n")


def test_is_what_transformers_renders(renderer: ChatRenderer) -> None:
    hf = tiny_tokenizer().hf
    template = (
        "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
        "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}\n"
        "{{- bos_token }}{% for m in messages %}\n  {%- if loop.first and tools %}{{ tools | tojson(indent=2) }}{% endif %}"
        "{% if m['role'] == 'skip' %}{% continue %}{% endif %}"
        "{% generation %}[{{ m.role }}] {{ m.content | trim }}{% endgeneration %}{{ eos_token }}"
        "{% endfor %}{{ dict(a=ns.last, b=messages | length) | tojson }}{{ strftime_now('') }}"
    )
    conversation = [
        {"role": "user", "content": "  Größe <b> & 'quotes'  "},
        {"role": "skip", "content": "-"},
        {"role": "assistant", "content": "ok"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    expected = hf.apply_chat_template(conversation, tools=tools, chat_template=template, tokenize=False)
    special = tiny_tokenizer().special_tokens
    ours = ChatRenderer({"default": template}, special, LIMITS)
    try:
        rendered = ours.render(conversation, tools=tools, add_generation_prompt=False)
    finally:
        ours.close()
    assert rendered == expected.replace("{{ bos_token }}", "")
    assert "[assistant] ok" in rendered
    assert '{"a": 0, "b": 3}' in rendered


def test_text_parts_become_text_where_the_template_wants_text(renderer: ChatRenderer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    assert "user\none\ntwo<|im_end|>" in renderer.render([{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% for part in m['content'] %}<{{ part['text'] }}>{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for part in m.content | list %}<{{ part.text }}>{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% for part in c %}<{{ part.text }}>{% endfor %}{% endfor %}",
        "{% for m in messages %}{% if m.role is string %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}"
        "{% endfor %}",
        "{% macro show(content) %}{% for part in content %}<{{ part.text }}>{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
    ],
)
def test_text_becomes_parts_where_the_template_reads_parts_only(renderer: ChatRenderer, template: str) -> None:
    conversation = [*USER, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert renderer.render(conversation, chat_template=template) == "<Hi><a><b>"


def test_a_template_that_reads_both_gets_text(renderer: ChatRenderer) -> None:
    template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
    )
    assert renderer.render(USER, chat_template=template) == "Hi"


def test_tools_choose_their_template_and_arguments_become_objects(renderer: ChatRenderer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, 2]}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    text = renderer.render([*USER, message], tools=[{"type": "function", "function": {"name": "f"}}])
    assert text.startswith('[{"type": "function", "function": {"name": "f"}}]|')
    assert "'arguments': {'x': [1, 2]}" in text
    assert call["function"]["arguments"] == '{"x": [1, 2]}', "the caller's message is left alone"


@pytest.mark.parametrize(("content", "seen"), [(None, "None"), ("", "''"), ([], "''")])
def test_no_content_beside_tool_calls_stays_none(renderer: ChatRenderer, content: Any, seen: str) -> None:
    call = {"function": {"name": "f"}}
    template = "{{ [messages[0].content] }}{{ messages[0].tool_calls[0].function.arguments }}"
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    assert renderer.render([message], chat_template=template) == f"[{seen}]{{}}"
    assert (
        renderer.render([{"role": "user", "content": content}], chat_template="{{ [messages[0].content] }}") == "['']"
    )


def test_reasoning_is_found_under_every_name(renderer: ChatRenderer) -> None:
    template = "{{ messages[0].reasoning_content }},{{ messages[0].thinking }},{{ messages[0].reasoning }}"
    message = {"role": "assistant", "content": "4", "reasoning": "2+2"}
    assert renderer.render([message], chat_template=template) == "2+2,2+2,2+2"


@pytest.mark.parametrize("content", ["The answer is", "The answer is ", [{"type": "text", "text": "The answer is"}]])
def test_the_last_message_can_be_continued(renderer: ChatRenderer, content: Any) -> None:
    conversation = [*USER, {"role": "assistant", "content": content}]
    text = renderer.render(conversation, add_generation_prompt=False, continue_final_message=True)
    expected = content if isinstance(content, str) else "The answer is"
    assert text.endswith(f"<|im_start|>assistant\n{expected}")


def test_a_trimmed_last_message_is_continued_where_the_template_ends_it(renderer: ChatRenderer) -> None:
    text = renderer.render(
        [{"role": "assistant", "content": "so  "}],
        chat_template="{% for m in messages %}[{{ m.content | trim }}]{% endfor %}",
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert text == "[so"


def test_a_last_message_that_is_not_rendered_cannot_be_continued(renderer: ChatRenderer) -> None:
    with pytest.raises(RequestError, match="cannot be continued"):
        renderer.render(USER, chat_template="x", add_generation_prompt=False, continue_final_message=True)


def test_continuing_and_answering_exclude_each_other(renderer: ChatRenderer) -> None:
    with pytest.raises(RequestError, match="continued or answered, not both"):
        renderer.render(USER, continue_final_message=True)


def test_variables_reach_the_template_but_not_reserved_ones(renderer: ChatRenderer) -> None:
    template = "{% if enable_thinking is false %}<no>{% endif %}"
    assert renderer.render(USER, chat_template=template, chat_template_kwargs={"enable_thinking": False}) == "<no>"
    with pytest.raises(RequestError, match="sets messages, tools"):
        renderer.render(USER, chat_template_kwargs={"tools": [], "messages": []})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "messages is empty"),
        ("Hi", "messages is a str"),
        ([{"content": "x"}], r"messages\[0\] has the role None"),
        ([*USER, {"role": "user", "content": 5}], r"messages\[1\].content is 5"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "reads text parts only"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text is None"),
        ([{"role": "user", "content": "x", "extra": object()}], "must be JSON data"),
        ([{"role": "user", "content": "\ud83d"}], "cannot be rendered"),
        ([{"role": "user", "content": "x", "n": 2**70}], "cannot be rendered"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "is not JSON"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "names no function"),
    ],
)
def test_malformed_conversations_are_refused(renderer: ChatRenderer, messages: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        renderer.render(messages)


def test_a_template_may_refuse_a_conversation(renderer: ChatRenderer) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RequestError, match="refuses this conversation: roles must alternate"):
        renderer.render(USER, chat_template=template)


def test_a_template_that_fails_says_how(renderer: ChatRenderer) -> None:
    with pytest.raises(RequestError, match="UndefinedError: 'nothing' is undefined"):
        renderer.render(USER, chat_template="{{ nothing.x }}")
    with pytest.raises(RequestError, match="not valid Jinja: line 2"):
        renderer.render(USER, chat_template="\n{% for %}")


def test_a_model_without_template_says_what_to_do() -> None:
    bare = ChatRenderer({}, {})
    with pytest.raises(RequestError, match="--chat-template FILE"):
        bare.render(USER)
    bare.close()


def test_a_broken_template_of_the_operator_is_found_at_start() -> None:
    broken = ChatRenderer({"default": "{% if %}"}, {}, LIMITS)
    try:
        with pytest.raises(ConfigError, match="not valid Jinja"):
            broken.check()
    finally:
        broken.close()


DOUBLING = "{% set x = 'aaaaaaaaaaaaaaaa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a range that is too long": "{% for a in range(10**9) %}x{% endfor %}",
    "doubling": DOUBLING,
    "one long string": "{{ ('a' * 10**10) | length }}",
    "a long list": "{{ ([0] * 10**10) | length }}",
    "a huge power": "{{ (10 ** (10 ** 10)) % 7 }}",
    "a wide format": "{{ '%1000000000000d' % 1 }}",
    "padding": "{{ 'x' | center(10**11) }}",
    "endless output": "{% for a in range(90000) %}{{ 'x' * 100 }}{% endfor %}",
    "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "a loop that recurses": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['json'] }}",
    "attributes by filter": "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).mro() }}",
    "attributes by format": "{{ '{0.__class__.__mro__}'.format('') }}{{ x.y }}",
    "a dunder on a namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "changing its input": "{{ messages.append(1) }}",
    "other files": "{% include '/etc/passwd' %}",
    "a long template": " " * 20_001,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped_and_the_next_one_is_served(renderer: ChatRenderer, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        renderer.render(USER, chat_template=HOSTILE[name])
    assert "template" in str(caught.value)
    assert time.monotonic() - began < 30
    assert renderer.render(USER, chat_template="{{ messages[0].content }}") == "Hi"


@pytest.mark.parametrize("name", ["classes", "globals of a function", "a dunder on a namespace"])
def test_the_sandbox_says_that_access_is_unsafe(renderer: ChatRenderer, name: str) -> None:
    with pytest.raises(RequestError, match=r"unsafe|underscored"):
        renderer.render(USER, chat_template=HOSTILE[name])


def test_a_hostile_request_does_not_hold_up_the_models_own_template(renderer: ChatRenderer) -> None:
    renderer.render(USER)
    errors: list[Exception] = []

    def attack() -> None:
        try:
            renderer.render(USER, chat_template=HOSTILE["nested loops"])
        except RequestError as error:
            errors.append(error)

    attackers = [threading.Thread(target=attack) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    for _ in range(20):
        renderer.render(USER)
    assert not errors, "both attacks are still running, or waiting for one another"
    for attacker in attackers:
        attacker.join()
    assert len(errors) == 2
    assert all("longer than 1 seconds" in str(error) for error in errors)


def test_many_threads_share_a_renderer(renderer: ChatRenderer) -> None:
    results: list[str] = []

    def ask(number: int) -> None:
        results.append(renderer.render([{"role": "user", "content": str(number)}]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 8


def test_a_closed_renderer_renders_nothing() -> None:
    closed = ChatRenderer({"default": CHATML}, {}, LIMITS)
    closed.render(USER)
    closed.close()
    with pytest.raises(RequestError, match="closed"):
        closed.render(USER)
