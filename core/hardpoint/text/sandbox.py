"""Rendering in Jinja's immutable sandbox, with the names and filters that chat templates expect (as transformers has them).

Runs in a process of its own (:mod:`hardpoint.text.render_worker`): no sandbox inside a process can bound the time or the
memory of a single operation such as ``'a' * 10 ** 10``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from hardpoint.text.render_messages import Rendered, RenderFailed, RenderJob

#: Marks where the last message ends: private-use characters, which survive escaping, and a space, which trimming removes.
_END = "\ue000\ue001\ue000"
_MARK = _END + " "
#: Tests by which a template tells text from a list of parts.
_KIND_TESTS = frozenset({"string", "iterable", "sequence", "mapping"})


class RefusedByTemplateError(jinja2.TemplateError):
    """The template called ``raise_exception``."""


class _Generation(Extension):
    """``{% generation %}`` marks what the model wrote, for training; its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja reads a plain set)

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_body"), [], [], body)
        block.set_lineno(line)
        return block

    def _body(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Namespace(Namespace):
    """Jinja's namespace without underscored names, so that a template cannot plant a dunder attribute."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may name one "self"
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the underscored name {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise RefusedByTemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    # The class itself would offer its attributes to the template.
    return dict(*args, **kwargs)


def make_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment in which every chat template is compiled."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_make_dict, namespace=_Namespace
    )
    return environment


class Sandbox:
    """Compiles and renders, one job after the other."""

    def __init__(self, max_output: int) -> None:
        """Bound outputs to ``max_output`` characters."""
        self._environment = make_environment()
        self._max_output = max_output
        self._compiled: Callable[[str], tuple[jinja2.Template, bool]] = lru_cache(16)(self._compile)

    def run(self, job: RenderJob) -> Rendered | RenderFailed:
        """Do a job; whatever the template does is an answer, never an exception."""
        try:
            template, wants_parts = self._compiled(job.template)
        except jinja2.TemplateSyntaxError as error:
            return RenderFailed("syntax", f"line {error.lineno}: {error.message}")
        except (MemoryError, RecursionError) as error:
            return RenderFailed("limit", f"compiling it failed with {type(error).__name__}")
        except Exception as error:
            return RenderFailed("syntax", f"{type(error).__name__}: {error}")
        if job.messages is None:
            return Rendered()
        messages = [{**message, "content": _content(message.get("content"), wants_parts)} for message in job.messages]
        if job.continue_final:
            _mark_end(messages[-1])
        try:
            text = self._bounded(template.generate(messages=messages, **job.variables))
        except RefusedByTemplateError as error:
            return RenderFailed("refused", str(error.message))
        except (MemoryError, RecursionError) as error:
            return RenderFailed("limit", f"it ran into a {type(error).__name__}")
        except Exception as error:
            return RenderFailed("failed", f"{type(error).__name__}: {error}")
        if text is None:
            return RenderFailed("limit", f"its output is longer than {self._max_output} characters")
        return _cut(text) if job.continue_final else Rendered(text)

    def _compile(self, source: str) -> tuple[jinja2.Template, bool]:
        return self._environment.from_string(source), needs_parts(self._environment.parse(source))

    def _bounded(self, parts: Iterator[str]) -> str | None:
        found, size = [], 0
        for part in parts:
            size += len(part)
            if size > self._max_output:
                return None
            found.append(part)
        return "".join(found)


def needs_parts(tree: nodes.Template) -> bool:
    """Return whether a template can only read content as a list of parts: it loops over it without asking what it is."""
    names = {"content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
            names.add(assignment.target.name)
    asked = (test for test in tree.find_all(nodes.Test) if test.name in _KIND_TESTS)
    if any(_is_content(test.node, names) for test in asked):
        return False
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    match node:
        case nodes.Getitem(arg=nodes.Const(value="content")) | nodes.Getattr(attr="content"):
            return True
        case nodes.Name(name=name):
            return name in names
    return False


def _content(content: Any, wants_parts: bool) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if wants_parts else content
    if content is None or wants_parts:
        return content
    return "\n".join(part["text"] for part in content)


def _mark_end(message: dict[str, Any]) -> None:
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _MARK
    elif content:
        message["content"] = [*content[:-1], {**content[-1], "text": content[-1]["text"] + _MARK}]


def _cut(text: str) -> Rendered | RenderFailed:
    end = text.rfind(_END)
    if end < 0:
        return RenderFailed(
            "failed", "the last message's content does not appear in its output, so it cannot be continued"
        )
    trimmed = not text.startswith(_MARK, end)
    return Rendered(text[:end].rstrip() if trimmed else text[:end])
