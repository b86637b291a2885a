"""Calls of ``grpc.server``: an interceptor before all others, and what it puts around a method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from aiobs.guard import swallow
from aiobs.patches.grpc.call import RpcCall, code_of, unknown_method
from aiobs.recorder import state
from aiobs.wrapping import Live

grpc: Any = import_module("grpc")

Around = Callable[[Any, str, Any, bool, bool], Any]
"""(function, method's name, metadata, streamed request, streamed answer) -> the function with our record around it."""


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Puts our record around every method that the server has; passes on where `live` is empty."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        found = continuation(handler_call_details)
        return recorded(found, handler_call_details, around) if self._live else found


def recorded(found: Any, details: Any, around: Around) -> Any:
    """`found`, a method's ``RpcMethodHandler`` or None, with our record around its function."""
    if state.flight is None and state.sleeping is None:
        return found
    try:
        if found is None:
            unknown_method()
            return None
        streams = found.request_streaming, found.response_streaming
        kind = "_".join("stream" if streaming else "unary" for streaming in streams)
        function = getattr(found, kind)
        if getattr(function, "experimental_non_blocking", False):
            return found  # it answers through a callback, from wherever it likes
        make = getattr(grpc, kind + "_rpc_method_handler")
        wrapped = around(function, details.method, details.invocation_metadata, *streams)
        return make(wrapped, found.request_deserializer, found.response_serializer)
    except Exception as error:
        swallow("patches.grpc.intercept", error)
        return found


def around(function: Any, method: str, metadata: Any, request_streaming: bool, response_streaming: bool) -> Any:
    """`function`, which runs in a thread, with our record around it."""

    def begin(context: Any) -> RpcCall | None:
        call = RpcCall.begin(method, metadata, context, request_streaming)
        if call is not None:
            context.add_callback(call.left)
        return call

    if not response_streaming:
        kind = _whole
    else:
        kind = _generated if inspect.isgeneratorfunction(function) else _returned
    return functools.wraps(function)(kind(function, begin, request_streaming))


def _whole(function: Any, begin: Callable[[Any], RpcCall | None], streaming: bool) -> Any:
    """Around one that answers with one message."""

    def answer(request: Any, context: Any) -> Any:
        call = begin(context)
        if call is None:
            return function(request, context)
        try:
            result = function(Received(request, call) if streaming else request, context)
        except BaseException as error:
            end(call, error)
            raise
        call.sent = 1
        end(call)
        return result

    return answer


def _generated(function: Any, begin: Callable[[Any], RpcCall | None], streaming: bool) -> Any:
    """Around a generator function, all of which runs when it is asked for messages."""

    def answer(request: Any, context: Any) -> Iterator[Any]:
        call = begin(context)
        if call is None:
            yield from function(request, context)
        else:
            yield from _sent(function(Received(request, call) if streaming else request, context), call)

    return answer


def _returned(function: Any, begin: Callable[[Any], RpcCall | None], streaming: bool) -> Any:
    """Around one that returns an iterator."""

    def answer(request: Any, context: Any) -> Any:
        call = begin(context)
        if call is None:
            return function(request, context)
        try:
            return _sent(iter(function(Received(request, call) if streaming else request, context)), call)
        except BaseException as error:
            end(call, error)
            raise

    return answer


def _sent(messages: Iterator[Any], call: RpcCall) -> Iterator[Any]:
    send = call.send
    try:
        for message in messages:
            send()
            yield message
    except GeneratorExit:
        end(call)  # gRPC lets go of an answer that nobody takes
        raise
    except BaseException as error:
        end(call, error)
        raise
    end(call)


def end(call: RpcCall, error: BaseException | None = None) -> None:
    """The function has ended. ``context.abort()`` raises a bare ``Exception`` once it has set a status."""
    try:
        bare = type(error) is Exception and not error.args
        aborted = code_of(call.context) != 0 and (bare or isinstance(error, grpc.aio.AbortError))
        if not call.context.is_active():
            call.left()
    except Exception as fault:
        aborted = False
        swallow("patches.grpc.end", fault)
    call.end(error, aborted=aborted)


class Received:
    """The messages of a streamed request, counted."""

    def __init__(self, messages: Any, call: RpcCall) -> None:
        self._messages, self._call = messages, call

    def __iter__(self) -> Received:
        return self

    def __next__(self) -> Any:
        message = next(self._messages)
        self._call.received += 1
        return message

    next = __next__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._messages, name)
