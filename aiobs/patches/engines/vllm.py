"""The vLLM patch: requests of the asynchronous engine and calls of the offline ``LLM``.

Where vLLM keeps statistics of a request (``RequestOutput.metrics``), queue, prefill and decode have the times of its
engine core, whose clock is the machine's monotonic one; else what is seen from outside is all there is. Where vLLM
writes spans of its own, they become children of the request.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from importlib import import_module
from typing import Any, Final

from aiobs import names
from aiobs.guard import guarded, swallow
from aiobs.patches.engines.generation import Generation, short_name
from aiobs.patches.engines.outputs import watched
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.propagation import inject
from aiobs.wrapping import Live, MakeWrapper

PLACE: Final = "patches.vllm"
PROVIDER: Final = "vllm"
PARAMETERS: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "frequency_penalty",
    "presence_penalty",
)
OFFLINE: Final = {
    "generate": "text_completion", "chat": "chat", "beam_search": "text_completion", "embed": "embeddings",
    "encode": "embeddings",
}  # fmt: skip
"""Methods of ``LLM`` and their operations; some call others, the outermost counts."""
REQUESTS_SHOWN: Final = 64
"""Requests of one offline call that get spans of their own."""
_TRACE_HEADERS: Final = "trace_headers"


class AsyncVllmPatch(EnginePatch):
    """``AsyncLLM``, which vLLM's own server, and most others around it, use."""

    def place(self) -> None:
        kind = import_module("vllm.v1.engine.async_llm").AsyncLLM
        self.put(kind, "generate", self._stream("text_completion"))
        self.put_if_there(kind, "encode", self._stream("embeddings"))

    def _stream(self, operation: str) -> MakeWrapper:
        def make(original: Any, live: Live) -> Any:
            async def stream(self_: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
                watch = self._begin(self_, operation, args, kwargs) if live and is_recorded() else None
                async with aclosing(watched(original(self_, *args, **kwargs), watch)) as outputs:
                    async for output in outputs:
                        yield output

            return stream

        return make

    def _begin(self, engine: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Watch | None:
        try:
            parameters = args[1] if len(args) > 1 else kwargs.get("sampling_params")
            request = Generation(_model(engine), operation, _chosen(parameters), provider=PROVIDER, waits=True)
            traced = getattr(getattr(engine, "output_processor", None), "tracing_enabled", False)
            if traced and request.context is not None and len(args) <= 3:
                headers = dict(kwargs.get(_TRACE_HEADERS) or {})
                inject(request.context, headers)
                kwargs[_TRACE_HEADERS] = headers
            return _Watch(request, _is_delta(parameters))
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return None


class _Watch:
    """What is seen of one request while its outputs come."""

    def __init__(self, request: Generation, delta: bool) -> None:
        self.request = request
        self._delta = delta
        self._seen = 0

    @guarded(PLACE)
    def saw(self, output: Any) -> None:
        """An output is about to be handed out."""
        request = self.request
        made = _tokens(output)
        total = self._seen + made if self._delta else made
        if output.finished and not self._seen:
            _account(request, output)  # the only one: the first token came long ago
            return
        if not self._seen and total:
            scheduled_ns, first_ns, _ = _times(request, output)
            request.scheduled(scheduled_ns or request.begun_ns)
            if first_ns:
                request.prefilled(first_ns)
        if total > self._seen:
            request.token(total - self._seen)
            self._seen = total
        if output.finished:
            _describe(request, output)
            request.finished(_reason(output), total)


class VllmPatch(EnginePatch):
    """``LLM``, for batches."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = threading.local()

    def place(self) -> None:
        kind = import_module("vllm.entrypoints.llm").LLM
        for name, operation in OFFLINE.items():
            self.put_if_there(kind, name, self._call(operation))

    def _call(self, operation: str) -> MakeWrapper:
        def make(original: Any, live: Live) -> Any:
            def call(self_: Any, *args: Any, **kwargs: Any) -> Any:
                inside = self._inside.__dict__
                if not live or inside.get("now") or not is_recorded():
                    return original(self_, *args, **kwargs)
                request = self._begin(self_, operation, args, kwargs)
                if request is None:
                    return original(self_, *args, **kwargs)
                inside["now"] = True
                try:
                    outputs = original(self_, *args, **kwargs)
                except BaseException as error:
                    request.failed(error)
                    raise
                finally:
                    inside["now"] = False
                _whole(request, operation, outputs)
                return outputs

            return call

        return make

    def _begin(self, llm: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generation | None:
        try:
            parameters = args[1] if len(args) > 1 else kwargs.get("sampling_params")
            return Generation(_model(llm), operation, _chosen(parameters), provider=PROVIDER, waits=True)
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return None


@guarded(PLACE)
def _whole(request: Generation, operation: str, outputs: Any) -> None:
    """An offline call returned `outputs`: one for each prompt."""
    found = [output for output in outputs if hasattr(output, "prompt_token_ids")]
    request.facts[names.REQUEST_INPUTS] = len(outputs)
    if len(found) == 1:
        _account(request, found[0])
        return
    times = [_times(request, output) for output in found]
    known = [it for it in times if all(it)]
    if known:
        request.was(min(it[0] for it in known), min(it[1] for it in known), 0, 0)
    else:
        request.scheduled(request.begun_ns)
    for output in found[:REQUESTS_SHOWN] if request.context is not None else ():
        one = Generation(
            request.model, operation, {}, provider=PROVIDER, parent=request.context,
            now_ns=request.begun_ns, waits=True,
        )  # fmt: skip
        _account(one, output)
    request.facts[names.GEN_AI_INPUT_TOKENS] = sum(len(it.prompt_token_ids or ()) for it in found)
    request.finished(_reason(found[0]) if found else "stop", sum(map(_tokens, found)))


def _account(request: Generation, output: Any) -> None:
    """Say all of a request that is over."""
    scheduled_ns, first_ns, last_ns = _times(request, output)
    made = _tokens(output)
    side_by_side = max(len(getattr(output, "outputs", ())) if _is_list(output) else 1, 1)
    request.was(scheduled_ns or request.begun_ns, first_ns, last_ns, made // side_by_side)
    _describe(request, output)
    request.finished(_reason(output), made, last_ns or None)


def _describe(request: Generation, output: Any) -> None:
    request.facts[names.GEN_AI_INPUT_TOKENS] = len(output.prompt_token_ids or ())
    cached = getattr(output, "num_cached_tokens", None)
    if cached is not None:
        request.facts[names.GEN_AI_CACHED_TOKENS] = cached
    if _is_list(output):
        request.facts[names.REQUEST_SEQUENCES] = len(output.outputs)


def _times(request: Generation, output: Any) -> tuple[int, int, int]:
    """When the request was scheduled, had its first and its last token: monotonic ns, 0 where not known."""
    stats = getattr(output, "metrics", None)
    if stats is None:
        return 0, 0, 0
    if hasattr(stats, "scheduled_ts"):  # of the engine core of today, monotonic seconds
        seconds = stats.scheduled_ts, stats.first_token_ts, stats.last_token_ts
        return tuple(int(it * 1e9) for it in seconds)  # type: ignore[return-value]
    arrived = stats.arrival_time  # of the engine before, on a clock of its own
    moments = stats.first_scheduled_time, stats.first_token_time, stats.finished_time or stats.last_token_time
    return tuple(0 if it is None else request.begun_ns + int((it - arrived) * 1e9) for it in moments)  # type: ignore[return-value]


def _is_list(output: Any) -> bool:
    return isinstance(getattr(output, "outputs", None), list)


def _tokens(output: Any) -> int:
    """Tokens in an output; an embedding has none."""
    return sum(len(it.token_ids) for it in output.outputs) if _is_list(output) else 0


def _reason(output: Any) -> str:
    """Why the first sequence that says so ended."""
    if _is_list(output):
        for it in output.outputs:
            if it.finish_reason:
                return str(it.finish_reason)
    return "stop"


def _is_delta(parameters: Any) -> bool:
    """Whether each output has the new tokens only."""
    return getattr(getattr(parameters, "output_kind", None), "name", "") == "DELTA"


def _chosen(parameters: Any) -> dict[str, Any]:
    if isinstance(parameters, Sequence):
        parameters = parameters[0] if parameters else None
    return {name: getattr(parameters, name, None) for name in PARAMETERS}


def _model(engine: Any) -> str:
    config = getattr(engine, "model_config", None) or getattr(getattr(engine, "llm_engine", None), "model_config", None)
    served = getattr(config, "served_model_name", None)
    if isinstance(served, (list, tuple)):
        served = served[0] if served else None
    return short_name(served or getattr(config, "model", ""), type(engine).__name__)
