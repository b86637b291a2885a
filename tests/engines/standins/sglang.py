"""A stand-in of SGLang's interface as its source documents it (0.5), for machines that cannot install it: the
tokenizer manager, through which ``Engine`` and SGLang's server go, and ``Engine.generate`` in front of it. Outputs have
``meta_info`` with cumulative token counts, as SGLang's have.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

STEP_S = 0.01
QUEUE_S = 0.02


class GenerateReqInput:
    def __init__(self, text: Any, sampling_params: Any = None, stream: bool = False) -> None:
        self.text, self.sampling_params, self.stream = text, sampling_params, stream
        self.input_ids = None
        self.external_trace_header: dict[str, str] | None = None


class EmbeddingReqInput:
    def __init__(self, text: Any) -> None:
        self.text = text
        self.input_ids = None


class TokenizerManager:
    def __init__(self, metrics: bool = True, enable_trace: bool = False) -> None:
        self.server_args = SimpleNamespace(
            model_path="/models/org/tiny", served_model_name="tiny", enable_trace=enable_trace
        )
        self.metrics = metrics
        self.asked: list[Any] = []

    async def generate_request(self, obj: Any, request: Any = None) -> AsyncGenerator[Any, None]:
        self.asked.append(obj)
        texts = [obj.text] if isinstance(obj.text, str) else obj.text
        if "refused" in texts:
            raise ValueError("The prompt is too long")
        await asyncio.sleep(QUEUE_S)
        if isinstance(obj, EmbeddingReqInput):
            yield {"embedding": [0.0], "meta_info": {"id": "r", "prompt_tokens": 3, "e2e_latency": QUEUE_S}}
            return
        tokens = (obj.sampling_params or {}).get("max_new_tokens", 4)
        for made in range(1, tokens + 1):
            await asyncio.sleep(STEP_S)
            last = made == tokens
            if obj.stream:
                for index in range(len(texts)):
                    yield {"text": "x" * made, "index": index, "meta_info": self._meta(made, last)}
        if not obj.stream:
            whole = [{"text": "x" * tokens, "meta_info": self._meta(tokens, True)} for _ in texts]
            yield whole[0] if isinstance(obj.text, str) else whole

    def _meta(self, made: int, last: bool) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "id": "r", "finish_reason": {"type": "length", "length": made} if last else None, "prompt_tokens": 3,
            "completion_tokens": made, "cached_tokens": 1,
        }  # fmt: skip
        if self.metrics:
            meta["queue_time"] = QUEUE_S
        return meta


class Engine:
    """The entry point to the inference engine; like the real one it has a loop of its own for synchronous calls."""

    def __init__(self, **more: Any) -> None:
        self.tokenizer_manager = TokenizerManager(**more)
        self.loop = asyncio.new_event_loop()

    def generate(self, prompt: Any, sampling_params: Any = None, stream: bool = False) -> Any:
        generator = self.tokenizer_manager.generate_request(GenerateReqInput(prompt, sampling_params, stream), None)
        if not stream:
            return self.loop.run_until_complete(generator.__anext__())

        def chunks() -> Iterator[Any]:
            while True:
                try:
                    yield self.loop.run_until_complete(generator.__anext__())
                except StopAsyncIteration:
                    break

        return chunks()

    async def async_generate(self, prompt: Any, sampling_params: Any = None, stream: bool = False) -> Any:
        generator = self.tokenizer_manager.generate_request(GenerateReqInput(prompt, sampling_params, stream), None)
        return generator if stream else await generator.__anext__()

    def encode(self, prompt: Any) -> Any:
        return self.loop.run_until_complete(
            self.tokenizer_manager.generate_request(EmbeddingReqInput(prompt)).__anext__()
        )

    def shutdown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def install(monkeypatch: Any) -> Any:
    """Put it where SGLang would be; returns the package."""
    package, manager = ModuleType("sglang"), ModuleType("sglang.srt.managers.tokenizer_manager")
    manager.TokenizerManager = TokenizerManager  # type: ignore[attr-defined]
    package.Engine = Engine  # type: ignore[attr-defined]
    for module in (package, ModuleType("sglang.srt"), ModuleType("sglang.srt.managers"), manager):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package
