"""A stand-in of vLLM's interface as its source documents it (0.11 to 0.19), for machines that cannot install it:
modules and names, ``AsyncLLM.generate`` with its output kinds, ``LLM``, ``RequestOutput`` with statistics of the engine
core. A fake engine decodes one token each ``step_s`` seconds after ``queue_s`` in the queue.
"""

from __future__ import annotations

import asyncio
import enum
import sys
import time
from collections.abc import AsyncGenerator
from types import ModuleType, SimpleNamespace
from typing import Any


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class SamplingParams:
    def __init__(
        self, max_tokens: int = 16, output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE, **more: Any
    ):
        self.max_tokens, self.output_kind = max_tokens, output_kind
        self.n = more.get("n", 1)
        self.temperature = more.get("temperature", 1.0)
        self.top_p, self.top_k, self.seed = 1.0, 0, None


class RequestOutput:
    def __init__(self, prompt: list[int], outputs: list[Any], finished: bool, metrics: Any) -> None:
        self.request_id = "r"
        self.prompt_token_ids, self.outputs, self.finished, self.metrics = prompt, outputs, finished, metrics
        self.num_cached_tokens = 2


def _stats(queue_s: float, step_s: float) -> Any:
    now = time.monotonic()
    return SimpleNamespace(
        num_generation_tokens=0, arrival_time=time.time(), queued_ts=now, scheduled_ts=now + queue_s,
        first_token_ts=0.0, last_token_ts=0.0, first_token_latency=0.0,
    )  # fmt: skip


class AsyncLLM:
    queue_s = 0.02
    step_s = 0.01

    def __init__(self, log_stats: bool = True, tracing_enabled: bool = False) -> None:
        self.model_config = SimpleNamespace(model="/models/org/tiny", served_model_name="tiny")
        self.output_processor = SimpleNamespace(tracing_enabled=tracing_enabled)
        self.log_stats = log_stats
        self.trace_headers: list[Any] = []
        self.aborted: list[str] = []

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, *, trace_headers: Any = None
    ) -> AsyncGenerator[RequestOutput, None]:
        """Main function called by the API server to kick off a request."""
        self.trace_headers.append(trace_headers)
        stats = _stats(self.queue_s, self.step_s) if self.log_stats else None
        finished = False
        try:
            await asyncio.sleep(self.queue_s)
            made: list[int] = []
            for number in range(sampling_params.max_tokens):
                await asyncio.sleep(self.step_s)
                if prompt == [13]:
                    raise RuntimeError("EngineGenerateError")
                made.append(number)
                finished = number + 1 == sampling_params.max_tokens
                if stats is not None:
                    stats.last_token_ts = time.monotonic()
                    stats.first_token_ts = stats.first_token_ts or stats.last_token_ts
                kind = sampling_params.output_kind
                if kind is RequestOutputKind.FINAL_ONLY and not finished:
                    continue
                tokens = [number] if kind is RequestOutputKind.DELTA else list(made)
                completion = SimpleNamespace(index=0, token_ids=tokens, finish_reason="length" if finished else None)
                yield RequestOutput(prompt, [completion], finished, stats)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    async def encode(self, prompt: Any, pooling_params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(self.step_s)
        yield SimpleNamespace(prompt_token_ids=prompt, outputs=SimpleNamespace(data=[0.0]), finished=True)


class LLM:
    def __init__(self, log_stats: bool = True) -> None:
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(model="/models/org/tiny", served_model_name=None)
        )
        self.log_stats = log_stats

    def generate(self, prompts: list[list[int]], sampling_params: Any = None, *, use_tqdm: bool = True) -> list[Any]:
        """Generates the completions for the input prompts."""
        if prompts == [[13]]:
            raise ValueError("no such prompt")
        begun, outputs = time.monotonic(), []
        time.sleep(0.05)
        for prompt in prompts:
            stats = _stats(0.01, 0.01) if self.log_stats else None
            if stats is not None:
                stats.queued_ts, stats.scheduled_ts = begun, begun + 0.01
                stats.first_token_ts, stats.last_token_ts = begun + 0.02, begun + 0.05
            completion = SimpleNamespace(index=0, token_ids=[1, 2, 3, 4], finish_reason="stop")
            outputs.append(RequestOutput(prompt, [completion], True, stats))
        return outputs

    def chat(self, messages: Any, sampling_params: Any = None) -> list[Any]:
        return self.generate([[1, 2]], sampling_params)


def install(monkeypatch: Any) -> Any:
    """Put it where vLLM would be; returns the package."""
    package = ModuleType("vllm")
    async_llm, llm = ModuleType("vllm.v1.engine.async_llm"), ModuleType("vllm.entrypoints.llm")
    async_llm.AsyncLLM, llm.LLM = AsyncLLM, LLM  # type: ignore[attr-defined]
    package.AsyncLLM, package.LLM = AsyncLLM, LLM  # type: ignore[attr-defined]
    package.SamplingParams, package.RequestOutputKind = SamplingParams, RequestOutputKind  # type: ignore[attr-defined]
    parents = [ModuleType(name) for name in ("vllm.v1", "vllm.v1.engine", "vllm.entrypoints")]
    for module in (package, *parents, async_llm, llm):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package
