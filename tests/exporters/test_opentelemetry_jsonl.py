"""Any OpenTelemetry SDK writes a run folder with OTEL_TRACES_EXPORTER=aiobs_jsonl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from aiobs.exporters.folder import Damage, read_batches
from aiobs.exporters.opentelemetry_jsonl import AiobsJsonlSpanExporter
from aiobs.telemetry import Row


def rows(folder: Path) -> list[Row]:
    return [row for _, batch in read_batches(folder, Damage()) for _, found in batch.spans for row in found]


def test_spans_of_the_sdk_arrive_whole(tmp_path: Path) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "svc"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(AiobsJsonlSpanExporter(str(tmp_path))))
    tracer = provider.get_tracer("lib", "2.0")
    with tracer.start_as_current_span("outer", kind=trace.SpanKind.SERVER, attributes={"a": 1}) as outer:
        link = trace.Link(outer.get_span_context(), {"why": "test"})
        with tracer.start_as_current_span("inner", links=[link]) as inner:
            inner.add_event("seen", {"n": [1, 2]}, timestamp=5)
            inner.set_status(trace.StatusCode.ERROR, "bad")
    provider.shutdown()
    found_inner, found_outer = rows(tmp_path)
    assert (found_outer[0].name, found_outer[0].kind, found_outer[0].scope, found_outer[0].version) == (
        "outer",
        2,
        "lib",
        "2.0",
    )
    assert (found_outer[3], found_inner[3]) == (b"", found_outer[2])
    assert found_outer[6] == (1,)
    context = outer.get_span_context()
    assert (found_outer[1], found_outer[2]) == (
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
    )
    extra: Any = found_inner[7]
    assert (extra.status, extra.message) == (2, "bad")
    assert [(e.name, e.time_ns, e.attributes) for e in extra.events] == [("seen", 5, {"n": [1, 2]})]
    assert [(one.span_id, one.attributes) for one in extra.links] == [(found_outer[2], {"why": "test"})]


FORKING = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from aiobs.exporters.opentelemetry_jsonl import AiobsJsonlSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(AiobsJsonlSpanExporter()))
tracer = provider.get_tracer("t")
tracer.start_span("before").end()
child = os.fork()
for number in range(50):
    tracer.start_span(f"{'parent' if child else 'child'}").end()
if child:
    os.waitpid(child, 0)
    provider.shutdown()
else:
    provider.shutdown()
    os._exit(0)
"""


def test_a_forked_child_writes_files_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "AIOBS_RUN_DIR": str(tmp_path / "run")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], env=environment, check=True, timeout=60)
    found = [row[0].name for row in rows(tmp_path / "run")]
    assert sorted(found) == sorted(["before"] + ["parent"] * 50 + ["child"] * 50)


def test_without_a_folder_one_is_named_by_time_and_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    provider = TracerProvider(resource=Resource({"service.name": "my svc"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(AiobsJsonlSpanExporter()))
    provider.get_tracer("t").start_span("one").end()
    provider.shutdown()
    (folder,) = (tmp_path / "aiobs-runs").iterdir()
    assert folder.name.endswith("-my-svc")
    assert len(rows(folder)) == 1
