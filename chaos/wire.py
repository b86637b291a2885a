"""How an experiment and its injector talk: one JSON object a line, over a socket both hold.

An experiment says ``{"do": "inject", "plan": …}``, ``{"do": "undo", "injection": …}``, ``{"do": "renew"}``,
``{"do": "end"}``. The injector says ``{"is": …}``: ready, injected, effective, undone, refused, failed, ended.
The end of the stream is the death of the other side.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

LINE_LIMIT = 1 << 20


class Wire:
    """One side of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""

    def fileno(self) -> int:
        """For :mod:`select`."""
        return self._end.fileno()

    def say(self, message: Mapping[str, Any]) -> bool:
        """Send a message; false where the other side is gone."""
        try:
            self._end.sendall(json.dumps(message, default=str).encode() + b"\n")
        except OSError:
            return False
        return True

    def hear(self) -> list[dict[str, Any]] | None:
        """Wait for what comes next: messages, perhaps none; None where the other side is gone."""
        try:
            content = self._end.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        if not content or len(self._rest) > LINE_LIMIT:
            return None
        *lines, self._rest = (self._rest + content).split(b"\n")
        try:
            return [json.loads(line) for line in lines if line]
        except ValueError:
            return None

    def close(self) -> None:
        """Let go."""
        self._end.close()
