"""Small tokenizers of every kind that language models use, trained on a few sentences."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from hardpoint.text.tokenizer import Tokenizer

CORPUS = (
    "The quick brown fox jumps over the lazy dog. Paris is the capital of France, and Berlin that of Germany.",
    "def add(a, b):\n    return a + b\n\n\n# a comment with   several   spaces",
    "Größe, naïve café, señor, œuvre; 你好，世界！ こんにちは 🙂👩‍👩‍👧 Привет мир",
    "It's what she'd say: we won't, they're, I'm. Hello world! Hello, hello.",
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")


def byte_level() -> Backend:
    """As GPT-2, Llama 3, Qwen: bytes spelt in a printable alphabet. Knows an added token that is not special."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=["<|end|>", *SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<tool>", "ünïcode token"])
    return backend


def _with_bytes(*, prepend: bool) -> Backend:
    trained = Backend(models.BPE(unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prepend else []
    trained.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=200, limit_alphabet=60, show_progress=False, special_tokens=["<unk>"])
    trained.train_from_iterator(CORPUS, trainer)
    found = json.loads(trained.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = [token for token, _ in sorted(found["vocab"].items(), key=lambda item: item[1]) if token != "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*first, *learnt])}
    model = models.BPE(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in found["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    backend.normalizer = trained.normalizer
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in first[:3]])
    return backend


def sentence_piece() -> Backend:
    """As Llama 2 and Mistral: ``▁`` for spaces, a dummy space in front, bytes for what is not in the vocabulary."""
    backend = _with_bytes(prepend=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def sentence_piece_bare() -> Backend:
    """As Gemma: the same without the dummy space."""
    backend = _with_bytes(prepend=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def metaspace() -> Backend:
    """As T5: the Metaspace decoder, no bytes."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, show_progress=False, special_tokens=["<unk>", "</s>"], unk_token="<unk>"
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def word_piece() -> Backend:
    """As BERT: tokens have no fixed text, ``##`` joins and punctuation is moved."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, show_progress=False, special_tokens=["[UNK]", "[SEP]"])
    backend.train_from_iterator(CORPUS, trainer)
    return backend


KINDS = {
    "byte_level": byte_level,
    "sentence_piece": sentence_piece,
    "sentence_piece_bare": sentence_piece_bare,
    "metaspace": metaspace,
    "word_piece": word_piece,
}
_END = {"byte_level": "<|end|>", "metaspace": "</s>", "word_piece": "[SEP]"}


@cache
def tiny_tokenizer(kind: str = "byte_level", chat_template: str | None = CHATML) -> Tokenizer:
    """Return a tokenizer of ``kind``, made once."""
    hf: Any = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), eos_token=_END.get(kind, "</s>"))
    hf.chat_template = chat_template
    return Tokenizer(hf)
