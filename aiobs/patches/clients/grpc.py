"""gRPC clients: a CLIENT span for each call, and the trace's context in its metadata.

gRPC's interceptors, and OpenTelemetry's package, which gives a generator for a stream, change the objects a caller
gets; so ours stands in the methods that begin a call. What they return is the caller's as it is, and that the call
is over is told by gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from aiobs import names
from aiobs.guard import guarded, swallow
from aiobs.patches.clients.instrumentation import is_on
from aiobs.patches.outbound import Outbound
from aiobs.propagation import TRACEPARENT, inject
from aiobs.recorder import Span, start_span, state
from aiobs.settings import Settings
from aiobs.telemetry import CLIENT
from aiobs.wrapping import Live, replace

_LOCAL_SCHEMES = ("unix:", "unix-abstract:", "vsock:")
_TARGET = "_aiobs_target"
_METADATA = 2
"""Place of ``metadata`` among the positional arguments of a call, the object itself aside."""
_OK, _CANCELLED = 0, 1
TELEMETRY = "opentelemetry.proto.collector."
"""Services that spans are sent to: a span for each of their calls would be sent by a further one, without end."""
SYNC = (
    ("_UnaryUnaryMultiCallable", ("__call__", "with_call", "future")),
    ("_StreamUnaryMultiCallable", ("__call__", "with_call", "future")),
    ("_UnaryStreamMultiCallable", ("__call__",)),
    ("_SingleThreadedUnaryStreamMultiCallable", ("__call__",)),
    ("_StreamStreamMultiCallable", ("__call__",)),
)
AIO = ("UnaryUnaryMultiCallable", "UnaryStreamMultiCallable", "StreamUnaryMultiCallable", "StreamStreamMultiCallable")


class GrpcClientPatch:
    """For calls through channels of ``grpc`` and ``grpc.aio``."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._outbound = Outbound(())

    def install(self, settings: Settings) -> None:
        """Stand in the methods that begin a call."""
        if self._undo:
            return
        self._outbound = Outbound(settings.propagate_to)
        sync, aio = import_module("grpc._channel"), import_module("grpc.aio._channel")
        for kind, methods in SYNC:
            self._undo += [replace(getattr(sync, kind), name, self._call) for name in methods]
        self._undo += [replace(getattr(aio, kind), "__call__", self._aio_call) for kind in AIO]
        self._undo.append(replace(aio.Channel, "__init__", _named))

    def remove(self) -> None:
        """Leave gRPC as it was; calls under way go on as they are."""
        while self._undo:
            self._undo.pop()()

    def _call(self, original: Any, live: Live) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            span = begin(self._method, str_of(self._target), "GrpcInstrumentorClient") if live else None
            if span is None:
                return original(self, *args, **kwargs)
            if len(args) > _METADATA:
                given = carried(span, args[_METADATA], str_of(self._target))
                args = (*args[:_METADATA], given, *args[_METADATA + 1 :])
            else:
                kwargs["metadata"] = carried(span, kwargs.get("metadata"), str_of(self._target))
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                _failed(span, error)
                raise
            _watch(span, result)
            return result

        begin, carried, str_of = self._begin, self._carried, _text
        return call

    def _aio_call(self, original: Any, live: Live) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            target = getattr(self._python_channel, _TARGET, "")
            span = begin(self._method, target, "GrpcAioInstrumentorClient") if live else None
            if span is None:
                return original(self, *args, **kwargs)
            kwargs["metadata"] = carried(span, kwargs.get("metadata"), target)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                _failed(span, error)
                raise
            _watch_aio(span, result)
            return result

        begin, carried = self._begin, self._carried
        return call

    def _begin(self, method: bytes | str, target: str, theirs: str) -> Span | None:
        """The call's span; None where nothing is recorded, or OpenTelemetry's instrumentation makes one."""
        if (state.flight is None and state.sleeping is None) or is_on("grpc", theirs):
            return None
        try:
            full = _text(method).strip("/")
            if full.startswith(TELEMETRY):
                return None
            service, _, name = full.rpartition("/")
            attributes: dict[str, Any] = {names.RPC_SYSTEM: "grpc", names.RPC_SERVICE: service, names.RPC_METHOD: name}
            host = host_of(target)
            if host:
                attributes[names.SERVER_ADDRESS] = host
            return start_span(full, attributes, kind=CLIENT)
        except Exception as error:
            swallow("patches.grpc_client", error)
            return None

    def _carried(self, span: Span, metadata: Any, target: str) -> Any:
        """`metadata` with the context, where it may go there and the caller gave none."""
        try:
            given: tuple[Any, ...] = tuple(metadata or ())
            if not self._outbound.allows(host_of(target)) or any(key.lower() == TRACEPARENT for key, _ in given):
                return metadata
            headers: dict[str, str] = {}
            inject(span.context, headers)
            return (*given, *headers.items())
        except Exception as error:
            swallow("patches.grpc_client", error)
            return metadata


