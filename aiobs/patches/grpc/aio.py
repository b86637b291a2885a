"""Calls of ``grpc.aio.server``, which tells by a function's kind how to run it: ours is of the same kind."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from importlib import import_module
from typing import Any

from aiobs.guard import swallow
from aiobs.patches.grpc import sync
from aiobs.patches.grpc.call import RpcCall
from aiobs.wrapping import Live

grpc: Any = import_module("grpc")


class ServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Puts our record around every method that the server has; passes on where `live` is empty."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        found = await continuation(handler_call_details)
        return sync.recorded(found, handler_call_details, around) if self._live else found


def around(function: Any, method: str, metadata: Any, request_streaming: bool, response_streaming: bool) -> Any:
    """`function`, of any kind, with our record around it."""

    def begin(context: Any) -> RpcCall | None:
        return RpcCall.begin(method, metadata, context, request_streaming)

    if inspect.isasyncgenfunction(function):
        return wraps(function)(_generated(function, begin, request_streaming))
    if inspect.iscoroutinefunction(function):
        return wraps(function)(_awaited(function, begin, request_streaming, response_streaming))

    # It runs in a pool of threads, with a context that does not tell the status it was given.
    inner = sync.around(function, method, metadata, request_streaming, response_streaming)

    @wraps(function)
    def in_thread(request: Any, context: Any) -> Any:
        return inner(request, _ThreadContext(context))

    return in_thread


def _awaited(function: Any, begin: Callable[[Any], RpcCall | None], reads: bool, writes: bool) -> Any:
    """Around a coroutine, which returns its answer, or writes the messages of a streamed one to the context."""

    async def answer(request: Any, context: Any) -> Any:
        call = begin(context)
        if call is None:
            return await function(request, context)
        try:
            seen = _StreamContext(context, call) if reads or writes else context
            result = await function(Received(request, call) if reads else request, seen)
        except BaseException as error:
            _end(call, error)
            raise
        if not writes:
            call.sent = 1
        _end(call)
        return result

    return answer


def _generated(function: Any, begin: Callable[[Any], RpcCall | None], reads: bool) -> Any:
    """Around an async generator function."""

    async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
        call = begin(context)
        if call is None:
            async for message in function(request, context):
                yield message
            return
        try:
            async for message in function(Received(request, call) if reads else request, context):
                call.send()
                yield message
        except BaseException as error:
            _end(call, error)
            raise
        _end(call)

    return answer


def _end(call: RpcCall, error: BaseException | None = None) -> None:
    try:
        if isinstance(error, GeneratorExit) or type(error).__name__ == "CancelledError":
            call.left()
        aborted = isinstance(error, grpc.aio.AbortError)
    except Exception as fault:
        aborted = False
        swallow("patches.grpc.end", fault)
    call.end(error, aborted=aborted)


class Received:
    """The messages of a streamed request, counted."""

    def __init__(self, messages: Any, call: RpcCall) -> None:
        self._messages, self._call = messages, call
        self._reader: Any = None

    def __aiter__(self) -> Received:
        return self

    async def __anext__(self) -> Any:
        if self._reader is None:
            self._reader = self._messages.__aiter__()
        message = await self._reader.__anext__()
        self._call.received += 1
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._messages, name)


class _StreamContext:
    """The context of a coroutine that reads or writes messages through it."""

    def __init__(self, context: Any, call: RpcCall) -> None:
        self._context, self._call = context, call

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._call.received += 1
        return message

    async def write(self, message: Any) -> None:
        self._call.send()
        await self._context.write(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class _ThreadContext:
    """The context of a function in a thread, which remembers the status that it was given."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: Any = None

    def code(self) -> Any:
        return self._code

    def is_active(self) -> bool:
        return True  # it does not tell; a cancelled call comes to light through its callback

    def set_code(self, code: Any) -> None:
        self._code = code
        self._context.set_code(code)

    def abort(self, code: Any, *args: Any, **kwargs: Any) -> Any:
        self._code = code
        return self._context.abort(code, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
