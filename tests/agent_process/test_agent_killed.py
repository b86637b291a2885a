"""An agent killed at any moment, many times over: nothing is lost, nothing comes twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import load_settings

KILLS = int(os.environ.get("AIOBS_TRIALS", "12"))

BUSY = """
import random
with recorder.span("whole"):
    n = 0
    while not os.path.exists(os.environ["TEST_FINISHED"] + ".stop"):
        for _ in range(random.randrange(40)):
            n += 1
            span = recorder.start_span("work", {"n": n, "text": "x" * random.randrange(300)})
            if n % 7 == 0:
                span.event("seen", {"n": n})
            done(span)
        time.sleep(0.002)
recorder.stop(0)
"""


def start_agent(runtime_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "aiobs.agent", "--runtime-dir", str(runtime_dir), "--linger", "0.2"],
        stderr=subprocess.PIPE,
    )


def exported(run_dir: Path) -> Counter[str]:
    """Span ids in the run folder, counted."""
    found: Counter[str] = Counter()
    for file in run_dir.glob("traces*.jsonl"):
        for line in file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    found.update(span["spanId"] for span in scope["spans"])
    return found


def spans_in(body: bytes) -> list[str]:
    """Span ids in an OTLP request."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return [
        span.span_id.hex()
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


@pytest.mark.slow
@pytest.mark.timeout(60 + 4 * KILLS)
def test_every_span_arrives_once_though_the_agent_is_killed_again_and_again(
    tmp_path: Path, runtime_dir: Path, recorded: Callable[..., subprocess.Popen[bytes]], sink: Any
) -> None:
    make_runtime_dir(load_settings())
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    # Agents that hardly live read slowly; what the ring overwrites meanwhile is lost by design, and not the question.
    ring = {"AIOBS_RING_BYTES": "96m"}
    process = recorded(BUSY, exporters=("jsonl", "otlp"), environment=environment, variables=ring)
    chance = random.Random()  # other moments in every run
    for _ in range(KILLS):
        agent = start_agent(runtime_dir)
        time.sleep(0.15 + chance.random() * 0.9)
        agent.kill()
        _, said = agent.communicate()
        assert agent.returncode == -signal.SIGKILL, said.decode()
        assert b"Traceback" not in said, said.decode()
    (tmp_path / "finished.stop").touch()
    assert process.wait(20) == 0
    agent = start_agent(runtime_dir)
    _, said = agent.communicate(timeout=60)
    assert agent.returncode == 0, said.decode()
    assert b"Traceback" not in said, said.decode()
    finished = set((tmp_path / "finished").read_text().split())
    assert len(finished) > 1000
    on_disk = exported(tmp_path / "run")
    lost = finished - set(on_disk)
    assert not lost, f"{len(lost)} of {len(finished)}"
    assert [span for span, count in on_disk.items() if count > 1] == []
    assert len(on_disk) == len(finished) + 2  # the span around all, and its announcement
    assert set(sink.accepted) == set(on_disk)
    # An agent killed between the receiver's answer and the deletion of the file sends that one again; no sender
    # can do better, and receivers drop equal spans. It may happen once a kill, with one body.
    assert sum(sink.bodies.values()) - len(sink.bodies) <= KILLS
    once = Counter(span for body in sink.bodies for span in spans_in(body))
    assert set(once.values()) == {1}, "a span was encoded into two different requests"
    assert list((runtime_dir / "records").glob("*.fr")) == []
    assert list((runtime_dir / "spool").rglob("*.body")) == []
