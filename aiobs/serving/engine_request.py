"""One request inside an engine: how long it queued, prefilled and decoded, and what it shared with others.

The phases become child spans ``queue``, ``prefill`` and ``decode``, written where they happen and with the times the
engine gives; a preempted request has further ones. Sums, tokens and latencies go onto the request itself: the span
of the server's request the engine works for, or, where there is none, a span of the engine's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiobs import names
from aiobs.clock import monotonic_ns
from aiobs.guard import guarded, swallow
from aiobs.propagation import Context
from aiobs.recorder import Span, start_span
from aiobs.recorder.rest import type_name
from aiobs.serving.quantiles import quantiles
from aiobs.serving.request import current_request

LINK_LIMIT: Final = 128
"""Kept engine steps a request links to."""

_PARAMETERS: Final = {
    "frequency_penalty": names.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    "max_tokens": names.GEN_AI_REQUEST_MAX_TOKENS,
    "n": names.GEN_AI_REQUEST_CHOICES,
    "presence_penalty": names.GEN_AI_REQUEST_PRESENCE_PENALTY,
    "seed": names.GEN_AI_REQUEST_SEED,
    "stream": names.GEN_AI_REQUEST_STREAM,
    "temperature": names.GEN_AI_REQUEST_TEMPERATURE,
    "top_k": names.GEN_AI_REQUEST_TOP_K,
    "top_p": names.GEN_AI_REQUEST_TOP_P,
}


class EngineRequest:
    """A request on its way through an engine.

    Make it where the request arrives (the server's handler, a task, a thread that calls ``generate``); tell it what
    happens from wherever the engine runs. Times are monotonic ns (``time.monotonic_ns()``; on Linux also
    ``time.perf_counter_ns()``), now by default. After the end nothing changes any more.

    Attributes:
        span_id: hex id of the span that stands for the request.
        tokens: tokens reported so far.
    """

    __slots__ = (
        "_begun_ns",
        "_done",
        "_ended_ns",
        "_first_ns",
        "_gaps",
        "_last_ns",
        "_late",
        "_links",
        "_longest_ns",
        "_own",
        "_parent",
        "_phase",
        "_phase_name",
        "_preemptions",
        "_prompt_tokens",
        "_share_ns",
        "_since_ns",
        "_steps",
        "_steps_open",
        "_target",
        "_total_ns",
        "span_id",
        "tokens",
    )

    def __init__(
        self,
        model: str,
        operation: str = "chat",
        parameters: Mapping[str, Any] | None = None,
        prompt_tokens: int | None = None,
        *,
        provider: str = "",
        parent: Context | None = None,
        now_ns: int | None = None,
    ) -> None:
        """The request arrives, and waits until it is :meth:`scheduled`.

        Args:
            operation: chat, text_completion, embeddings, generate_content.
            parameters: of the generation, by the names OpenAI's API has (``max_tokens``, ``temperature``, …); those that
                hold text are left out.
            prompt_tokens: how long the prompt is.
            provider: who makes the engine, e.g. ``vllm``.
            parent: context of the request in another process, where the engine is not told by its surroundings.
        """
        self._done: list[bool] = [True]  # popped by the one who ends it: the only step that must be atomic
        self._begun_ns = self._since_ns = monotonic_ns() if now_ns is None else now_ns
        self._total_ns = {names.SPAN_QUEUE: 0, names.SPAN_PREFILL: 0, names.SPAN_DECODE: 0}
        self._phase_name = names.SPAN_QUEUE
        self._first_ns = self._last_ns = self._ended_ns = self._share_ns = 0
        self._steps = self._steps_open = self._links = self._preemptions = self.tokens = 0
        self._longest_ns = 0
        self._gaps: dict[int, int] = {}  # time between tokens, as aiobs.serving.quantiles counts it
        self._late: list[tuple[Span, str, int]] = []  # phases that ended within a step, to be linked to it
        self._prompt_tokens = prompt_tokens
        self._own: Span | None = None
        self._target: dict[str, Any] = {}
        self._phase: Span | None = None
        self._parent: Context | None = None
        self.span_id = ""
        try:
            self._begin(str(model), operation, parameters or {}, provider, parent)
        except Exception as error:
            swallow("serving.engine_request.begin", error)

    def _begin(
        self, model: str, operation: str, parameters: Mapping[str, Any], provider: str, parent: Context | None
    ) -> None:
        attributes: dict[str, Any] = {names.GEN_AI_OPERATION: operation, names.GEN_AI_REQUEST_MODEL: model}
        if provider:
            attributes[names.GEN_AI_PROVIDER] = provider
        for key, value in parameters.items():
            if value is not None and key in _PARAMETERS:
                attributes[_PARAMETERS[key]] = value
        server = current_request() if parent is None else None
        if server is not None and names.USAGE_SOURCE not in server.engine:
            # The first of the server's request speaks for it; further ones (several prompts) get spans of their own.
            attributes[names.USAGE_SOURCE] = "engine"
            self._target = server.engine
            self._target.update(attributes)
            self._begun_ns = min(self._begun_ns, server.start_ns)
            span = server.span
        else:
            above = parent if parent is not None else server.span.context if server is not None else None
            name = f"{operation} {model}"
            span = self._own = start_span(name, attributes, parent=above, start_ns=self._begun_ns)
        if span.recording:
            context = self._parent = span.context
            self.span_id = context.span_id.hex()
            self._phase = start_span(names.SPAN_QUEUE, parent=context, start_ns=self._since_ns)

    # -- what happens to it --------------------------------------------------------------------------------
    @guarded("serving.engine_request.scheduled")
    def scheduled(self, now_ns: int | None = None) -> None:
        """The engine takes it from the queue: prefill begins."""
        if self._phase_name is names.SPAN_QUEUE:
            self._turn(names.SPAN_PREFILL, now_ns)

    @guarded("serving.engine_request.prefilled")
    def prefilled(self, now_ns: int | None = None) -> None:
        """The prompt has been run through the model: decode begins. Without this call the first token says so."""
        if self._phase_name is not names.SPAN_DECODE:
            self._turn(names.SPAN_DECODE, now_ns)

    def token(self, n: int = 1, now_ns: int | None = None) -> None:
        """`n` more tokens are there."""
        try:
            now = monotonic_ns() if now_ns is None else now_ns
            if self._phase_name is not names.SPAN_DECODE:
                self._turn(names.SPAN_DECODE, now)
            if self._first_ns:
                gap = now - self._last_ns
                if gap > self._longest_ns:
                    self._longest_ns = gap
                gap |= 32  # quantiles.bucket_of, written out
                octave = gap.bit_length() - 6
                bucket = (octave << 5) + (gap >> octave)
                self._gaps[bucket] = self._gaps.get(bucket, 0) + 1
            else:
                self._first_ns = now
            self._last_ns = now
            self.tokens += n
        except Exception as error:
            swallow("serving.engine_request.token", error)

    @guarded("serving.engine_request.preempted")
    def preempted(self, now_ns: int | None = None) -> None:
        """The engine puts it back into the queue, to go on later."""
        if self._phase_name is not names.SPAN_QUEUE:
            self._preemptions += 1
            self._turn(names.SPAN_QUEUE, now_ns)

    @guarded("serving.engine_request.resumed")
    def resumed(self, now_ns: int | None = None, *, recompute: bool = True) -> None:
        """A preempted request goes on: with a prefill where what it had is computed again, else decoding at once."""
        if self._phase_name is names.SPAN_QUEUE:
            self._turn(names.SPAN_PREFILL if recompute else names.SPAN_DECODE, now_ns)

    # -- how it ends ---------------------------------------------------------------------------------------
    @guarded("serving.engine_request.finished")
    def finished(self, reason: str = "stop", output_tokens: int | None = None, now_ns: int | None = None) -> None:
        """It is whole. Say so before the last token is handed out, so that the server's span has these facts.

        Args:
            reason: stop, length, tool_calls, content_filter.
            output_tokens: tokens made, where they are not those reported with :meth:`token`.
        """
        if output_tokens is not None:
            self.tokens = output_tokens
        facts: dict[str, Any] = {names.GEN_AI_RESPONSE_FINISH: [reason]}
        if self._first_ns and self.tokens > 1:
            facts[names.TIME_PER_OUTPUT_TOKEN] = (self._last_ns - self._first_ns) / 1e9 / (self.tokens - 1)
        self._end(facts, now_ns)

    @guarded("serving.engine_request.aborted")
    def aborted(self, cause: str, now_ns: int | None = None) -> None:
        """It was given up through no fault of the engine, e.g. because the caller ``disconnected``: no error."""
        self._end({names.REQUEST_ABORTED: cause}, now_ns)

    @guarded("serving.engine_request.failed")
    def failed(self, error: BaseException | str, now_ns: int | None = None) -> None:
        """The engine cannot finish it."""
        kind = type_name(error) if isinstance(error, BaseException) else "engine_failed"
        self._end({names.ERROR_TYPE: kind}, now_ns, error)

    # -- phases --------------------------------------------------------------------------------------------
    def _turn(self, name: str, now_ns: int | None) -> None:
        """One phase ends where the next begins."""
        if not self._done:
            return
        now = max(self._since_ns, monotonic_ns() if now_ns is None else now_ns)
        self._close_phase(now)
        self._phase_name, self._since_ns = name, now
        if self._parent is not None:
            self._phase = start_span(name, parent=self._parent, start_ns=now)
        if not self._done:  # ended by another thread meanwhile
            self._close_phase(now)

    def _close_phase(self, now: int) -> None:
        self._total_ns[self._phase_name] += now - self._since_ns
        phase, self._phase = self._phase, None
        if phase is None:
            return
        if self._steps_open:
            self._late.append((phase, self._phase_name, now))
            if not self._steps_open:  # the step ended meanwhile, in another thread
                self._settle()
        else:
            phase.end(now)

    def _end(self, facts: dict[str, Any], now_ns: int | None, error: BaseException | str | None = None) -> None:
        try:
            self._done.pop()
        except IndexError:
            return
        now = max(self._since_ns, monotonic_ns() if now_ns is None else now_ns)
        if error is not None and self._phase is not None:
            self._phase.fail(error)
        self._close_phase(now)
        if self._first_ns:
            facts[names.TIME_TO_FIRST_TOKEN] = (self._first_ns - self._begun_ns) / 1e9
        if self._gaps:
            facts.update(zip(names.REQUEST_INTER_TOKEN, quantiles(self._gaps, (0.5, 0.95, 0.99)), strict=False))
            facts[names.REQUEST_INTER_TOKEN_MAX] = self._longest_ns / 1e9
        if self._prompt_tokens is not None:
            facts[names.GEN_AI_INPUT_TOKENS] = self._prompt_tokens
        facts[names.GEN_AI_OUTPUT_TOKENS] = self.tokens
        facts[names.REQUEST_QUEUE] = self._total_ns[names.SPAN_QUEUE] / 1e9
        facts[names.REQUEST_PREFILL] = self._total_ns[names.SPAN_PREFILL] / 1e9
        facts[names.REQUEST_DECODE] = self._total_ns[names.SPAN_DECODE] / 1e9
        facts[names.REQUEST_PREEMPTIONS] = self._preemptions
        self._target.update(facts)
        if self._own is not None:
            self._own.set_all(facts)
            if error is not None:
                self._own.fail(error)
        self._ended_ns = now
        self._settle()

    # -- steps ---------------------------------------------------------------------------------------------
    def _enter_step(self) -> None:
        self._steps_open += 1

    def _leave_step(self, kept: Context | None, share_ns: int) -> None:
        """A step it took part in has ended, and was kept or not."""
        self._steps_open -= 1
        self._steps += 1
        self._share_ns += share_ns
        if kept is not None and self._links < LINK_LIMIT:
            worked = [phase for phase, name, _ in self._late if name is not names.SPAN_QUEUE]
            phase = worked[0] if worked else self._phase
            if phase is not None:
                self._links += 1
                phase.link(kept)
        if self._late or self._ended_ns:
            self._settle()

    def _settle(self) -> None:
        """Write what waited for the end of a step, unless one is still open; whoever comes last does it."""
        shared = {names.REQUEST_ENGINE_SHARE: self._share_ns / 1e9, names.REQUEST_ENGINE_STEPS: self._steps}
        if self._ended_ns:
            self._target.update(shared)
        if self._steps_open:
            return
        while self._late:
            phase, _, ended = self._late.pop()
            phase.end(ended)
        if self._ended_ns and self._own is not None:
            self._own.set_all(shared)
            self._own.end(self._ended_ns)
