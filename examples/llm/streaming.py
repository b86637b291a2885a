"""Answers for callers who may leave: in pieces, letting go of what they hold however they end, and not for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

LEFT = 499
"""Status of an answer that nobody waits for."""
T = TypeVar("T")


class CallerLeftError(Exception):
    """The caller has closed the connection."""


class Streamed(StreamingResponse):
    """Calls `done` when the answer is whole, the caller has left, or sending has failed: also where not one piece
    has been asked for, so that the pieces' own ``finally`` never runs."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        done: Callable[[], Awaitable[None]],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(pieces, status, headers)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._done()


async def unless_left(request: Request, coming: Awaitable[T]) -> T:
    """What `coming` brings, unless the caller leaves before: then CallerLeftError."""
    task = asyncio.ensure_future(coming)
    left = asyncio.ensure_future(request.receive())  # behind the body there is only the end of the connection
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerLeftError
        return task.result()
    finally:
        task.cancel()
        left.cancel()
