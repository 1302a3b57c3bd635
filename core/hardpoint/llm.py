"""``LLM``: a model and an engine behind plain method calls; drop-in for vLLM's class where the names are the same."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from hardpoint.beam_search import BeamSearch
from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError, RequestError
from hardpoint.engine.client import EngineClient, EngineInfo
from hardpoint.engine.frontend import open_engine
from hardpoint.engine.inputs import InputProcessor, Prepared
from hardpoint.engine.messages import SchedulerStats
from hardpoint.engine.outputs import OutputProcessor
from hardpoint.foreign_settings import without_foreign
from hardpoint.interrupts import DeferredInterrupt
from hardpoint.outputs import BatchError, BatchFailure, BeamSearchOutput, RequestOutput
from hardpoint.params import BeamSearchParams, SamplingParams
from hardpoint.prompts import Prompt, PromptTokens, is_conversation
from hardpoint.text.model_text import ModelText

_POLL_SECONDS = 0.5
Progress = bool | Callable[..., Any]


class LLM:
    """A model ready to generate.

    Example:
        >>> llm = LLM("hardpoint/demo")
        >>> llm.chat([{"role": "user", "content": "Hello!"}])[0].outputs[0].text

    Calls from several threads run one after the other. Use it as a context manager, or call :meth:`close`, to end it
    before the interpreter does.
    """

    def __init__(self, model: str = "hardpoint/demo", *, in_process: bool = True, **settings: Any) -> None:
        """Load a model.

        Args:
            model: a folder, a hub id, or the name of a bundled checkpoint.
            in_process: run the engine in this process; otherwise in one of its own.
            settings: names of :class:`hardpoint.config.EngineConfig`'s fields, or vLLM's names for them.

        Raises:
            ConfigError: for a setting that does not exist or cannot be served.
            PluginError, CheckpointError, MemoryBudgetError: what is wrong with what was selected.
        """
        config = EngineConfig.of(model=model, **without_foreign(settings))
        self._join(*open_engine(config, in_process=in_process))

    @classmethod
    def over(cls, client: EngineClient, text: ModelText) -> LLM:
        """Return an ``LLM`` over an engine that runs already; closing it closes the engine."""
        llm = cls.__new__(cls)
        llm._join(client, text)
        return llm

    def _join(self, client: EngineClient, text: ModelText) -> None:
        self._client: EngineClient | None = client
        self._text = text
        self._info = client.info
        self._inputs = InputProcessor(text, client.info)
        self._outputs = OutputProcessor(text.tokenizer)
        self._names = itertools.count()
        self._running = threading.RLock()
        self._stats = SchedulerStats()

    @property
    def info(self) -> EngineInfo:
        """What is known about the engine: limits, the configuration after adjustments, what was chosen."""
        return self._info

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, batched by the engine.

        Args:
            prompts: one or a list of: text, token ids, ``{"prompt": ...}``, ``{"prompt_token_ids": [...]}``, a
                conversation.
            sampling_params: for all prompts, or one for each; the model's recommendation by default.
            use_tqdm: show a progress bar, or what makes one.
            priority: for all prompts, or one for each; smaller runs earlier under the priority policy.

        Returns:
            The outputs in the order of the prompts.

        Raises:
            RequestError: when a prompt or its parameters cannot be served; nothing was run.
            BatchError: when some prompts failed while they ran; it holds the results of the others.
            EngineDeadError: when the engine ended.
        """
        batch = _as_batch(prompts)
        params = _one_each(self._or_default(sampling_params), len(batch), "sampling_params")
        tokens = self._inputs.tokenize_all(batch)
        return self._run(tokens, params, _one_each(priority or 0, len(batch), "priority"), use_tqdm)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several.

        Args:
            messages: a list of OpenAI-style messages, or a list of such lists.
            sampling_params: for all conversations, or one for each.
            use_tqdm: show a progress bar, or what makes one.
            tools: OpenAI-style tools that the template shows to the model.
            chat_template: instead of the model's own.
            add_generation_prompt: end the prompt with the start of an answer.
            continue_final_message: let the model go on with the last message.
            chat_template_kwargs: further variables of the template.

        Raises:
            RequestError, BatchError, EngineDeadError: as :meth:`generate`.
        """
        conversations = [messages] if is_conversation(messages) else list(messages)
        params = _one_each(self._or_default(sampling_params), len(conversations), "sampling_params")
        tokens = [
            self._inputs.render(
                conversation,  # type: ignore[arg-type]  # checked while rendering
                tools=tools,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        return self._run(tokens, params, [0] * len(tokens), use_tqdm)

    def beam_search(self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams) -> list[BeamSearchOutput]:
        """Return the most likely continuations of prompts.

        Raises:
            RequestError, EngineDeadError: as :meth:`generate`.
        """
        tokens = self._inputs.tokenize_all(_as_batch(prompts))

        def expand(beams: list[list[int]], request: SamplingParams) -> list[RequestOutput]:
            ids = [self._inputs.tokenize(beam) for beam in beams]
            return self._run(ids, [request] * len(ids), [0] * len(ids), use_tqdm=False)

        eos = self._text.eos_token_ids
        search = BeamSearch(params, expand, eos_token_ids=eos, max_model_len=self._info.max_model_len)
        outputs = search.run([one.token_ids.tolist() for one in tokens])
        if (tokenizer := self._text.tokenizer) is not None:
            for sequence in (sequence for output in outputs for sequence in output.sequences):
                ended = sequence.finish_reason == "stop" and not params.include_stop_str_in_output
                shown = sequence.tokens[:-1] if ended else sequence.tokens
                sequence.text = tokenizer.decode(shown, skip_special_tokens=False)
        return outputs

    def get_tokenizer(self) -> Any:
        """Return the model's ``transformers`` tokenizer.

        Raises:
            RequestError: with ``skip_tokenizer_init``.
        """
        return self._text.require_tokenizer("get_tokenizer").hf

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what the model's generation_config.json recommends."""
        return SamplingParams(**self._text.sampling_defaults)

    def reset_prefix_cache(self) -> bool:
        """Forget cached prefixes; return whether all of them could be forgotten."""
        with self._running:
            return self._engine().reset_prefix_cache()

    def start_profile(self) -> None:
        """Begin to record what the engine's loop, the host's threads and the device do.

        Raises:
            ProfileError: when it cannot be recorded.
        """
        with self._running:
            self._engine().start_profile()

    def stop_profile(self, path: str | Path) -> None:
        """End it and write a Chrome trace (``chrome://tracing``, Perfetto) to ``path``; ranks after the first beside it.

        Raises:
            ProfileError: when no profile was started, or the file cannot be written.
        """
        with self._running:
            self._engine().stop_profile(str(path))

    def get_metrics(self) -> dict[str, Any]:
        """Return the engine's gauges and counters as of the last step."""
        return self._stats.to_dict()

    def close(self) -> None:
        """End the engine and give its memory back. May be called more than once."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._text.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A constructor that failed leaves no client.
        if getattr(self, "_client", None) is not None:
            self.close()

    def _engine(self) -> EngineClient:
        if self._client is None:
            raise EngineDeadError("the LLM was closed")
        return self._client

    def _or_default(
        self, given: SamplingParams | Sequence[SamplingParams] | None
    ) -> SamplingParams | Sequence[SamplingParams]:
        return self.get_default_sampling_params() if given is None else given

    def _run(
        self,
        tokens: Sequence[PromptTokens],
        params: Sequence[SamplingParams],
        priorities: Sequence[int],
        use_tqdm: Progress,
    ) -> list[RequestOutput]:
        """Run one request a prompt to the end."""
        prepared = [
            # Nobody reads intermediate outputs here, so none are made.
            self._inputs.prepare(one, replace_kind(sampling), request_id=str(next(self._names)), priority=priority)
            for one, sampling, priority in zip(tokens, params, priorities, strict=True)
        ]
        with self._running, _progress(use_tqdm, len(prepared)) as bar:
            return self._drive(prepared, bar)

    def _drive(self, prepared: Sequence[Prepared], bar: Any) -> list[RequestOutput]:
        client = self._engine()
        positions = {one.request.request_id: position for position, one in enumerate(prepared)}
        results: list[RequestOutput | None] = [None] * len(prepared)
        failures: list[BatchFailure] = []
        with DeferredInterrupt() as interrupt:
            try:
                for one in prepared:
                    self._outputs.add(one)
                    client.add(one.request)
                while len(self._outputs):
                    interrupt.check()
                    for output in self._step(client, positions, failures):
                        results[positions[output.request_id]] = output
                        _advance(bar, output)
            except BaseException:
                self._abandon(client, positions)
                raise
        if failures:
            failures.sort(key=lambda failure: failure.index)
            if len(prepared) == 1:
                raise failures[0].error
            raise BatchError(results, failures)
        return [result for result in results if result is not None]

    def _step(
        self, client: EngineClient, positions: Mapping[str, int], failures: list[BatchFailure]
    ) -> list[RequestOutput]:
        outputs = client.poll(_POLL_SECONDS)
        if outputs is None:
            return []
        if outputs.stats is not None:
            self._stats = outputs.stats
        processed = self._outputs.process(outputs)
        if processed.abort:
            client.abort(processed.abort)
        failures += [BatchFailure(positions[name], error) for name, error in processed.errors]
        return processed.outputs

    def _abandon(self, client: EngineClient, request_ids: Mapping[str, int]) -> None:
        """Take requests back after an interrupt or an error, so that the next call finds a clean engine."""
        handles = self._outputs.forget(request_ids)
        with contextlib.suppress(EngineDeadError):
            client.abort(handles)


def replace_kind(params: SamplingParams) -> SamplingParams:
    """Return ``params`` with outputs made at the end only."""
    if not isinstance(params, SamplingParams):
        raise RequestError(f"sampling_params holds {params!r}; it must be SamplingParams", field="sampling_params")
    return params if params.output_kind == "final_only" else params.replace(output_kind="final_only")


def _as_batch(prompts: Any) -> list[Prompt]:
    """Return a list of prompts; a single one may be text, a mapping, a list of ids or a conversation."""
    if isinstance(prompts, (str, Mapping)) or is_conversation(prompts):
        return [prompts]
    batch = list(prompts)
    single = bool(batch) and not isinstance(batch[0], (str, Mapping, Sequence)) and not hasattr(batch[0], "__len__")
    return [prompts] if single else batch


def _one_each(given: Any, count: int, name: str) -> list[Any]:
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise RequestError(
            f"{name} has {len(given)} entries for {count} prompts; give one, or one for each", field=name
        )
    return list(given)


@contextlib.contextmanager
def _progress(wanted: Progress, total: int) -> Iterator[Any]:
    if not wanted:
        yield None
        return
    make = tqdm if wanted is True else wanted
    with make(total=total, desc="Processed prompts", dynamic_ncols=True) as bar:
        yield bar


def _advance(bar: Any, output: RequestOutput) -> None:
    if bar is not None:
        bar.update(1)
        tokens = sum(len(completion.token_ids) for completion in output.outputs)
        bar.output_tokens = getattr(bar, "output_tokens", 0) + tokens
        elapsed = bar.format_dict["elapsed"]
        if elapsed:
            bar.set_postfix_str(f"output: {bar.output_tokens / elapsed:.1f} tok/s", refresh=False)
