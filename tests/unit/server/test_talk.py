"""``hardpoint chat`` and ``complete`` over a model that is known beforehand."""

from __future__ import annotations

import io

import pytest
from click.testing import CliRunner
from rich.console import Console

from hardpoint.cli import chat as chat_module
from hardpoint.cli import complete as complete_module
from hardpoint.cli.chat import chat, converse
from hardpoint.cli.complete import complete
from hardpoint.contract.errors import RequestError


class Parrot:
    """Says the last message back, a word at a time; ``trouble`` is raised after the first."""

    name = "parrot"

    def __init__(self, trouble: BaseException | None = None) -> None:
        self.heard: list[list[dict[str, str]]] = []
        self.trouble = trouble
        self.closed = False

    def chat(self, messages):
        self.heard.append([dict(message) for message in messages])
        for word in messages[-1]["content"].split():
            yield f"{word}! "
            if self.trouble is not None:
                trouble, self.trouble = self.trouble, None
                raise trouble

    def complete(self, prompt):
        yield from prompt.upper()

    def close(self):
        self.closed = True


def talk(model, lines, system=None):
    """Run a conversation over typed ``lines`` (an exception is raised in place of one) and return what was shown."""
    console = Console(file=io.StringIO(), width=200)
    typed = iter(lines)

    def read(prompt):
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    console.input = read
    converse(model, system, console)
    return console.file.getvalue()


def roles(messages):
    return [(message["role"], message["content"]) for message in messages]


def test_a_conversation_keeps_its_past():
    model = Parrot()
    shown = talk(model, ["hello there", "", "  again "])
    assert "hello! there! " in shown
    assert roles(model.heard[1]) == [("user", "hello there"), ("assistant", "hello! there! "), ("user", "again")]


def test_reset_and_system():
    model = Parrot()
    talk(model, ["one", "/reset", "two", "/system be kind", "three", "/exit", "never"], system="be brief")
    assert roles(model.heard[0]) == [("system", "be brief"), ("user", "one")]
    assert roles(model.heard[1]) == [("system", "be brief"), ("user", "two")]
    assert roles(model.heard[2]) == [("system", "be kind"), ("user", "three")]
    assert len(model.heard) == 3


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    model = Parrot(KeyboardInterrupt())
    shown = talk(model, ["a b c", "next"])
    assert "(stopped)" in shown
    assert roles(model.heard[1]) == [("user", "a b c"), ("assistant", "a! "), ("user", "next")]


def test_ctrl_c_at_the_prompt_leaves_only_with_exit():
    model = Parrot()
    shown = talk(model, [KeyboardInterrupt(), "hello", "/exit"])
    assert "/exit or Ctrl-D leaves" in shown
    assert len(model.heard) == 1


def test_a_refused_message_is_forgotten():
    model = Parrot(RequestError("the prompt has too many tokens"))
    shown = talk(model, ["much too long", "short"])
    assert "too many tokens" in shown
    assert roles(model.heard[1]) == [("user", "short")]


@pytest.mark.parametrize("piped", [False, True])
def test_one_shot_takes_the_prompt_from_arguments_or_a_pipe(monkeypatch, piped):
    model = Parrot()
    monkeypatch.setattr(chat_module, "model_from", lambda given: model)
    run = CliRunner().invoke(
        chat, ["--system", "be brief", *([] if piped else ["hi you"])], input="hi you\n" if piped else ""
    )
    assert (run.exit_code, run.stdout) == (0, "hi! you! \n")
    assert roles(model.heard[0]) == [("system", "be brief"), ("user", "hi you")]
    assert model.closed


def test_complete_continues(monkeypatch):
    model = Parrot()
    monkeypatch.setattr(complete_module, "model_from", lambda given, **defaults: model)
    assert CliRunner().invoke(complete, ["once"]).stdout == "ONCE\n"
    assert CliRunner().invoke(complete, [], input="upon").stdout == "UPON\n"


def test_nothing_to_say_is_told():
    run = CliRunner().invoke(chat, [], input="")
    assert run.exit_code == 2
    assert "there is no prompt" in run.output
