"""A WSGI application for tests that does what applications do, well and badly."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiobs

closed: list[str] = []
CONTENT = bytes(range(256)) * 40


class Body:
    """An iterable that knows when it was closed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        closed.append("closed")


def slowly(count: int, pause: float = 0.01) -> Iterator[bytes]:
    for number in range(count):
        time.sleep(pause)
        with aiobs.span("inside"):
            yield b"%d," % number


def breaking() -> Iterator[bytes]:
    yield b"one"
    raise LookupError("half way")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    path = environ["PATH_INFO"]
    plain = [("Content-Type", "text/plain")]
    if path == "/raise":
        raise LookupError("at once")
    if path == "/write":
        write = start_response("200 OK", plain)
        write(b"written ")
        return [b"and returned"]
    if path == "/again":
        start_response("200 OK", plain)
        try:
            raise ValueError("changed my mind")
        except ValueError:
            start_response("503 Service Unavailable", plain, sys.exc_info())
        return [b"sorry"]
    if path == "/file" and "wsgi.file_wrapper" in environ:
        start_response("200 OK", [*plain, ("Content-Length", str(len(CONTENT)))])
        return environ["wsgi.file_wrapper"](io.BytesIO(CONTENT), 1000)
    if path == "/missing":
        start_response("404 Not Found", plain)
        return [b"no"]
    start_response("200 OK", plain)
    if path == "/stream":
        return Body(slowly(5))
    if path == "/endless":
        return Body(slowly(10_000, 0.005))
    if path == "/break":
        return Body(breaking())
    if path == "/hang":
        time.sleep(60)
    if path == "/echo":
        return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]
    return [b"hello"]
