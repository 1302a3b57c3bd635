"""The generated corpus: a split that cannot leak, graders that tell right from wrong, chats that render."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from hardpoint_demo.corpus import KINDS
from hardpoint_demo.corpus.arithmetic import train_example as train_sum
from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, split_of
from hardpoint_demo.corpus.capital_table import CAPITAL_ALIASES, CAPITALS, COUNTRY_ALIASES
from hardpoint_demo.corpus.conversation import train_chat
from hardpoint_demo.corpus.tools import parse_calls
from hardpoint_demo.corpus.units import working
from hardpoint_demo.evaluate import held_out_examples

SINGLE_TURN = [kind for kind in KINDS if kind != "multi_turn"]


def prompt_of(example: Example) -> str:
    return json.dumps([example.messages, example.tools])


@pytest.mark.parametrize("kind", SINGLE_TURN)
def test_held_out_and_training_share_no_key_and_no_prompt(kind: str) -> None:
    module = KINDS[kind]
    seen_keys: set[str] = set()
    seen_prompts: set[str] = set()
    for seed in range(20):
        rng = random.Random(seed)
        for _ in range(100):
            example = module.train_example(rng)
            assert split_of(example.keys) == TRAIN
            seen_keys.update(example.keys)
            seen_prompts.add(prompt_of(example))
    for seed in range(10):
        rng = random.Random(1000 + seed)
        for _ in range(20):
            example = module.held_out_example(rng)
            assert split_of(example.keys) == HELD_OUT
            assert not set(example.keys) <= seen_keys
            assert prompt_of(example) not in seen_prompts


def test_the_evaluation_prompts_occur_in_no_training_chat() -> None:
    asked = {
        example.messages[-1]["content"]
        for kind in ("arithmetic", "capitals", "stories", "extraction")
        for example in held_out_examples(kind, 100, 0)
    }
    rng = random.Random(5)
    trained = {
        message["content"] for _ in range(4000) for message in train_chat(rng).messages if message["role"] == "user"
    }
    assert len(trained) > 4000
    assert not asked & trained


@pytest.mark.parametrize("kind", list(KINDS))
def test_graders_take_the_reference_and_refuse_others(kind: str) -> None:
    module = KINDS[kind]
    examples = held_out_examples(kind, 40, 3)
    for example, other in itertools.pairwise(examples):
        assert module.grade(example, example.reference)
        assert not module.grade(example, "")
        assert not module.grade(example, example.reference[:-2])
        if example.reference != other.reference:
            assert not module.grade(example, other.reference + " !!")


def test_a_sum_is_graded_by_its_result() -> None:
    example = train_sum(random.Random(2))
    right = example.reference
    digit = right[-2]
    wrong = right[:-2] + str((int(digit) + 1) % 10) + "."
    assert KINDS["arithmetic"].grade(example, right)
    assert not KINDS["arithmetic"].grade(example, wrong)


def test_extraction_references_are_json_whose_values_stand_in_the_text() -> None:
    for example in held_out_examples("extraction", 100, 1):
        text = example.messages[-1]["content"]
        found = json.loads(example.reference)
        assert found
        for value in found.values():
            assert value is None or isinstance(value, int | float) or value in text


def test_tool_references_name_a_given_tool_and_its_parameter() -> None:
    calls = 0
    for example in held_out_examples("tools", 120, 1):
        functions = [tool.get("function", tool) for tool in example.tools or []]
        for call in parse_calls(example.reference) or []:
            calls += 1
            (function,) = [entry for entry in functions if entry["name"] == call["name"]]
            assert set(function["parameters"]["required"]) <= set(call["arguments"])
            assert set(call["arguments"]) <= set(function["parameters"]["properties"])
    assert calls > 30


def test_the_same_seed_gives_the_same_corpus() -> None:
    first, second = random.Random("a"), random.Random("a")
    assert [train_chat(first) for _ in range(50)] == [train_chat(second) for _ in range(50)]


def test_shown_working_is_right() -> None:
    for factor in (7, 12, 24):
        for value in range(10, 100):
            for shrink in (False, True):
                equal = working(value, factor, shrink).removesuffix(", so ").replace(" x ", " * ").split(" = ")
                assert {eval(part) for part in equal} == {value * factor}
    assert working(5, 24, False) == ""


def test_the_capital_table_is_complete_and_consistent() -> None:
    assert len(CAPITALS) > 195
    assert len(set(CAPITALS.values())) == len(CAPITALS)
    assert set(COUNTRY_ALIASES) <= set(CAPITALS)
    assert set(CAPITAL_ALIASES) <= set(CAPITALS.values())
    assert CAPITALS["France"] == "Paris"
    assert CAPITALS["Australia"] == "Canberra"
