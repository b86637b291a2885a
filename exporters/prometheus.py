"""The exporter ``prometheus``: serves the newest metrics for a Prometheus server to scrape.

On ``AIOBS_PROMETHEUS_ADDRESS`` (host:port, default 127.0.0.1:9464), path ``/metrics``. Runs of one host that use
the same address share it; labels tell them apart. Exemplars, which lead from a bucket to a trace, are there for
scrapers that ask for OpenMetrics.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from aiobs import names
from aiobs.errors import SettingError
from aiobs.guard import say_once
from aiobs.telemetry import Batch, Resource, Route

from .openmetrics import Family, Labels, family_of, labels_of, render

FIELD = "AIOBS_PROMETHEUS_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:9464"
SERIES = 100_000
"""Series that are kept; new ones beyond it are left out, which is said once."""

IDENTITY = (names.SERVICE_NAME, names.SERVICE_INSTANCE_ID, names.RUN_ID, names.RUN_ATTEMPT, names.RANK)
"""Resource attributes on every series, so that ranks and runs stay apart; all others are on ``target_info``."""

_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def create(route: Route) -> PrometheusExporter:
    """The exporter for a route; its server answers from now on.

    Raises:
        SettingError: the address cannot be used.
    """
    return PrometheusExporter(route.environment.get(FIELD, "").strip() or DEFAULT_ADDRESS)


class PrometheusExporter:
    """A :class:`~aiobs.ports.LocalExporter`: spans and logs pass it by, of metrics it keeps the newest points.

    Attributes:
        port: where it listens.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS) -> None:
        self._server: _Server | None = _join(address, self)
        self.port: int = self._server.server_address[1]

    def write(self, batch: Batch) -> None:
        """Serve the metrics of `batch` from now on."""
        if self._server is not None:
            self._server.board.update(self, batch)

    def mark(self) -> object:
        """Nothing: what is served is only what is newest."""
        return None

    def rewind(self, mark: object) -> None:
        """Nothing to take back."""

    def close(self) -> None:
        """Stop serving these metrics; the last exporter of an address closes its port."""
        if self._server is not None:
            _leave(self._server, self)
            self._server = None


class Board:
    """What a server shows: the newest points of all its exporters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._families: dict[str, Family] = {}
        self._targets: dict[tuple[object, Labels], None] = {}
        self._series = 0

    def update(self, owner: object, batch: Batch) -> None:
        """Take over the points of `batch`."""
        with self._lock:
            for resource, metrics in batch.metrics:
                identity = _identity(resource)
                self._targets[owner, labels_of(resource.attributes)] = None
                for metric in metrics:
                    name, made = family_of(metric)
                    family = self._families.setdefault(name, made)
                    if family.type != made.type:
                        say_once(f"prometheus:{name}", "aiobs: prometheus: %s is both %s and %s; the latter is left out", name, family.type, made.type)  # fmt: skip
                        continue
                    for point in metric.points:
                        key = owner, labels_of(identity, point.attributes)
                        if key not in family.points:
                            if self._series >= SERIES:
                                say_once("prometheus:series", "aiobs: prometheus: more than %d series; new ones are left out", SERIES)  # fmt: skip
                                continue
                            self._series += 1
                        family.points[key] = point

    def drop(self, owner: object) -> None:
        """Forget what came from `owner`."""
        with self._lock:
            self._targets = {key: None for key in self._targets if key[0] is not owner}
            for family in self._families.values():
                family.points = {key: point for key, point in family.points.items() if key[0] is not owner}
            self._series = sum([len(family.points) for family in self._families.values()])

    def text(self, *, openmetrics: bool) -> str:
        """The exposition."""
        with self._lock:
            return render(self._families, sorted({labels for _, labels in self._targets}), openmetrics=openmetrics)


def _identity(resource: Resource) -> dict[str, Any]:
    return {key: resource.attributes[key] for key in IDENTITY if key in resource.attributes}


class _Request(BaseHTTPRequestHandler):
    timeout = 10
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in ("/metrics", "/"):
            self.send_error(404)
            return
        openmetrics = "application/openmetrics-text" in self.headers.get("Accept", "")
        content = cast(_Server, self.server).board.text(openmetrics=openmetrics).encode()
        self.send_response(200)
        self.send_header("Content-Type", _OPENMETRICS if openmetrics else _PLAIN)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Without this a port that is in use would be taken over by a second process on some systems.
    allow_reuse_port = False

    def __init__(self, address: str, host: str, port: int) -> None:
        self.address = address
        self.board = Board()
        self.owners: list[object] = []
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Request)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="aiobs-prometheus", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hung up is not worth a word."""


_servers: dict[str, _Server] = {}
_servers_lock = threading.Lock()


def _join(address: str, owner: object) -> _Server:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingError(FIELD, address, f"write host:port, such as {DEFAULT_ADDRESS}")
    with _servers_lock:
        server = _servers.get(address) if int(port) else None
        if server is None:
            try:
                server = _Server(address, host, int(port))
            except OSError as error:
                remedy = f"cannot listen there ({error.strerror or error}); choose another address or stop what uses it"
                raise SettingError(FIELD, address, remedy) from error
            _servers[address] = server
        server.owners.append(owner)
    return server


def _leave(server: _Server, owner: object) -> None:
    with _servers_lock:
        server.owners.remove(owner)
        server.board.drop(owner)
        if server.owners:
            return
        if _servers.get(server.address) is server:
            del _servers[server.address]
    server.shutdown()
    server.server_close()
