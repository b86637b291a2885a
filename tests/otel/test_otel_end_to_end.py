"""Programs that use OpenTelemetry, end to end through the agent: instrumented from outside, and killed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

APP = """
import os, random
random.seed(1)
from opentelemetry import trace
import aiobs

def library():
    return trace.get_tracer("library", "2.0")

with library().start_as_current_span("request", kind=trace.SpanKind.SERVER) as span:
    span.set_attribute("late", True)
    with aiobs.span("ours"):
        with library().start_as_current_span("query"):
            pass
print("stdout is the program's own")
"""
GROUPS = {
    "opentelemetry_distro": "aiobs.otel.distro:AiobsDistro",
    "opentelemetry_configurator": "aiobs.otel.distro:AiobsConfigurator",
    "opentelemetry_id_generator": "aiobs.otel.distro:AiobsIdGenerator",
}


def test_entry_points_lead_here():
    for group, target in GROUPS.items():
        found = importlib.metadata.entry_points(group=group, name="aiobs")
        if not found:
            pytest.skip("aiobs-sdk is not installed here, so nothing has its entry points")
        assert {point.value for point in found} == {target}
        assert next(iter(found)).load() is not None


def test_an_instrumented_program(tmp_path: Path):
    if not importlib.metadata.entry_points(group="opentelemetry_configurator", name="aiobs"):
        pytest.skip("aiobs-sdk is not installed here, so opentelemetry-instrument cannot find it")
    app = tmp_path / "app.py"
    app.write_text(APP)
    run_dir = tmp_path / "run"
    ended = subprocess.run(
        [Path(sys.executable).parent / "opentelemetry-instrument", sys.executable, app],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={
            **os.environ,
            "AIOBS_RUN_DIR": str(run_dir),
            "AIOBS_AGENT_LINGER": "0.1",
            # Another distro is installed beside ours; which one is found first is chance.
            "OTEL_PYTHON_DISTRO": "aiobs",
            "OTEL_PYTHON_CONFIGURATOR": "aiobs",
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "stdout is the program's own\n"
    assert "Traceback" not in ended.stderr
    spans = exported(run_dir / "traces.jsonl", {"request", "ours", "query", "process"})
    request, ours, query = spans["request"], spans["ours"], spans["query"]
    assert request["traceId"] == ours["traceId"] == query["traceId"]
    assert ours["parentSpanId"] == request["spanId"]
    assert query["parentSpanId"] == ours["spanId"]
    assert request["kind"] == 2
    assert {"key": "late", "value": {"boolValue": True}} in request["attributes"]
    assert request["links"][0]["traceId"] == spans["process"]["traceId"]


KILLED = """
import os, signal
import aiobs
aiobs.init()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("app")
with tracer.start_as_current_span("outer", attributes={"a": 1}):
    with tracer.start_as_current_span("done"):
        pass
    with aiobs.span("ours"):
        tracer.start_span("inner")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_programs_spans_arrive(tmp_path: Path):
    run_dir = tmp_path / "run"
    environment = {**os.environ, "AIOBS_RUN_DIR": str(run_dir), "AIOBS_AGENT_LINGER": "0.1"}
    ended = subprocess.run([sys.executable, "-c", KILLED], timeout=60, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -9
    spans = exported(run_dir / "traces.jsonl", {"outer", "ours", "inner", "done"})
    assert spans["inner"]["parentSpanId"] == spans["ours"]["spanId"]
    assert spans["ours"]["parentSpanId"] == spans["done"]["parentSpanId"] == spans["outer"]["spanId"]
    truncated = {"key": "aiobs.truncated", "value": {"boolValue": True}}
    for name, span in spans.items():
        assert (truncated in span["attributes"]) == (name != "done"), name
        assert (span.get("status", {}).get("code", 0) == 2) == (name != "done"), name


def exported(path: Path, names: set[str]) -> dict[str, dict]:
    """Spans of a run folder by name, once all of `names` are there."""
    deadline = time.monotonic() + 20
    spans: dict[str, dict] = {}
    while time.monotonic() < deadline and not names <= set(spans):
        time.sleep(0.05)
        lines = path.read_text().splitlines() if path.exists() else []
        spans = {
            span["name"]: span
            for line in lines
            for resource in json.loads(line)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        }
    assert names <= set(spans)
    return spans
