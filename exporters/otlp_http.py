"""OTLP over HTTP with the standard library: one connection, kept open, no retries of its own."""

from __future__ import annotations

import gzip
import http.client
import ssl
import time

from aiobs.errors import ExportError, SettingError
from aiobs.ports import Body, Receipt

from .otlp_answer import receipt, refusal, retry_after
from .otlp_settings import JSON, Target

RETRYABLE = frozenset((429, 502, 503, 504))
"""Statuses after which the same request may succeed; the specification names these and no others."""

ANSWER_BYTES = 64 << 10


class HttpTransport:
    """Posts bodies of one signal to one URL; used by one thread."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._json = target.protocol == JSON
        self._path = target.url.path or "/"
        if target.url.query:
            self._path += "?" + target.url.query
        self._headers = {
            "User-Agent": "aiobs",
            "Content-Type": "application/json" if self._json else "application/x-protobuf",
            **target.headers,
        }
        if target.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        target = self._target
        host, port = str(target.url.hostname), target.url.port
        if target.url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=target.timeout_s)
        try:
            context = ssl.create_default_context(cafile=target.certificate or None)
            if target.client_certificate:
                context.load_cert_chain(target.client_certificate, target.client_key or None)
        except (OSError, ValueError) as error:
            field = "OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE or …_CLIENT_KEY"
            value = target.client_certificate or target.certificate
            raise SettingError(field, value, f"cannot be loaded ({error}); give PEM files") from error
        return http.client.HTTPSConnection(host, port, timeout=target.timeout_s, context=context)

    def send(self, body: Body) -> Receipt:
        """Post once.

        Raises:
            ExportError: not taken; `permanent` says whether trying again could help.
        """
        content = gzip.compress(body.content, 1) if self._target.gzip else body.content
        deadline = time.monotonic() + self._target.timeout_s
        kept_open = self._connection.sock is not None
        try:
            try:
                answer = self._post(content)
            except (ConnectionError, http.client.BadStatusLine):
                # A connection that was idle may have been closed by the other side meanwhile. That says
                # nothing about this request.
                if not kept_open:
                    raise
                self._connection.close()
                answer = self._post(content)
            text = self._read(answer, deadline)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ExportError(self._unreachable(error)) from error
        return self._judge(answer, text)

    def _post(self, content: bytes) -> http.client.HTTPResponse:
        self._connection.request("POST", self._path, content, self._headers)
        return self._connection.getresponse()

    def _read(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        """At most the first 64 KiB of the answer; a connection with more to come is not used again."""
        chunks: list[bytes] = []
        size = 0
        while size < ANSWER_BYTES:
            chunk = answer.read1(ANSWER_BYTES - size)
            if not chunk:
                answer.close()
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            if time.monotonic() > deadline:
                raise TimeoutError("timed out while the answer came")
        self._connection.close()
        return b"".join(chunks)

    def _judge(self, answer: http.client.HTTPResponse, text: bytes) -> Receipt:
        content_type = answer.getheader("Content-Type", "")
        if 200 <= answer.status < 300:
            return receipt(text, json_body="json" in content_type if content_type else self._json)
        reason = refusal(text, content_type)
        if 300 <= answer.status < 400:
            reason = "redirects are not followed: set the endpoint to the final address"
        message = f"{self._where()} answered {answer.status} {answer.reason or ''}".rstrip()
        raise ExportError(
            f"{message}: {reason}" if reason else message,
            permanent=answer.status not in RETRYABLE,
            retry_after_s=retry_after(answer.getheader("Retry-After")),
        )

    def _where(self) -> str:
        return self._target.url._replace(query="").geturl()

    def _unreachable(self, error: Exception) -> str:
        hint = ""
        if self._target.url.port == 4317 and not isinstance(error, ConnectionRefusedError):
            hint = " (4317 is usually the gRPC port: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318)"
        return f"{self._where()} cannot be reached: {str(error) or type(error).__name__}{hint}"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
