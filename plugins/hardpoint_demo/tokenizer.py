"""The model's tokenizer: byte-level BPE trained on the corpus, every digit a token of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from hardpoint_demo.corpus.conversation import train_chat
from hardpoint_demo.paths import TEMPLATE_PATH
from hardpoint_demo.rendering import BEGIN, END, MARKER_TOKENS, PAD, SPECIAL_TOKENS, render

VOCABULARY = 1280


def _texts(seed: int, chats: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer:{seed}")
    for _ in range(chats):
        chat = train_chat(rng)
        for text, written in render(chat.messages, chat.tools):
            # What the assistant writes counts twice: these tokens are generated one by one.
            yield from [text] * (2 if written else 1)


def train_tokenizer(seed: int, chats: int = 20000) -> Tokenizer:
    """Train on `chats` generated chats. Byte-level, no normalizer: every Unicode text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    added += [AddedToken(token, special=False, normalized=False) for token in MARKER_TOKENS]
    # The added tokens come first in the vocabulary: they are cut out of the text before merges are learnt.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=added,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_strip_markers(_texts(seed, chats)), trainer)
    # The trainer marks all of them special; decoding must keep the markers, as tool parsers read them.
    content = json.loads(tokenizer.to_str())
    for entry in content["added_tokens"]:
        entry["special"] = entry["content"] in SPECIAL_TOKENS
    return Tokenizer.from_str(json.dumps(content))


def _strip_markers(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        for token in (*SPECIAL_TOKENS, *MARKER_TOKENS):
            text = text.replace(token, "")
        yield text


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write tokenizer.json, its config, the special tokens and the chat template to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": None, "eos_token": END, "pad_token": PAD, "additional_special_tokens": [BEGIN]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE_PATH.read_text(encoding="utf-8"),
    }
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "special_tokens_map.json", {key: value for key, value in special.items() if value is not None})


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
