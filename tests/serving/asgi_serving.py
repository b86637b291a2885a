"""Real ASGI servers in a thread of the test, with what they recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiobs.telemetry import SERVER
from aiobs.testing import Captured, CapturedSpan, capture

from .processes import free_port

SERVERS = ("uvicorn", "hypercorn")


@dataclass
class Served:
    """A server that runs; `captured` is filled when it has stopped."""

    port: int
    captured: Captured = field(default_factory=Captured)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests(self, name: str = "") -> list[CapturedSpan]:
        """The server's spans, in the order they began."""
        found = [span for span in self.captured.spans if span.kind == SERVER and name in ("", span.name)]
        return sorted(found, key=lambda span: span.start_ns)

    def request(self, name: str = "") -> CapturedSpan:
        """The only one."""
        (found,) = self.requests(name)
        return found


@contextmanager
def running(app: Any, server: str = "uvicorn", **options: Any) -> Iterator[int]:
    """`app` served on a port of loopback until the block ends."""
    port = free_port()
    with {"uvicorn": _uvicorn, "hypercorn": _hypercorn}[server](app, port, options):
        yield port


@contextmanager
def served(
    app: Any, server: str = "uvicorn", options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Served]:
    """The same, recorded. `options` are the server's, `settings` ours; outgoing requests of the test are not recorded."""
    with capture(**{"patches_off": ("httpx", "openai"), **settings}) as captured:
        with running(app, server, **(options or {})) as port:
            yield Served(port, captured)


@contextmanager
def _uvicorn(app: Any, port: int, options: dict[str, Any]) -> Iterator[None]:
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, **{"log_level": "critical", "timeout_graceful_shutdown": 5, **options})
    )  # fmt: skip
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def _hypercorn(app: Any, port: int, options: dict[str, Any]) -> Iterator[None]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    for name, value in options.items():
        setattr(config, name, value)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(app, config, shutdown_trigger=stop.wait)))
    thread.start()
    _wait_for(port)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


def _wait_for(port: int) -> None:
    import socket

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise AssertionError("the server does not listen")
