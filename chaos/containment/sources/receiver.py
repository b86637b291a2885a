"""An OTLP receiver inside the experiment, so that a verdict and an abort need no backend: HTTP with protobuf or JSON.

It answers as the protocol says: 200 with what was rejected, 400 for what is no OTLP, 415 for another content type,
413 for too much at once, 429 with Retry-After where the sender is too fast.
"""

from __future__ import annotations

import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiobs.chaos.containment.sources.bodies import (
    REJECTED,
    SIGNALS,
    Body,
    BodyError,
    from_json,
    from_protobuf,
    require_protobuf,
)
from aiobs.chaos.containment.sources.observed import Observed
from aiobs.chaos.containment.sources.recording import Full, Recording
from aiobs.errors import PlanError, RecordError

BODY_BYTES = 32 << 20
"""The largest body, unpacked."""
AT_ONCE = 8
"""Bodies worked on at a time; with `BODY_BYTES` this bounds the memory."""
_SLOW_S = 20.0
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


class Receiver:
    """A context manager, and the :class:`~aiobs.chaos.containment.watch.Live` telemetry that it receives.

    Args:
        listen: ``HOST:PORT``; port 0 for any that is free.
        folder: a new run folder, for what is received.
        feed: whether a watch will ask for the spans; else they are only written.

    Attributes:
        endpoint: for ``OTEL_EXPORTER_OTLP_ENDPOINT`` of the services.

    Raises:
        PlanError: the address cannot be listened at, or the folder holds a run already.
        NotEnabledError: the extra ``containment`` is not installed.
    """

    def __init__(self, listen: str, folder: Path, *, feed: bool = True) -> None:
        require_protobuf()
        host, port = address(listen)
        self.recording = Recording(Path(folder), feed=feed)
        self.folder = self.recording.folder
        try:
            self._server = _Server((host, port), self.recording)
        except OSError as error:
            raise PlanError("listen", listen, f"an address of this machine and a free port ({error.strerror or error})") from error  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        self.endpoint = f"http://{shown}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="aiobs-otlp", daemon=True)
        self._thread.start()

    def spans(self, timeout_s: float) -> list[Observed]:
        """What has arrived. Raises RecordError where it cannot be written any more."""
        return self.recording.spans(timeout_s)

    def keep(self, line: bytes) -> None:
        """Add a line of OTLP JSON to the folder. Raises RecordError."""
        self.recording.keep(line)

    def close(self) -> None:
        """Stop listening; again: nothing."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.recording.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def address(listen: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``. Raises PlanError."""
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise PlanError("listen", listen, "HOST:PORT, such as 127.0.0.1:4318")
    return host, int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, at: tuple[str, int], recording: Recording) -> None:
        import socket

        self.recording = recording
        self.room = threading.BoundedSemaphore(AT_ONCE)
        self.connections = threading.BoundedSemaphore(8 * AT_ONCE)
        if ":" in at[0]:
            self.address_family = socket.AF_INET6
        super().__init__(at, _Request)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hangs up in the middle is its own affair."""


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _SLOW_S
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Silent: standard error belongs to the experiment."""

    def do_GET(self) -> None:
        """Nothing is to be had here."""
        self.close_connection = True
        self._answer(405, 12, "send it with POST", {"Allow": "POST"})

    do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Take one request."""
        if not self.server.room.acquire(blocking=False):
            self.close_connection = True
            self._answer(429, 8, "too many at once", {"Retry-After": "1"})
            return
        try:
            signal = self.path.partition("?")[0].removeprefix("/v1/")
            body = self._body(signal)
            self.server.recording.take(signal, body)
        except _Refused as refused:
            self.close_connection = True
            self._answer(refused.code, 3, str(refused))
        except BodyError as error:
            self._answer(400, 3, str(error))
        except Full:
            self._answer(429, 8, "too fast", {"Retry-After": "1"})
        except RecordError as error:
            self._answer(503, 14, str(error), {"Retry-After": "5"})
        else:
            self._accept(signal, body)
        finally:
            self.server.room.release()

    def _body(self, signal: str) -> Body:
        if signal not in SIGNALS:
            raise _Refused(404, f"no such path; there are {', '.join('/v1/' + it for it in SIGNALS)}")
        if self._type not in (_JSON, _PROTOBUF):
            raise _Refused(415, f"the content type is {_PROTOBUF} or {_JSON}, not {self._type or 'none'}")
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip"):
            raise _Refused(415, f"the content encoding is gzip or none, not {encoding}")
        content = self._content()
        if encoding == "gzip":
            content = _unpacked(content)
        return (from_json if self._type == _JSON else from_protobuf)(signal, content)

    @property
    def _type(self) -> str:
        return str(self.headers.get("Content-Type", "")).partition(";")[0].strip().lower()

    def _content(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._chunks()
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise _Refused(411, "its length is needed")
        if int(length) > BODY_BYTES:
            raise _Refused(413, f"more than {BODY_BYTES} bytes at once")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise _Refused(400, "it ended before its length")
        return content

    def _chunks(self) -> bytes:
        found = bytearray()
        while True:
            size = self.rfile.readline(64).partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise _Refused(400, "its chunks are broken") from None
            if length == 0:
                while self.rfile.readline(8192).strip():  # trailers
                    continue
                return bytes(found)
            if length < 0 or len(found) + length > BODY_BYTES:
                raise _Refused(413, f"more than {BODY_BYTES} bytes at once")
            found += self.rfile.read(length)
            self.rfile.readline(8)

    def _accept(self, signal: str, body: Body) -> None:
        told = {REJECTED[signal]: str(body.rejected), "errorMessage": body.why} if body.rejected else {}
        if self._type == _JSON:
            self._send(200, json.dumps({"partialSuccess": told} if told else {}).encode(), {})
            return
        inner = b"\x08" + _varint(body.rejected) + _text(2, body.why) if told else b""
        self._send(200, b"\x0a" + _varint(len(inner)) + inner if inner else b"", {})

    def _answer(self, code: int, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """An error as the protocol has it: a google.rpc.Status in the sender's encoding."""
        if self._type == _PROTOBUF:
            content = b"\x08" + _varint(status) + _text(2, message)
        else:
            content = json.dumps({"code": status, "message": message}).encode()
        self._send(code, content, headers or {})

    def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        self.send_header("Content-Type", _PROTOBUF if self._type == _PROTOBUF else _JSON)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _unpacked(content: bytes) -> bytes:
    found = b""
    while content:  # a gzip may have several members
        worker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            found += worker.decompress(content, BODY_BYTES + 1 - len(found))
        except zlib.error as error:
            raise BodyError(f"it is no gzip: {error}") from error
        if len(found) > BODY_BYTES:
            raise _Refused(413, f"more than {BODY_BYTES} bytes at once")
        if not worker.eof:
            raise BodyError("its gzip is cut off")
        content = worker.unused_data
    return found


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _text(field: int, text: str) -> bytes:
    content = text.encode()
    return bytes([field << 3 | 2]) + _varint(len(content)) + content
