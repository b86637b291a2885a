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
from aiobs.wrapping import Live, replace

Undo = Callable[[], None]


class Providers:
    """The providers of this process.

    Attributes:
        ours: those that aiobs itself made (``opentelemetry-instrument``).
        processor: the one span processor of ours, once the SDK is there.
        visited: whether some SDK provider belongs to the program or a library.
    """

    def __init__(self) -> None:
        self.ours: WeakSet[Any] = WeakSet()
        self.processor: Any = None
        self.visited = False
        self._joined: WeakSet[Any] = WeakSet()

    def join(self, provider: Any) -> None:
        """Add our processor to an SDK provider, once, after those it has."""
        if self.processor is None or provider in self._joined:
            return
        self._joined.add(provider)
        if provider not in self.ours:
            self.visited = True
        # Providers may share one composite processor.
        if self.processor not in getattr(provider._active_span_processor, "_span_processors", ()):
            provider.add_span_processor(self.processor)

    def leave(self) -> None:
        """Take the processor out of all providers, in place."""
        processor, self.processor = self.processor, None
        if processor is None:
            return
        processor.live = False
        for provider in list(self._joined):
            composite = provider._active_span_processor
            with composite._lock:
                composite._span_processors = tuple(p for p in composite._span_processors if p is not processor)
        self._joined.clear()
        self.visited = False


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

    from aiobs.otel.context import JoinedContext
    from aiobs.otel.tracer import Tracer

    on = [True]

    def showing() -> bool:
        provider = trace._TRACER_PROVIDER  # pyright: ignore[reportPrivateUsage]
        return bool(on) and not providers.visited and (provider is None or provider in providers.ours)

    joined = JoinedContext(context._RUNTIME_CONTEXT, showing)  # pyright: ignore[reportPrivateUsage]
    recorder.set_foreign_context(joined.theirs)

    proxy = trace.ProxyTracer
    resolve = vars(proxy)["_tracer"]
    native: WeakKeyDictionary[Any, Tracer] = WeakKeyDictionary()

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
        swap(context, "_RUNTIME_CONTEXT", joined),
        swap(proxy, "_tracer", property(tracer)),
        replace(trace, "_set_tracer_provider", _watching),
    ]
    _meet(trace._TRACER_PROVIDER)  # pyright: ignore[reportPrivateUsage]

    def leave() -> None:
        on.clear()
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
