"""A request of an engine, with what only some engines know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiobs import names
from aiobs.guard import guarded
from aiobs.propagation import Context
from aiobs.serving import EngineRequest, current_request
from aiobs.serving.openai_routes import OPERATIONS


class Generation(EngineRequest):
    """An engine request that takes further attributes at its end.

    Attributes:
        facts: attributes it ends with; they win over those that follow from the tokens reported.
        model: its name.
    """

    __slots__ = ("facts", "model")

    def __init__(
        self,
        model: str,
        operation: str,
        parameters: Mapping[str, Any],
        prompt_tokens: int | None = None,
        *,
        waits: bool = False,
        **more: Any,
    ) -> None:
        """As :class:`EngineRequest`; unless it `waits`, its prefill begins at once."""
        self.facts: dict[str, Any] = {}
        self.model = model
        super().__init__(model, operation, parameters, prompt_tokens, **more)
        self._leave_to_the_route()
        if not waits:
            self.scheduled(self._since_ns)

    @guarded("patches.engines.generation")
    def _leave_to_the_route(self) -> None:
        """What a server was asked for, and under which name of the model, its OpenAI route knows better than a
        method deep below that completes texts."""
        server = current_request()
        if server is None or self._target is not server.engine:
            return
        if str(server.span.attributes.get(names.URL_PATH, "")).endswith(tuple(OPERATIONS)):
            for key in (names.GEN_AI_OPERATION, names.GEN_AI_REQUEST_MODEL):
                server.engine.pop(key, None)

    @property
    def decoding_s(self) -> float:
        """Seconds from the first reported token to the last."""
        return (self._last_ns - self._first_ns) / 1e9

    def was(self, scheduled_ns: int, first_ns: int, last_ns: int, tokens: int) -> None:
        """Say what happened when it is all over (monotonic ns; 0: unknown), instead of token by token.

        Args:
            tokens: how many there were, for each of the sequences that were decoded side by side.
        """
        if scheduled_ns:
            self.scheduled(scheduled_ns)
        if first_ns:
            self.prefilled(first_ns)
            self.facts[names.TIME_TO_FIRST_TOKEN] = max(0, first_ns - self._begun_ns) / 1e9
            if last_ns > first_ns and tokens > 1:
                self.facts[names.TIME_PER_OUTPUT_TOKEN] = (last_ns - first_ns) / 1e9 / (tokens - 1)

    @property
    def begun_ns(self) -> int:
        """When it arrived, monotonic ns."""
        return self._begun_ns

    @property
    def context(self) -> Context | None:
        """Context of the span that stands for it; None where nothing is recorded."""
        return self._parent

    def _end(self, facts: dict[str, Any], now_ns: int | None, error: BaseException | str | None = None) -> None:
        facts.update(self.facts)
        super()._end(facts, now_ns, error)


def short_name(name: object, otherwise: str) -> str:
    """A model's name for a span: of a local path the last part, and at most 128 characters."""
    text = str(name or otherwise)
    if text.startswith(("/", ".", "~")):
        text = text.rstrip("/").rpartition("/")[2] or otherwise
    return text[:128]
