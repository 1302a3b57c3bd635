"""A real server process over a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import CONTEXT, ServerProcess

from hardpoint.testing.tiny_models import make_tiny
from tiny_tokenizers import tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random Llama, a byte-level tokenizer and a chat template."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    tokenizer = tiny_tokenizer("byte_level")
    make_tiny(
        "LlamaForCausalLM",
        folder,
        seed=5,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    tokenizer.hf.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all tests that leave it running."""
    made = ServerProcess(tiny_model, tmp_path_factory.mktemp("server") / "log")
    try:
        yield made.wait_ready()
    finally:
        made.close()


@pytest.fixture
def own_server(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers that a test may end as it likes."""
    made: list[ServerProcess] = []

    def start(*flags: str) -> ServerProcess:
        made.append(ServerProcess(tiny_model, tmp_path / f"log{len(made)}", *flags))
        return made[-1].wait_ready()

    try:
        yield start
    finally:
        for each in made:
            each.close()
