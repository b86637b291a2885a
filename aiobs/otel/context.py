"""OpenTelemetry's current context with our open span in it.

Our hot path writes nothing for this: when OpenTelemetry asks for its context, the innermost of its own span
and ours is looked up. Ours is the innermost where the context object is still the one our span began in.
"""

from __future__ import annotations

from contextvars import Token
from typing import Any

from opentelemetry.context import context as their_context
from opentelemetry.trace.propagation import _SPAN_KEY  # pyright: ignore[reportPrivateUsage]

from aiobs import recorder
from aiobs.guard import swallow
from aiobs.otel.spans import SeenSpan, context_of
from aiobs.propagation import Context
from aiobs.recorder import Span

TheirContext = their_context.Context
RuntimeContext = their_context._RuntimeContext  # pyright: ignore[reportPrivateUsage]


class JoinedContext(RuntimeContext):
    """Stands before OpenTelemetry's runtime context and puts our span in where ours is the innermost.

    Args:
        below: the runtime context OpenTelemetry came with.
    """

    def __init__(self, below: RuntimeContext) -> None:
        self.below = below
        self._last: tuple[object, TheirContext, TheirContext] | None = None

    def attach(self, context: TheirContext) -> Token[TheirContext]:
        return self.below.attach(context)

    def detach(self, token: Token[TheirContext]) -> None:
        self.below.detach(token)

    def get_current(self) -> TheirContext:
        below = self.below.get_current()
        try:
            return self._joined(below)
        except Exception as error:
            swallow("otel.context", error)
            return below

    def hide(self) -> None:
        """Show our spans no more, at no cost from now on.

        For a program with a set-up of its own: its traces would otherwise begin under spans that its exporters
        never get, and its samplers would take our word for theirs.
        """
        vars(self)["get_current"] = self.below.get_current

    def _joined(self, below: TheirContext) -> TheirContext:
        ours = recorder.innermost()
        if ours is None or self.unsampled() is not None:
            return below
        span = below.get(_SPAN_KEY)
        if isinstance(span, SeenSpan):
            if span.ours is ours:
                return below
        elif isinstance(ours, Context):
            theirs = context_of(span)
            if theirs is not None and theirs.span_id == ours.span_id:
                return below
        last = self._last
        if last is not None and last[0] == ours and last[1] is below:
            return last[2]
        values: dict[str, Any] = {**below, _SPAN_KEY: SeenSpan(ours)}
        joined = TheirContext(values)
        self._last = ours, below, joined
        return joined

    def theirs(self) -> tuple[object, Span | Context | None]:
        """What OpenTelemetry itself holds as current: an object that changes whenever it does, and its span.

        A span that is not sampled is none: it is on no record, so nothing of ours could be found under it.
        """
        below = self.below.get_current()
        span = below.get(_SPAN_KEY)
        if isinstance(span, SeenSpan):
            return below, span.ours
        context = None if span is None else context_of(span)
        return below, context if context is None or context.sampled else None

    def unsampled(self) -> Context | None:
        """OpenTelemetry's span where it is the innermost and not sampled: what it holds is not to be recorded."""
        below = self.below.get_current()
        span = below.get(_SPAN_KEY)
        if span is None or isinstance(span, SeenSpan):
            return None
        context = context_of(span)
        if context is None or context.sampled:
            return None
        native = recorder.current_native()
        return context if native is None or native[1] is not below else None
