"""The tokenizer loses no text, splits digits, and the Python rendering equals the chat template."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hardpoint_demo import MODEL_PATH
from hardpoint_demo.corpus.conversation import train_chat
from hardpoint_demo.rendering import MARKER_TOKENS, SPECIAL_TOKENS, prompt_text, render
from hardpoint_demo.tokenizer import VOCABULARY, train_tokenizer


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_PATH)


RAW = Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    assert RAW.decode(RAW.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_tokens_of_their_own() -> None:
    tokens = RAW.encode("2048 and 17.5").tokens
    assert [token for token in tokens if any(character.isdigit() for character in token)] == list("2048175")


def test_tool_markers_survive_decoding_and_special_tokens_do_not(shipped: PreTrainedTokenizerBase) -> None:
    for token in MARKER_TOKENS:
        ids = shipped(token)["input_ids"]
        assert len(ids) == 1
        assert shipped.decode(ids, skip_special_tokens=True) == token
    for token in SPECIAL_TOKENS:
        ids = shipped(token)["input_ids"]
        assert len(ids) == 1
        assert shipped.decode(ids, skip_special_tokens=True) == ""
    assert shipped.eos_token == "<|im_end|>"


def test_rendering_equals_the_chat_template(shipped: PreTrainedTokenizerBase) -> None:
    rng = random.Random(11)
    with_tools = 0
    for _ in range(150):
        chat = train_chat(rng)
        with_tools += chat.tools is not None
        segments = render(chat.messages, chat.tools)
        text = shipped.apply_chat_template(chat.messages, tools=chat.tools, tokenize=False)
        assert "".join(piece for piece, _ in segments) == text
        # Cut text must tokenize as whole text does, or training would see other tokens than inference.
        pieces = [token for piece, _ in segments for token in RAW.encode(piece, add_special_tokens=False).ids]
        assert pieces == shipped(text)["input_ids"]
        asked = chat.messages[:-1]
        prompt = shipped.apply_chat_template(asked, tools=chat.tools, tokenize=False, add_generation_prompt=True)
        assert prompt_text(asked, chat.tools) == prompt
    assert with_tools > 10


def test_template_takes_content_parts_and_arguments_as_text(shipped: PreTrainedTokenizerBase) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    text = shipped.apply_chat_template(messages, tokenize=False)
    assert "<|im_start|>user\nHello there<|im_end|>" in text
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in text


def test_training_the_tokenizer_repeats() -> None:
    first, second = train_tokenizer(3, chats=300), train_tokenizer(3, chats=300)
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() <= VOCABULARY
    assert train_tokenizer(4, chats=300).to_str() != first.to_str()
