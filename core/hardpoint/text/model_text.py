"""Everything about a model's text that is known before the engine runs: tokenizer, end tokens, defaults, templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import ConfigError, RequestError
from hardpoint.plugins import Catalogue
from hardpoint.text.chat_template import ChatRenderer
from hardpoint.text.tokenizer import Tokenizer

#: generation_config.json's names -> those of SamplingParams, for what a model may recommend.
_RECOMMENDED = {
    "repetition_penalty": "repetition_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelText:
    """The text side of one model.

    Attributes:
        tokenizer: ``None`` with ``skip_tokenizer_init``.
        eos_token_ids: ids that end a sequence: the tokenizer's, generation_config.json's and config.json's.
        sampling_defaults: what generation_config.json recommends, by the names of ``SamplingParams``.
        chat: renders conversations; ``None`` without a tokenizer.
    """

    tokenizer: Tokenizer | None = None
    eos_token_ids: tuple[int, ...] = ()
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    chat: ChatRenderer | None = None

    @classmethod
    def load(cls, config: EngineConfig) -> ModelText:
        """Load the tokenizer and read what the checkpoint says about sampling and chat.

        Raises:
            ConfigError, CheckpointError: when something is missing or cannot be read, with the way out.
        """
        from hardpoint.weights import resolve

        model = config.model
        template = read_template(model.chat_template)
        files = resolve(model, Catalogue.of(config.plugins))
        tokenizer = None
        if not model.skip_tokenizer_init:
            # The folder holds the revision asked for; a tokenizer from elsewhere has revisions of its own.
            name = str(files.folder) if model.tokenizer is None else model.tokenizer
            tokenizer = Tokenizer.load(name, trust_remote_code=model.trust_remote_code)
        return cls.of(
            tokenizer,
            config={"eos_token_id": _ids([files.config.get("eos_token_id"), files.raw.get("eos_token_id")])},
            generation_config=files.generation_config,
            chat_template=template,
        )

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer | None,
        *,
        config: Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> ModelText:
        """Make it from loaded parts; ``chat_template`` replaces the tokenizer's own."""
        config, generation_config = config or {}, generation_config or {}
        own = [] if tokenizer is None else [tokenizer.eos_token_id]
        chat = None
        if tokenizer is not None:
            templates = {"default": chat_template} if chat_template is not None else tokenizer.chat_templates
            chat = ChatRenderer(templates, tokenizer.special_tokens)
        return cls(
            tokenizer=tokenizer,
            eos_token_ids=_ids([*own, generation_config.get("eos_token_id"), config.get("eos_token_id")]),
            sampling_defaults={
                name: generation_config[key]
                for key, name in _RECOMMENDED.items()
                if generation_config.get(key) is not None
            },
            chat=chat,
        )

    def require_tokenizer(self, what: str) -> Tokenizer:
        """Return the tokenizer.

        Raises:
            RequestError: when there is none; ``what`` says what it was needed for.
        """
        if self.tokenizer is None:
            raise RequestError(
                f"{what} needs a tokenizer, and skip_tokenizer_init is set; send {{'prompt_token_ids': [...]}} or load the "
                "model without skip_tokenizer_init",
                field="prompt",
            )
        return self.tokenizer

    def close(self) -> None:
        """End the processes that render templates."""
        if self.chat is not None:
            self.chat.close()


def read_template(given: str | None) -> str | None:
    """Return the text of ``--chat-template``, which is a file's path or the template itself.

    Raises:
        ConfigError: when it is neither.
    """
    if given is None:
        return None
    if any(mark in given for mark in ("{{", "{%", "\n")):
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--chat-template {given!r} is neither a readable file nor a template (it holds no '{{{{' or '{{%'): {error}"
        ) from error


def _ids(values: Iterable[Any]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for value in values:
        for token in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(token, int) and not isinstance(token, bool) and token >= 0:
                found[token] = None
    return tuple(found)
