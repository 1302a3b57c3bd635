"""From prompts to engine requests: everything that can be wrong with a request is found here, before the engine sees it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hardpoint.contract.errors import ContextLengthError, RequestError
from hardpoint.engine.client import EngineInfo
from hardpoint.engine.messages import EngineRequest
from hardpoint.engine.validation import validate
from hardpoint.params import SamplingParams
from hardpoint.prompts import Prompt, PromptTokens, is_conversation
from hardpoint.text.model_text import ModelText
from hardpoint.text.tokenizer import Tokenizer

_PROMPT_KEYS = frozenset({"prompt", "prompt_token_ids", "cache_salt"})
#: Normalization may shorten text; more than this many characters per token can still not fit.
_SLACK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that the engine will take, and the prompt's text for the answer."""

    request: EngineRequest
    prompt: str | None


class InputProcessor:
    """Turns prompts and parameters into engine requests. Safe to call from any thread."""

    def __init__(self, text: ModelText, info: EngineInfo) -> None:
        """Check against the tokenizer of ``text`` and the limits in ``info``."""
        self._text = text
        self._max_model_len = info.max_model_len
        self._vocab_size = info.vocab_size
        self._handles = itertools.count(1)

    def tokenize(self, prompt: Prompt, *, add_special_tokens: bool = True) -> PromptTokens:
        """Tokenize and check one prompt; a conversation is rendered with the model's chat template.

        Raises:
            RequestError: for a prompt that is empty, too long, outside the vocabulary or of no known form.
        """
        if isinstance(prompt, Mapping):
            return self._mapping(prompt, add_special_tokens)
        if isinstance(prompt, str):
            return self._of_text(prompt, add_special_tokens)
        if is_conversation(prompt):
            return self.render(prompt)
        return PromptTokens(token_ids=self._checked(prompt))

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Tokenize many prompts; texts go through the tokenizer together."""
        texts = [position for position, prompt in enumerate(prompts) if isinstance(prompt, str)]
        if len(texts) < 2:
            return [self.tokenize(prompt) for prompt in prompts]
        tokenizer = self._text.require_tokenizer("a text prompt")
        chosen = [str(prompts[position]) for position in texts]
        for text in chosen:
            self._check_text(text, tokenizer)
        encoded = dict(zip(texts, tokenizer.encode_batch(chosen), strict=True))
        return [
            PromptTokens(token_ids=self._checked(encoded[position]), text=str(prompt))
            if position in encoded
            else self.tokenize(prompt)
            for position, prompt in enumerate(prompts)
        ]

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> PromptTokens:
        """Render a conversation with the chat template and tokenize it.

        Args:
            messages: OpenAI-style messages.
            options: of :meth:`hardpoint.text.chat_template.ChatRenderer.render`.

        Raises:
            RequestError: when the conversation does not suit the template, or a limit is reached.
        """
        tokenizer = self._text.require_tokenizer("a conversation")
        assert self._text.chat is not None
        rendered = self._text.chat.render(messages, **options)
        self._check_text(rendered, tokenizer)
        return PromptTokens(
            token_ids=self._checked(tokenizer.encode(rendered, add_special_tokens=False)), text=rendered
        )

    def prepare(
        self,
        tokens: PromptTokens,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        tenant: str = "",
        adapter: str | None = None,
        cache_salt: str | None = None,
    ) -> Prepared:
        """Make the engine's request: parameters completed and checked, one handle for each of ``params.n`` sequences.

        Raises:
            RequestError: for parameters that cannot be served.
        """
        if not isinstance(params, SamplingParams):
            raise RequestError(f"sampling parameters are {params!r}; they must be SamplingParams")
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise RequestError(f"priority is {priority!r}; it must be a whole number", field="priority")
        completed = self._complete(params, len(tokens.token_ids))
        eos = () if params.ignore_eos else self._text.eos_token_ids
        validate(completed, self._vocab_size, eos_token_ids=eos)
        salt = cache_salt if cache_salt is not None else tokens.cache_salt
        if salt is not None and (not isinstance(salt, str) or not salt):
            raise RequestError(f"cache_salt is {salt!r}; it must be text of at least one character", field="cache_salt")
        request = EngineRequest(
            request_id=request_id,
            handles=tuple(next(self._handles) for _ in range(params.n)),
            token_ids=tokens.token_ids,
            params=completed,
            eos_token_ids=eos,
            arrival=time.monotonic(),
            priority=priority,
            tenant=tenant,
            adapter=adapter,
            cache_salt=salt,
        )
        return Prepared(request=request, prompt=tokens.text)

    def _complete(self, params: SamplingParams, prompt: int) -> SamplingParams:
        if params.structured_outputs is not None:
            raise RequestError(
                "structured_outputs cannot be served: no grammar plugin is installed; leave it out",
                field="structured_outputs",
            )
        if params.stop_strings:
            self._text.require_tokenizer("stop")
        changes: dict[str, Any] = {}
        room = self._max_model_len - prompt
        if params.max_tokens is None or params.max_tokens > room:
            if params.min_tokens > room:
                raise ContextLengthError(
                    f"min_tokens is {params.min_tokens}; after a prompt of {prompt} tokens only {room} fit into the context "
                    f"of {self._max_model_len}; shorten the prompt or lower min_tokens",
                    field="min_tokens",
                )
            changes["max_tokens"] = room
        if params.bad_words:
            tokenizer = self._text.require_tokenizer("bad_words")
            changes["bad_words_token_ids"] = [
                *(params.bad_words_token_ids or []),
                *bad_word_ids(tokenizer, params.bad_words),
            ]
        return params.replace(**changes) if changes else params

    def _mapping(self, prompt: Mapping[str, Any], add_special_tokens: bool) -> PromptTokens:
        if unknown := sorted(set(prompt) - _PROMPT_KEYS):
            raise RequestError(
                f"a prompt has the keys {', '.join(sorted(map(str, prompt)))}; {', '.join(map(str, unknown))} cannot be "
                f"served, only {', '.join(sorted(_PROMPT_KEYS))}",
                field="prompt",
            )
        salt, text = prompt.get("cache_salt"), prompt.get("prompt")
        if text is not None and not isinstance(text, str):
            raise RequestError(f"'prompt' is a {type(text).__name__}; it must be text", field="prompt")
        if prompt.get("prompt_token_ids") is not None:
            return PromptTokens(token_ids=self._checked(prompt["prompt_token_ids"]), text=text, cache_salt=salt)
        if text is None:
            raise RequestError("a prompt has neither 'prompt' nor 'prompt_token_ids'", field="prompt")
        tokens = self._of_text(text, add_special_tokens)
        return PromptTokens(token_ids=tokens.token_ids, text=text, cache_salt=salt)

    def _of_text(self, text: str, add_special_tokens: bool) -> PromptTokens:
        tokenizer = self._text.require_tokenizer("a text prompt")
        self._check_text(text, tokenizer)
        return PromptTokens(
            token_ids=self._checked(tokenizer.encode(text, add_special_tokens=add_special_tokens)), text=text
        )

    def _check_text(self, text: str, tokenizer: Tokenizer) -> None:
        """Refuse text that cannot fit before work is spent on it."""
        if len(text) > self._max_model_len * tokenizer.max_token_characters * _SLACK:
            raise ContextLengthError(
                f"the prompt has {len(text)} characters, more than {self._max_model_len} tokens can hold; shorten it or "
                "raise --max-model-len",
                field="prompt",
            )

    def _checked(self, ids: Any) -> npt.NDArray[np.int32]:
        """Return ``ids`` as int32 after checking type, range and length."""
        try:
            array = np.asarray(ids)
        except (ValueError, OverflowError) as error:
            raise RequestError(f"prompt token ids are no list of numbers: {error}", field="prompt") from error
        if array.size == 0:
            raise RequestError("the prompt is empty; it needs at least one token", field="prompt")
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise RequestError(
                f"a prompt is a {type(ids).__name__} of {array.ndim} dimensions and type {array.dtype}; it must be text or "
                "one list of whole numbers",
                field="prompt",
            )
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            position = int(np.flatnonzero(array == wrong)[0])
            raise RequestError(
                f"token id {wrong} at position {position} of the prompt is outside the vocabulary of {self._vocab_size}; "
                f"ids are 0 to {self._vocab_size - 1}",
                field="prompt",
            )
        if len(array) >= self._max_model_len:
            raise ContextLengthError(
                f"the prompt has {len(array)} tokens; with at least one token of output it does not fit into the context of "
                f"{self._max_model_len}; shorten it or raise --max-model-len",
                field="prompt",
            )
        return array.astype(np.int32, copy=False)


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the token sequences that spell ``words`` at the start of a text and inside it, by vLLM's rule.

    The form with a leading space counts only when it has as many tokens as the one without and begins with another one:
    otherwise the form without a space catches both.
    """
    found: list[list[int]] = []
    for word in words:
        bare = tokenizer.encode(word.lstrip(), add_special_tokens=False)
        if not bare:
            raise RequestError(f"bad_words holds {word!r}, which has no tokens; leave it out", field="bad_words")
        found.append(bare)
        spaced = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        if spaced and spaced[0] != bare[0] and len(spaced) == len(bare):
            found.append(spaced)
    return found
