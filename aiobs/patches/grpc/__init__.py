"""gRPC servers: a SERVER span for each call of ``grpc.server`` and ``grpc.aio.server``, unary and streamed.

An interceptor, gRPC's own way to stand before a server's methods, goes before those that the program gives; servers
that were made before stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiobs.settings import Settings
from aiobs.wrapping import Live, replace

_INTERCEPTORS = 2
"""Place of ``interceptors`` among the positional arguments of both functions."""


class GrpcPatch:
    """For servers made from now on."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self, settings: Settings) -> None:  # noqa: ARG002
        """Give every new server our interceptor."""
        if not self._undo:
            self._undo = [
                replace(import_module("grpc"), "server", _serving("aiobs.patches.grpc.sync")),
                replace(import_module("grpc.aio"), "server", _serving("aiobs.patches.grpc.aio")),
            ]

    def remove(self) -> None:
        """Leave gRPC as it was; running servers record nothing more."""
        while self._undo:
            self._undo.pop()()


def _serving(module: str) -> Callable[[Any, Live], Any]:
    def make(original: Any, live: Live) -> Any:
        def server(*args: Any, **kwargs: Any) -> Any:
            if not live:
                return original(*args, **kwargs)
            ours = import_module(module).ServerInterceptor(live)
            if len(args) > _INTERCEPTORS:
                theirs = args[_INTERCEPTORS] or ()
                args = (*args[:_INTERCEPTORS], (ours, *theirs), *args[_INTERCEPTORS + 1 :])
            else:
                kwargs["interceptors"] = (ours, *(kwargs.get("interceptors") or ()))
            return original(*args, **kwargs)

        return server

    return make
