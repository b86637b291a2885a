"""OTLP over gRPC: unary calls with bodies that are encoded already, so no generated stubs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aiobs.errors import ExportError, NotEnabledError
from aiobs.ports import Body, Receipt

from .otlp_answer import receipt, retry_info, shown
from .otlp_settings import Target

_METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

RETRYABLE = frozenset(("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"))
"""Codes after which the same call may succeed. RESOURCE_EXHAUSTED only counts with a RetryInfo."""


class GrpcTransport:
    """Calls the collector service of one signal.

    Raises:
        NotEnabledError: grpcio is not installed.
    """

    def __init__(self, target: Target) -> None:
        try:
            self._grpc: Any = import_module("grpc")
        except ImportError as error:
            raise NotEnabledError("OTLP over gRPC (grpcio)", "grpc") from error
        self._target = target
        host = f"[{target.url.hostname}]" if ":" in str(target.url.hostname) else target.url.hostname
        self._where = f"{host}:{target.url.port or 4317}"
        compression = self._grpc.Compression.Gzip if target.gzip else self._grpc.Compression.NoCompression
        # A new receiver on the same address must be found soon, not after the default two minutes.
        options = (("grpc.max_reconnect_backoff_ms", 5000), ("grpc.primary_user_agent", "aiobs"))
        if target.insecure:
            self._channel = self._grpc.insecure_channel(self._where, options, compression)
        else:
            self._channel = self._grpc.secure_channel(self._where, self._credentials(), options, compression)
        self._call = self._channel.unary_unary(_METHODS[target.signal])
        self._metadata = tuple(target.headers.items())

    def _credentials(self) -> Any:
        contents = [
            _content(path)
            for path in (self._target.certificate, self._target.client_key, self._target.client_certificate)
        ]
        return self._grpc.ssl_channel_credentials(*contents)

    def send(self, body: Body) -> Receipt:
        """Call once.

        Raises:
            ExportError: not taken; `permanent` says whether trying again could help.
        """
        try:
            answer = self._call(body.content, timeout=self._target.timeout_s, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise self._failure(error) from error
        return receipt(answer, json_body=False)

    def _failure(self, error: Any) -> ExportError:
        code = error.code().name
        wait_s = None
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                wait_s = retry_info(value)
        retryable = code in RETRYABLE or (code == "RESOURCE_EXHAUSTED" and wait_s is not None)
        reason = shown(str(error.details() or "").encode())
        return ExportError(f"{self._where} answered {code}: {reason}", permanent=not retryable, retry_after_s=wait_s)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _content(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
