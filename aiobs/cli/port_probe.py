"""What speaks at a TCP port: HTTP, HTTP/2 (gRPC), TLS or nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass

TIMEOUT_S = 3.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The connection preface of HTTP/2 and an empty SETTINGS frame."""
_SETTINGS = 4


@dataclass(frozen=True)
class Port:
    """What was found; `refusal` says why there is no connection, "" where there is one."""

    host: str
    port: int
    refusal: str = ""
    tls: bool = False
    http1: bool = False
    http2: bool = False


def probe(host: str, port: int, timeout_s: float = TIMEOUT_S) -> Port:
    """Find out what speaks at `port` of `host`, by three short connections."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except socket.gaierror:
        return Port(host, port, f"there is no host named {host}")
    except ConnectionRefusedError:
        return Port(host, port, f"nothing listens on port {port} of {host}")
    except (OSError, ValueError) as error:
        return Port(host, port, f"port {port} of {host} cannot be reached ({error})")
    tls = _speaks_tls(host, port, timeout_s)
    http2 = _is_settings(_ask(host, port, _HTTP2_HELLO, timeout_s, tls=tls, alpn="h2"))
    http1 = _ask(
        host, port, b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n", timeout_s, tls=tls
    ).startswith(b"HTTP/1.")
    return Port(host, port, tls=tls, http1=http1, http2=http2)


def _is_settings(answer: bytes) -> bool:
    return len(answer) >= 9 and answer[3] == _SETTINGS and not answer.startswith(b"HTTP/")


def _open_context() -> ssl.SSLContext:
    # Whose certificate it is does not matter here: nothing is sent but a greeting.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            _open_context().wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        # An alert of the other side (it wants a certificate, say) is TLS as well; a wrong version number is not.
        return "ALERT" in str(error.reason or "").upper()
    except (OSError, ValueError):
        return False


def _ask(host: str, port: int, words: bytes, timeout_s: float, *, tls: bool, alpn: str = "") -> bytes:
    try:
        with contextlib.ExitStack() as stack:
            connection: socket.socket = stack.enter_context(socket.create_connection((host, port), timeout_s))
            if tls:
                context = _open_context()
                if alpn:
                    context.set_alpn_protocols([alpn])
                connection = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
            connection.settimeout(timeout_s)
            connection.sendall(words)
            return connection.recv(1024)
    except (OSError, ValueError):
        return b""
