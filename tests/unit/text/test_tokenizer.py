"""The tokenizer: ids, end tokens, what is known of its vocabulary, errors when it cannot be loaded."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from hardpoint.contract.errors import ConfigError, RequestError
from hardpoint.text.model_text import ModelText, read_template
from hardpoint.text.tokenizer import Tokenizer
from tiny_tokenizers import CORPUS, KINDS, byte_level, tiny_tokenizer

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a saved tokenizer that truncates and pads by itself."""
    backend = byte_level()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(tmp_path)
    return tmp_path


@kinds
def test_encodes_as_transformers_does(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    for text in (*CORPUS, ""):
        for special in (True, False):
            assert tokenizer.encode(text, add_special_tokens=special) == tokenizer.hf.encode(
                text, add_special_tokens=special
            )
    assert tokenizer.encode_batch(CORPUS) == [tokenizer.encode(text) for text in CORPUS]


@kinds
def test_ids_are_below_its_length(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    assert len(tokenizer) == max(tokenizer.hf.get_vocab().values()) + 1
    assert max(tokenizer.encode(CORPUS[2])) < len(tokenizer)


@kinds
def test_a_token_reads_as_inside_a_text(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer.encode("Hello world")
    joined = "".join(tokenizer.token_text(token) for token in ids)
    if kind != "word_piece":
        assert joined.strip() == "Hello world"
    assert tokenizer.token_text(tokenizer.eos_token_id or 0) == str(tokenizer.hf.eos_token)


def test_truncation_and_padding_in_the_files_do_not_touch_prompts(folder: Path) -> None:
    tokenizer = Tokenizer.load(str(folder))
    assert tokenizer.encode(CORPUS[0]) == tiny_tokenizer().encode(CORPUS[0])
    assert tokenizer.encode("a") == tiny_tokenizer().encode("a")


@pytest.mark.parametrize("damage", ["nothing", "no tokenizer.json", "broken tokenizer.json", "unknown class"])
def test_load_errors_say_what_to_do(folder: Path, damage: str) -> None:
    if damage == "no tokenizer.json":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    elif damage == "broken tokenizer.json":
        (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    elif damage == "unknown class":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.update(tokenizer_class="Foreign", auto_map={"AutoTokenizer": ["foreign.Foreign", None]})
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "foreign.py").write_text("raise SystemExit('code of the repository was run')")
        (folder / "tokenizer.json").unlink()
    if damage == "nothing":
        assert len(Tokenizer.load(str(folder)))
        return
    with pytest.raises(ConfigError, match=r"cannot load the tokenizer of .*--tokenizer.*--skip-tokenizer-init"):
        Tokenizer.load(str(folder))


def test_half_a_surrogate_pair_is_no_text() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(RequestError, match="at character 2"):
        tokenizer.encode("ab\udc00")
    with pytest.raises(RequestError, match="at character 0"):
        tokenizer.encode_batch(["fine", "\ud800"])


def test_threads_share_it() -> None:
    tokenizer = tiny_tokenizer()
    expected = [tokenizer.encode(text) for text in CORPUS]
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(50):
            for text, ids in zip(CORPUS, expected, strict=True):
                try:
                    if tokenizer.encode(text) != ids or tokenizer.decode(ids) != tokenizer.decode(ids):
                        wrong.append(text)
                except Exception as error:
                    wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_special_tokens_are_known_by_name_and_id() -> None:
    tokenizer = tiny_tokenizer("sentence_piece")
    assert tokenizer.special_tokens["eos_token"] == "</s>"
    assert {tokenizer.vocabulary[token] for token in ("<unk>", "<s>", "</s>")} <= tokenizer.special_ids
    assert tokenizer.vocabulary["<0x41>"] not in tokenizer.special_ids


def test_templates_come_from_the_tokenizer_unless_given(tmp_path: Path) -> None:
    own = ModelText.of(tiny_tokenizer())
    assert own.chat is not None
    assert "<|im_start|>" in own.chat.templates["default"]
    given = ModelText.of(tiny_tokenizer(), chat_template="{{ messages }}")
    assert given.chat is not None
    assert given.chat.templates == {"default": "{{ messages }}"}
    bare = ModelText.of(tiny_tokenizer(chat_template=None))
    assert bare.chat is not None
    assert bare.chat.templates == {}
    assert ModelText.of(None).chat is None
    path = tmp_path / "template.jinja"
    path.write_text("größe {{ x }}", encoding="utf-8")
    assert read_template(str(path)) == "größe {{ x }}"
    assert read_template("{{ x }}") == "{{ x }}"
    assert read_template(None) is None
    with pytest.raises(ConfigError, match="neither a readable file nor a template"):
        read_template(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, {}, ()),
        ({"eos_token_id": 3}, {}, (3,)),
        ({"eos_token_id": [3, 4]}, {"eos_token_id": [5, 4]}, (5, 4, 3)),
        ({"eos_token_id": None}, {"eos_token_id": True}, ()),
        ({"eos_token_id": -1}, {"eos_token_id": "x"}, ()),
    ],
)
def test_end_tokens_are_collected(
    config: dict[str, Any], generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert ModelText.of(None, config=config, generation_config=generation).eos_token_ids == expected


def test_a_plain_tokenizer_loads_without_model_code_and_equals_the_automatic_one() -> None:
    """The bundled tokenizer names no class of its own."""
    import subprocess
    import sys

    from transformers import AutoTokenizer

    from hardpoint_demo import MODEL_PATH

    text = "What is 27 + 45? naïve ✓ <|im_end|> <tool_call>"
    assert Tokenizer.load(str(MODEL_PATH)).encode(text) == AutoTokenizer.from_pretrained(MODEL_PATH)(text)["input_ids"]
    script = (
        "import sys; from hardpoint.text.tokenizer import Tokenizer; "
        f"Tokenizer.load({str(MODEL_PATH)!r}); print('transformers.models.auto.tokenization_auto' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
