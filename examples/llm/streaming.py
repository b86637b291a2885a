"""An answer in pieces that lets go of what it holds, however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


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
