"""Services whose telemetry goes to an experiment, over the real SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import SPEC

SHORT = SPEC.replace("windows: {baseline: 30s, recovery: 30s, hold: 10s, guard: 1s}", "windows: {baseline: 3s, recovery: 2s, guard: 200ms, hold: 1s}")  # fmt: skip
PROGRAM = """
import os, sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
name, flag = sys.argv[1:]
provider = TracerProvider(resource=Resource({"service.name": "llm", "aiobs.replica": name}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=2), schedule_delay_millis=100))
tracer = provider.get_tracer("t")
while True:
    with tracer.start_as_current_span("POST /v1", kind=SpanKind.SERVER) as it:
        time.sleep(0.005)
        if os.path.exists(flag):
            it.set_status(Status(StatusCode.ERROR))
"""


class Services:
    """Replicas that answer all the time; the one called "a" fails while the file `flag` is there."""

    def __init__(self, folder: Path) -> None:
        self.flag = folder / "ill"
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, endpoint: str) -> subprocess.Popen[bytes]:
        """Start the replica `name`, which sends to `endpoint`."""
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        flag = self.flag if name == "a" else "/nowhere"
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, name, str(flag)], env=environment, stderr=subprocess.DEVNULL)  # fmt: skip
        self._all.append(process)
        return process

    def stop(self) -> None:
        """Kill them all."""
        for process in self._all:
            process.kill()
            process.wait()
