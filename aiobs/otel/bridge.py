"""What is put into OpenTelemetry's API and SDK, and taken out again.

Three things, each of which leaves the program's own set-up as it is: a runtime context that shows our spans
where there is no such set-up, native tracers behind the API until the program sets a provider, and our span
processor in every SDK provider that hands out a tracer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from aiobs import recorder
from aiobs.guard import say_once, swallow
from aiobs.otel.context import JoinedContext
from aiobs.wrapping import Live, replace

Undo = Callable[[], None]


class Providers:
    """The providers of this process.

    Attributes:
        ours: those that aiobs itself made (``opentelemetry-instrument``).
        processor: the one span processor of ours, once the SDK is there.
        joined: OpenTelemetry's context with our spans in it, once the API is there.
    """

    def __init__(self) -> None:
        self.ours: WeakSet[Any] = WeakSet()
        self.processor: Any = None
        self.joined: JoinedContext | None = None
        self._visited = False
        self._adopted: WeakSet[Any] = WeakSet()

    def join(self, provider: Any) -> None:
        """Add our processor to an SDK provider, once, after those it has."""
        if provider in self._adopted or self.processor is None:
            return
        self._adopted.add(provider)
        if provider not in self.ours:
            self.visit()
        # Providers may share one composite processor.
        if self.processor not in getattr(provider._active_span_processor, "_span_processors", ()):
            provider.add_span_processor(self.processor)

    def visit(self) -> None:
        """Take note that the program, or a library in it, has a set-up of its own."""
        self._visited = True
        if self.joined is not None:
            self.joined.hide()

    def forget(self) -> None:
        """Begin anew, as before anything was joined."""
        self.joined, self._visited = None, False

    def show(self, joined: JoinedContext) -> None:
        """Show our spans in OpenTelemetry's context, unless there are visitors."""
        self.joined = joined
        if self._visited:
            joined.hide()

    def leave(self) -> None:
        """Take the processor out of all providers, in place."""
        processor, self.processor = self.processor, None
        if processor is None:
            return
        processor.live = False
        for provider in list(self._adopted):
            composite = provider._active_span_processor
            with composite._lock:
                composite._span_processors = tuple(p for p in composite._span_processors if p is not processor)
        self._adopted.clear()


providers = Providers()


def swap(owner: Any, name: str, placed: Any) -> Undo:
    """Set attribute `name` of `owner`; the returned function restores it if ours is still there."""
    attributes: Mapping[str, Any] = vars(owner)
    before = attributes[name]
    setattr(owner, name, placed)

    def undo() -> None:
        if attributes.get(name) is placed:
            setattr(owner, name, before)

    return undo


def join_api() -> Undo:
    """Join OpenTelemetry's context and stand behind its tracers; returns what takes both back."""
    from opentelemetry import context, trace

    from aiobs.otel.tracer import Tracer

    on = [True]
    proxy = trace.ProxyTracer
    resolve = vars(proxy)["_tracer"]
    native: WeakKeyDictionary[Any, Tracer] = WeakKeyDictionary()
    joined = JoinedContext(context._RUNTIME_CONTEXT)  # pyright: ignore[reportPrivateUsage]

    def tracer(self: Any) -> Any:
        """The program's tracer once it has a provider, until then ours."""
        recording = recorder.state.flight is not None or recorder.state.sleeping is not None
        if not on or not recording or self._real_tracer or trace._TRACER_PROVIDER:  # pyright: ignore[reportPrivateUsage]
            return resolve.fget(self)
        found = native.get(self)
        if found is None:
            found = native[self] = Tracer(self._instrumenting_module_name, self._instrumenting_library_version, joined)
        return found

    undo: list[Undo] = [
        replace(trace, "_set_tracer_provider", _watching),
        swap(context, "_RUNTIME_CONTEXT", joined),
        swap(proxy, "_tracer", property(tracer)),
    ]
    providers.show(joined)
    recorder.set_foreign_context(joined.theirs)
    _meet(trace._TRACER_PROVIDER)  # pyright: ignore[reportPrivateUsage]

    def leave() -> None:
        on.clear()
        joined.hide()
        providers.forget()
        recorder.set_foreign_context(None)
        for step in undo:
            step()

    return leave


def join_sdk() -> Undo:
    """Have our processor in every SDK provider from its first tracer on; returns what takes it back."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from aiobs.otel.processor import FlightProcessor

    providers.processor = FlightProcessor()
    undo = replace(TracerProvider, "get_tracer", _joining)
    _meet(trace._TRACER_PROVIDER)  # pyright: ignore[reportPrivateUsage]

    def leave() -> None:
        undo()
        providers.leave()

    return leave


def _joining(original: Any, live: Live) -> Callable[..., Any]:
    def get_tracer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if live:
            try:
                providers.join(self)
            except Exception as error:
                swallow("otel.join", error)
        return original(self, *args, **kwargs)

    return get_tracer


def _watching(original: Any, live: Live) -> Callable[..., Any]:
    def set_tracer_provider(tracer_provider: Any, *args: Any, **kwargs: Any) -> None:
        original(tracer_provider, *args, **kwargs)
        if live:
            _meet(tracer_provider)

    return set_tracer_provider


def _meet(provider: Any) -> None:
    """Join the program's global provider, or say why not."""
    if provider is None:
        return
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if provider not in providers.ours:
        providers.visit()
    try:
        if sdk is not None and isinstance(provider, sdk.TracerProvider):
            providers.join(provider)
        elif not hasattr(provider, "add_span_processor") and "NoOp" not in type(provider).__name__:
            say_once(
                "otel.provider",
                "aiobs: the tracer provider %s.%s is not the OpenTelemetry SDK's; its spans are not in the flight record",
                type(provider).__module__,
                type(provider).__qualname__,
            )
    except Exception as error:
        swallow("otel.meet", error)
