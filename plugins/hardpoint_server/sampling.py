"""From a request's fields to :class:`SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint.config.server import ServerConfig
from hardpoint.params import SamplingParams
from hardpoint_server.errors import invalid
from hardpoint_server.protocol import GenerationRequest

#: Request fields that are fields of SamplingParams under the same name.
_SAME = (
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "logprob_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
)


def sampling_params(
    request: GenerationRequest,
    config: ServerConfig,
    *,
    defaults: Mapping[str, Any],
    max_tokens: int | None,
    logprobs: int | None,
    prompts: int = 1,
) -> SamplingParams:
    """Return how to sample; what the request leaves out comes from ``defaults``, the model's own.

    Raises:
        ApiError: for more sequences or log-probabilities than the server allows.
        RequestError: for values out of range.
    """
    _bound("n", request.choices * prompts, config.max_choices, f"sequences ({prompts} prompts x n)", "--max-choices")
    for name, value in (("logprobs", logprobs), ("prompt_logprobs", request.prompt_logprobs)):
        if value is not None and config.max_logprobs >= 0:
            if value < 0:
                raise invalid(
                    f"{name} is {value} (all); this server gives at most {config.max_logprobs} (--max-logprobs)", name
                )
            _bound(name, value, config.max_logprobs, name, "--max-logprobs")
    if request.stream and request.prompt_logprobs is not None and not request.echo:
        raise invalid("prompt_logprobs cannot be streamed; leave stream out", "prompt_logprobs")
    given = {name: getattr(request, name) for name in _SAME}
    values = dict(defaults) | {name: value for name, value in given.items() if value is not None}
    if max_tokens is not None or "max_tokens" not in values:
        values["max_tokens"] = max_tokens
    return SamplingParams(**values, logprobs=logprobs, output_kind="delta" if request.stream else "final_only")


def _bound(param: str, value: int, most: int, what: str, flag: str) -> None:
    if value > most:
        raise invalid(f"{what}: {value} is more than this server allows, {most} ({flag})", param)
