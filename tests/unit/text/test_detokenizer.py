"""Incremental detokenization: joined deltas are the decoded text, for every kind of tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.text.detokenizer import PieceDetokenizer, WindowDetokenizer
from hardpoint.text.tokenizer import Tokenizer
from tiny_tokenizers import CORPUS, KINDS, tiny_tokenizer

TEXTS = st.text(
    alphabet=st.one_of(st.sampled_from("abc The.,'\n  "), st.characters(codec="utf-8", exclude_categories=("Cs",))),
    max_size=30,
) | st.sampled_from(CORPUS)
#: What comes as <0xNN> runs decodes differently as a whole when a run is broken; see the test of broken runs.
WITH_FIXED_BYTES = ("byte_level", "sentence_piece", "sentence_piece_bare", "metaspace")
kinds = pytest.mark.parametrize("kind", KINDS)


def stream(tokenizer: Tokenizer, prompt: list[int], ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt, skip_special_tokens=skip)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def added_by(tokenizer: Tokenizer, prompt: list[int], ids: list[int], *, skip: bool = True) -> str:
    """Return what a continuation adds to the decoded prompt."""
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=skip)
    before = tokenizer.decode(prompt, skip_special_tokens=skip) if prompt else ""
    assert whole.startswith(before)
    return whole[len(before) :]


@kinds
@given(prompt=TEXTS, text=TEXTS, skip=st.booleans())
def test_deltas_of_real_text_join_to_what_it_adds(kind: str, prompt: str, text: str, skip: bool) -> None:
    tokenizer = tiny_tokenizer(kind)
    before, ids = tokenizer.encode(prompt), tokenizer.encode(text)
    assert "".join(stream(tokenizer, before, ids, skip=skip)) == added_by(tokenizer, before, ids, skip=skip)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "word_piece"])
@given(data=st.data(), skip=st.booleans())
def test_deltas_of_any_ids_join_to_the_decoded_whole(kind: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = tiny_tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=25))
    assert "".join(stream(tokenizer, [], ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@kinds
@given(text=TEXTS)
def test_no_delta_holds_half_a_character_and_none_is_late(kind: str, text: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer.encode(text)
    if "\ufffd" in tokenizer.decode(ids):
        return
    shown = ""
    for position, delta in enumerate(stream(tokenizer, [], ids)[:-1]):
        shown += delta
        assert "\ufffd" not in delta
        so_far = tokenizer.decode(ids[: position + 1])
        if not so_far.endswith("\ufffd"):
            assert shown == so_far


@pytest.mark.parametrize("kind", ["sentence_piece", "sentence_piece_bare"])
@given(data=st.data())
def test_a_broken_run_of_bytes_keeps_its_whole_characters(kind: str, data: st.DataObject) -> None:
    tokenizer = tiny_tokenizer(kind)
    first = tokenizer.vocabulary["<0x00>"]
    raw = data.draw(st.binary(min_size=1, max_size=12))
    word = tokenizer.encode("x Paris")
    text = "".join(stream(tokenizer, word, [first + byte for byte in raw] + word))
    # Bytes that are no character become U+FFFD one by one, as the tokenizer does; the others stay what they are.
    expected = ""
    rest = raw
    while rest:
        for size in range(1, 5):
            try:
                expected += rest[:size].decode()
            except UnicodeDecodeError:
                continue
            rest = rest[size:]
            break
        else:
            expected, rest = expected + "\ufffd", rest[1:]
    assert text == expected + added_by(tokenizer, word, word)


@pytest.mark.parametrize("kind", WITH_FIXED_BYTES)
def test_fixed_bytes_are_found(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    assert isinstance(tokenizer.detokenizer([]), PieceDetokenizer)
    joined = b"".join(tokenizer.token_bytes(token) or b"" for token in tokenizer.encode("Hello world é"))
    assert joined.strip() == "Hello world é".encode() or kind == "metaspace"


def test_word_piece_has_no_fixed_bytes() -> None:
    tokenizer = tiny_tokenizer("word_piece")
    assert isinstance(tokenizer.detokenizer([]), WindowDetokenizer)
    assert tokenizer.token_bytes(5) is None


@given(prompt=TEXTS, text=TEXTS)
def test_the_window_is_right_for_tokens_that_split_characters(prompt: str, text: str) -> None:
    tokenizer = tiny_tokenizer()
    before, ids = tokenizer.encode(prompt), tokenizer.encode(text)
    window = WindowDetokenizer(tokenizer.decode, tokenizer.special_ids, before)
    shown = [*(window.push(token) for token in ids), window.flush()]
    assert "".join(shown) == added_by(tokenizer, before, ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in delta for delta in shown)


@kinds
def test_a_continuation_keeps_its_leading_space(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer.encode("The capital of France")
    for border in range(1, len(ids)):
        text = "".join(stream(tokenizer, ids[:border], ids[border:]))
        assert tokenizer.decode(ids[:border]) + text == tokenizer.decode(ids)


def test_a_prompt_that_ends_inside_a_character_is_completed_by_the_continuation() -> None:
    tokenizer = tiny_tokenizer()
    alphabet = {tokenizer.token_bytes(token): token for token in range(len(tokenizer))}
    ids = [alphabet[bytes([byte])] for byte in "🙂".encode()]
    assert stream(tokenizer, ids[:2], ids[2:]) == ["", "🙂", ""]


def test_bytes_that_never_become_a_character_are_replaced_at_the_end_only() -> None:
    tokenizer = tiny_tokenizer()
    alphabet = {tokenizer.token_bytes(token): token for token in range(len(tokenizer))}
    ids = [alphabet[bytes([byte])] for byte in "🙂".encode()[:3]]
    assert stream(tokenizer, [], ids) == ["", "", "", "\ufffd"]


def test_special_tokens_are_kept_or_left_out() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("Hello<|im_end|> world")
    assert "".join(stream(tokenizer, [], ids)) == "Hello world"
    assert "".join(stream(tokenizer, [], ids, skip=False)) == "Hello<|im_end|> world"


def test_a_special_token_in_the_prompt_does_not_hide_that_text_begins() -> None:
    tokenizer = tiny_tokenizer("sentence_piece")
    start = tokenizer.vocabulary["<s>"]
    ids = tokenizer.encode("Hello world")
    assert "".join(stream(tokenizer, [start], ids)) == "Hello world"
    assert "".join(stream(tokenizer, [start], ids, skip=False)) == " Hello world"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3))
def test_endless_half_characters_stay_constant_in_time(which: int) -> None:
    tokenizer = tiny_tokenizer()
    alphabet = {tokenizer.token_bytes(token): token for token in range(len(tokenizer))}
    token = alphabet[[b"\xf0", b"\x9f", b"\xff", b"\xe4"][which]]
    detokenizer = tokenizer.detokenizer([])
    shown = "".join(detokenizer.push(token) for _ in range(20_000)) + detokenizer.flush()
    assert shown == "\ufffd" * 20_000
