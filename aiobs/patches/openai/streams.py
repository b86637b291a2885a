"""The iterator inside a stream of the openai client, tapped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiobs.patches.openai.call import ModelCall

CALL = "aiobs_call"
"""Where a stream, or the extensions of an HTTP response that may yet become one, keep the call they belong to."""


def tap(stream: Any, call: ModelCall) -> None:
    """Have `call` see every chunk that is read from `stream`, and its end."""
    vars(stream)[CALL] = call
    inner = stream._iterator
    stream._iterator = _async_tapped(inner, call) if hasattr(inner, "__anext__") else _tapped(inner, call)


def call_of(closed: Any) -> ModelCall | None:
    """The call that a closed stream or raw answer of the client belongs to."""
    stream = getattr(closed, "_raw_stream", closed)
    found = vars(stream).get(CALL)
    if found is None:
        response = getattr(stream, "http_response", None)
        found = None if response is None else response.extensions.get(CALL)
    return found if isinstance(found, ModelCall) else None


def _tapped(inner: Any, call: ModelCall) -> Iterator[Any]:
    seen = call.chunk
    try:
        for item in inner:
            seen(item)
            yield item
    except GeneratorExit:
        call.dropped()
        raise
    except BaseException as error:
        call.streamed(error)
        raise
    call.streamed()


async def _async_tapped(inner: Any, call: ModelCall) -> AsyncIterator[Any]:
    seen = call.chunk
    try:
        async for item in inner:
            seen(item)
            yield item
    except GeneratorExit:
        call.dropped()
        raise
    except BaseException as error:
        call.streamed(error)
        raise
    call.streamed()