def _named(original: Any, live: Live) -> Any:
    """A channel of ``grpc.aio`` does not tell where it leads."""

    def __init__(self: Any, target: str, *args: Any, **kwargs: Any) -> None:
        original(self, target, *args, **kwargs)
        if live:
            setattr(self, _TARGET, target)

    return __init__


@guarded("patches.grpc_client")
def _watch(span: Span, result: Any) -> None:
    """End the span with the call that `result` is, or now where it is the answer."""
    found = getattr(result, "_state", None)
    if found is None or not hasattr(result, "add_callback"):
        _end(span, _OK)
        return

    # The call's own state, not the call: gRPC cancels a call that its caller has dropped.
    def over() -> None:
        _end(span, found.code)

    if not result.add_callback(over):
        over()


@guarded("patches.grpc_client")
def _watch_aio(span: Span, call: Any) -> None:
    inner = getattr(call, "_cython_call", None)
    if inner is None:  # with interceptors of the program
        call.add_done_callback(partial(_end_aio, span))
        return
    held = [inner]
    inner.add_done_callback(lambda: _end_aio(span, held.pop()))


@guarded("patches.grpc_client")
def _end_aio(span: Span, done: Any) -> None:
    """End the span with the status of a call that is over, which a coroutine tells without waiting."""
    asked = done.status() if hasattr(done, "status") else done.code()
    try:
        asked.send(None)
    except StopIteration as told:
        status = told.value
        _end(span, status.code() if hasattr(status, "details") else status)
    else:
        asked.close()
        span.end()


@guarded("patches.grpc_client")
def _failed(span: Span, error: BaseException) -> None:
    code = getattr(error, "code", None)
    if code is None:
        span.fail(error)
        span.end()
    else:
        _end(span, code())


@guarded("patches.grpc_client")
def _end(span: Span, code: Any) -> None:
    """A call ends with a ``StatusCode`` or its number; one that this process cancelled has not failed."""
    number = int(code.value[0] if hasattr(code, "value") else code)
    span.set(names.RPC_STATUS, number)
    if number == _CANCELLED:
        span.set(names.REQUEST_ABANDONED, True)
    elif number != _OK:
        name = _status_name(number)
        span.set(names.ERROR_TYPE, name)
        span.fail(name)
    span.end()


def _status_name(number: int) -> str:
    codes = import_module("grpc").StatusCode
    return next((code.name for code in codes if code.value[0] == number), str(number))


def _text(it: bytes | str) -> str:
    return it.decode() if isinstance(it, bytes) else it


def host_of(target: str) -> str:
    """The host that a gRPC target names (``dns:///host:port``, ``ipv6:[::1]:50051``, ``host:port``, ``unix:path``)."""
    if target.startswith(_LOCAL_SCHEMES):
        return "localhost"
    _, found, rest = target.partition("://")
    if found:
        target = rest.rpartition("/")[2]
    elif re.match(r"(dns|ipv4|ipv6|xds|passthrough):", target):
        target = target.partition(":")[2]
    if target.startswith("["):
        return target[1:].partition("]")[0]
    return target if target.count(":") > 1 else target.partition(":")[0]
