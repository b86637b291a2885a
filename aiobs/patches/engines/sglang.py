"""The SGLang patch: what its tokenizer manager is asked for, by the ``Engine`` and by SGLang's own server alike.

Facts come from each output's ``meta_info``; the queue's seconds are there where SGLang keeps metrics.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import import_module
from typing import Any, Final

from aiobs import names
from aiobs.guard import guarded, swallow
from aiobs.patches.engines.generation import Generation, short_name
from aiobs.patches.engines.outputs import watched
from aiobs.patches.engines.placing import EnginePatch, is_recorded
from aiobs.propagation import inject
from aiobs.wrapping import Live

PLACE: Final = "patches.sglang"
PROVIDER: Final = "sglang"
HOME: Final = "sglang.srt.managers.tokenizer_manager"


class SglangPatch(EnginePatch):
    """``TokenizerManager.generate_request``."""

    def place(self) -> None:
        self.put(import_module(HOME).TokenizerManager, "generate_request", self._generate_request)

    def _generate_request(self, original: Any, live: Live) -> Any:
        async def generate_request(self_: Any, obj: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            watch = self._begin(self_, obj) if live and is_recorded() else None
            async with aclosing(watched(original(self_, obj, *args, **kwargs), watch)) as outputs:
                async for output in outputs:
                    yield output

        return generate_request

    def _begin(self, server: Any, obj: Any) -> _Watch | None:
        try:
            settings = getattr(server, "server_args", None)
            served = getattr(settings, "served_model_name", None) or getattr(settings, "model_path", "")
            operation = "embeddings" if type(obj).__name__.startswith("Embedding") else "text_completion"
            parameters = dict(_parameters(obj))
            parameters["max_tokens"] = parameters.get("max_new_tokens")
            parameters["stream"] = getattr(obj, "stream", None) or None
            request = Generation(short_name(served, PROVIDER), operation, parameters, provider=PROVIDER, waits=True)
            traced = getattr(settings, "enable_trace", False) and getattr(obj, "external_trace_header", False) is None
            if traced and request.context is not None:
                headers: dict[str, str] = {}
                inject(request.context, headers)
                obj.external_trace_header = headers
            return _Watch(request, obj)
        except Exception as error:
            self.remove()
            swallow(PLACE, error)
            return None


class _Watch:
    """What is seen of one request, a single prompt or a batch, while its outputs come."""

    def __init__(self, request: Generation, obj: Any) -> None:
        self.request = request
        given = getattr(obj, "text", None) or getattr(obj, "input_ids", None)
        batch = isinstance(given, list) and bool(given) and isinstance(given[0], (str, list))
        self._prompts_given = len(given) if batch and given is not None else 1
        self._expected = self._prompts_given * int(_parameters(obj).get("n") or 1)
        self._streamed = bool(getattr(obj, "stream", False))
        self._tokens: dict[int, int] = {}
        self._prompts: dict[int, int] = {}
        self._cached = 0
        self._reasons: list[str] = []

    @guarded(PLACE)
    def saw(self, output: Any) -> None:
        """An output, or those of a whole batch, are about to be handed out."""
        many = isinstance(output, list)
        for place, one in enumerate(output if many else [output]):
            self._add(place if many else one.get("index", 0), one["meta_info"])
        if len(self._reasons) >= max(self._expected, len(output) if many else 1):
            self._finish()

    def _add(self, place: int, meta: dict[str, Any]) -> None:
        request = self.request
        queued = meta.get("queue_time")
        request.scheduled(request.begun_ns + int(queued * 1e9) if queued else request.begun_ns)
        self._prompts[place] = meta.get("prompt_tokens", 0)
        made = meta.get("completion_tokens", 0) or 0
        new = made - self._tokens.get(place, 0)
        self._tokens[place] = made
        if self._streamed and new > 0:
            request.token(new)
        reason = meta.get("finish_reason")
        if reason is not None or "completion_tokens" not in meta:
            self._cached += meta.get("cached_tokens") or 0
            self._reasons.append(str(reason.get("type", "stop")) if isinstance(reason, dict) else str(reason or "stop"))

    def _finish(self) -> None:
        facts = self.request.facts
        facts[names.REQUEST_INPUTS] = self._prompts_given
        facts[names.REQUEST_SEQUENCES] = self._expected
        facts[names.GEN_AI_INPUT_TOKENS] = sum(self._prompts.values())
        facts[names.GEN_AI_CACHED_TOKENS] = self._cached
        longest = max(self._tokens.values(), default=0)
        if self._streamed and longest > 1 and self.request.decoding_s > 0:
            facts[names.TIME_PER_OUTPUT_TOKEN] = self.request.decoding_s / (longest - 1)
        aborted = [reason for reason in self._reasons if reason == "abort"]
        if aborted:
            self.request.aborted("engine")
        else:
            self.request.finished(self._reasons[0], sum(self._tokens.values()))


def _parameters(obj: Any) -> dict[str, Any]:
    """Sampling parameters of a request, of a batch those of its first prompt."""
    asked = getattr(obj, "sampling_params", None)
    first = asked[0] if isinstance(asked, list) and asked else asked
    return first if isinstance(first, dict) else {}
