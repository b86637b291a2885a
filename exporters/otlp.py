"""The exporter ``otlp``: to Jaeger, an OpenTelemetry Collector, or whatever else speaks OTLP.

Traces are always sent. Metrics and logs are sent where ``OTEL_METRICS_EXPORTER`` or ``OTEL_LOGS_EXPORTER``
names ``otlp``, or an endpoint of their own is set: Jaeger takes traces only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from aiobs.ports import Body, Receipt
from aiobs.telemetry import Batch, Route

from . import json_bodies, protobuf_bodies
from .otlp_grpc import GrpcTransport
from .otlp_http import HttpTransport
from .otlp_settings import GRPC, JSON, Target, targets


class Transport(Protocol):
    """Delivers bodies of one signal."""

    def send(self, body: Body) -> Receipt: ...

    def close(self) -> None: ...


def create(route: Route) -> OtlpExporter:
    """The exporter for a route, from the route's ``OTEL_EXPORTER_OTLP_*`` variables.

    Raises:
        SettingError: a variable cannot be used.
        NotEnabledError: the protocol is grpc and grpcio is not installed.
    """
    return OtlpExporter(targets(route.environment))


class OtlpExporter:
    """A :class:`~aiobs.ports.RemoteExporter`; `targets` says which signals go where."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._json = [signal for signal, target in targets.items() if target.protocol == JSON]
        self._protobuf = [signal for signal in targets if signal not in self._json]
        self._transports: dict[str, Transport] = {
            signal: GrpcTransport(target) if target.protocol == GRPC else HttpTransport(target)
            for signal, target in targets.items()
        }

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are sent."""
        return tuple(self._transports)

    def encode(self, batch: Batch) -> Iterable[Body]:
        """The requests for `batch`, each below 4 MiB where no single item is larger."""
        if self._protobuf:
            yield from protobuf_bodies.bodies(batch, self._protobuf)
        if self._json:
            yield from json_bodies.bodies(batch, self._json)

    def send(self, body: Body) -> Receipt:
        """Deliver once.

        Raises:
            ExportError: it was not taken.
        """
        return self._transports[body.signal].send(body)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()
