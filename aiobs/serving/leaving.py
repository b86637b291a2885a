"""Telling a caller that left from an application that failed."""

from __future__ import annotations

from typing import Any

DEPARTURES = frozenset(
    {"ClientDisconnect", "ClientDisconnected", "WebSocketDisconnect", "CancelledError", "Cancelled", "EndOfStream", "ClosedResourceError", "BrokenResourceError"}
)  # fmt: skip
"""Names of what an application raises because its caller has left; besides OSError."""


def is_gone(send: Any) -> bool:
    """Whether the server behind an ASGI ``send`` knows that its caller has left; it may pass over that in silence.

    uvicorn says ``disconnected``, hypercorn ``closed``.
    """
    server = getattr(send, "__self__", None)
    return bool(getattr(server, "disconnected", False) or getattr(server, "closed", False))


def left_because(error: BaseException) -> bool:
    """Whether `error` is how an application ends when its caller has left."""
    together: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    if together:
        return all(map(left_because, together))
    return isinstance(error, OSError) or type(error).__name__ in DEPARTURES
