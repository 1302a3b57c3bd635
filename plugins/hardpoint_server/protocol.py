"""Requests of OpenAI's completions and chat completions, with vLLM's extra parameters.

A parameter is either served, accepted because ignoring it changes nothing that the answer promises, or refused with the
reason (``REFUSED``). Unknown parameters are refused as well: a misspelt one would otherwise be ignored in silence.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, ClassVar, TypeVar

import msgspec

from hardpoint_server.errors import ApiError, invalid

_NO_GRAMMAR = "no grammar backend is installed that could constrain the text"
_NO_BEAM = "beam search is offered by LLM.beam_search in Python, not over HTTP"
_NO_MEDIA = "only text goes in and out of this model"

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class StreamOptions(msgspec.Struct, kw_only=True):
    """Options of a stream. ``include_obfuscation`` is accepted; nothing is padded."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat completions have in common."""

    #: Parameter -> why it is not served.
    REFUSED: ClassVar[dict[str, str]] = {
        "use_beam_search": _NO_BEAM,
        "length_penalty": _NO_BEAM,
        "early_stopping": _NO_BEAM,
        "best_of": "best_of is not offered; ask for n sequences and choose among them",
        "structured_outputs": _NO_GRAMMAR,
        "guided_json": _NO_GRAMMAR,
        "guided_regex": _NO_GRAMMAR,
        "guided_choice": _NO_GRAMMAR,
        "guided_grammar": _NO_GRAMMAR,
        "truncate_prompt_tokens": "prompts are never cut; send one that fits the context",
        "kv_transfer_params": "no KV connector is installed",
        "vllm_xargs": "no plugin that reads extra arguments is installed",
        "thinking_token_budget": "no reasoning parser is installed that could count thinking tokens",
        "repetition_detection": "repetition detection is not offered; bound the text with max_tokens",
    }

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[int, float] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    response_format: dict[str, Any] | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    best_of: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    truncate_prompt_tokens: Any = None
    kv_transfer_params: Any = None
    vllm_xargs: Any = None
    thinking_token_budget: Any = None
    repetition_detection: Any = None

    def check(self) -> None:
        """Refuse what cannot be served.

        Raises:
            ApiError: naming the parameter and the reason.
        """
        for name, reason in self.REFUSED.items():
            if getattr(self, name) not in (None, False):
                raise invalid(f"{name} is not supported: {reason}", name, "unsupported_parameter")
        kind = (self.response_format or {"type": "text"}).get("type")
        if kind != "text":
            raise invalid(
                f"response_format of type {kind!r} is not supported: {_NO_GRAMMAR}; only 'text' is",
                "response_format",
                "unsupported_parameter",
            )
        if self.service_tier not in (None, "auto", "default"):
            raise invalid(
                f"service_tier is {self.service_tier!r}; this server has only 'auto' and 'default'", "service_tier"
            )
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options needs stream=true", "stream_options")
        if self.request_id is not None and not _REQUEST_ID.fullmatch(self.request_id):
            raise invalid("request_id must be 1 to 128 printable characters without spaces", "request_id")
        if self.cache_salt == "":
            raise invalid("cache_salt is empty; leave it out to share cached prefixes", "cache_salt")

    @property
    def choices(self) -> int:
        """Sequences per prompt."""
        return 1 if self.n is None else self.n

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        """Whether every chunk carries the usage so far."""
        return self.wants_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/completions``."""

    REFUSED: ClassVar[dict[str, str]] = GenerationRequest.REFUSED | {
        "suffix": "no model here fills in the middle; put everything into prompt",
        "prompt_embeds": "prompts are text or token ids",
    }

    prompt: str | list[str | int | list[int]] | None = None
    logprobs: int | None = None
    suffix: str | None = None
    prompt_embeds: Any = None


class ChatCompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    REFUSED: ClassVar[dict[str, str]] = GenerationRequest.REFUSED | {
        "audio": _NO_MEDIA,
        "prompt_embeds": "prompts are messages",
        "mm_processor_kwargs": _NO_MEDIA,
        "media_io_kwargs": _NO_MEDIA,
        "functions": "functions is OpenAI's former name; use tools",
        "function_call": "function_call is OpenAI's former name; use tool_choice",
        "web_search_options": "this server searches nothing",
        "store": "this server keeps no conversations",
    }

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    prediction: dict[str, Any] | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    include_reasoning: bool | None = None

    audio: Any = None
    prompt_embeds: Any = None
    mm_processor_kwargs: Any = None
    media_io_kwargs: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    store: bool | None = None

    def check(self) -> None:
        """Refuse what cannot be served."""
        GenerationRequest.check(self)
        if self.modalities not in (None, ["text"]):
            raise invalid(f"modalities is {self.modalities!r}; {_NO_MEDIA}", "modalities", "unsupported_parameter")
        if self.verbosity not in (None, "medium"):
            raise invalid(
                f"verbosity is {self.verbosity!r}; this model has no such control, say it in the prompt",
                "verbosity",
                "unsupported_parameter",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs needs logprobs=true", "top_logprobs")
        self._check_tools()

    def _check_tools(self) -> None:
        choice = self.tool_choice
        if choice in (None, "none", "auto"):
            if choice == "auto" and not self.tools:
                raise invalid("tool_choice is 'auto', but there are no tools", "tool_choice")
        elif choice == "required" or isinstance(choice, dict):
            raise invalid(
                f"tool_choice {choice!r} is not supported: {_NO_GRAMMAR}; use 'auto' or 'none'",
                "tool_choice",
                "unsupported_parameter",
            )
        else:
            raise invalid(
                f"tool_choice is {choice!r}; it must be 'none', 'auto', 'required' or name a function", "tool_choice"
            )
        for index, tool in enumerate(self.tools or ()):
            function = tool.get("function")
            if tool.get("type", "function") != "function" or not isinstance(function, dict) or "name" not in function:
                raise invalid(
                    f"tools[{index}] is not of the form {{'type': 'function', 'function': {{'name': ...}}}}", "tools"
                )


T = TypeVar("T", bound=GenerationRequest)
_UNKNOWN = re.compile(r"unknown field `([^`]*)`(?: - at `\$(?:\.(.*))?`)?")
_AT = re.compile(r" - at `(?:key` in `)?\$\.?([^`]*)`")


def parse(body: bytes, kind: type[T]) -> T:
    """Parse and check a request's body.

    Raises:
        ApiError: 400 with the parameter for JSON of the wrong form.
    """
    try:
        request = _DECODERS[kind].decode(body)
    except msgspec.ValidationError as error:
        raise _malformed(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"the body is not JSON: {error}") from None
    request.check()
    return request  # type: ignore[no-any-return]


_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (CompletionRequest, ChatCompletionRequest)
}


def _malformed(message: str, kind: type) -> ApiError:
    if unknown := _UNKNOWN.search(message):
        name = unknown[1]
        near = difflib.get_close_matches(name, kind.__struct_fields__, n=1)  # type: ignore[attr-defined]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return invalid(f"there is no parameter {name!r}{hint}", name, "unknown_parameter")
    where = _AT.search(message)
    if missing := re.search(r"missing required field `([^`]*)`", message):
        return invalid(f"{missing[1]} is missing", missing[1], "missing_required_parameter")
    text = _AT.sub("", message)
    if where is None:
        return invalid(f"the body is wrong: {text}")
    return invalid(f"{where[1]} is wrong: {text}", re.split(r"[.\[]", where[1])[0], "invalid_type")
