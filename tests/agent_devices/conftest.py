"""Real programs under ``aiobs run``, on a machine whose GPUs are fake, and what came out of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, subprocess, sys, threading, time
import aiobs
from aiobs import names, recorder
from aiobs.device.fake.gpu import fake_uuid

def on(*gpus):
    recorder.set_resource({names.GPU_IDS: [fake_uuid(gpu) for gpu in gpus]})

def wait(word):
    # Until the test says so.
    print(word, flush=True)
    sys.stdin.readline()

def serve(name, seconds):
    with recorder.start_span(name, kind=2, root=True, current=True):
        time.sleep(seconds)
"""


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled library."""
    pytest.importorskip("pynvml")
    from aiobs.device.fake.build import build

    return build(tmp_path_factory.mktemp("fake-nvml")).parent


@pytest.fixture
def gpus(fake_library: Path, tmp_path: Path) -> Iterator[Any]:
    """Two fake GPUs that draw nothing."""
    from aiobs.device.fake.state import FakeGpus

    place = tmp_path / "gpus"
    place.mkdir()
    for file in fake_library.iterdir():
        (place / file.name).hardlink_to(file)
    made = FakeGpus.create(place, 2)
    for gpu in made.gpus:
        gpu.set_energy(1000.0, power_watts=0.0)
        gpu.set(utilization=50, memory_used=1 << 30)
    yield made
    made.mend()


@dataclass
class Told:
    """What the run folder holds: spans and logs as in OTLP JSON, their attributes as plain dicts."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    points: dict[str, list[tuple[dict[str, Any], float]]] = field(default_factory=dict)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        (span,) = self.named(name)
        return span

    def joules(self, *names: str) -> float:
        return sum(span["attributes"].get("aiobs.gpu.energy", 0.0) for name in names for span in self.named(name))

    def last(self, metric: str, **attributes: str) -> float:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [value for found, value in self.points[metric] if wanted.items() <= found.items()][-1]


def _plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [_plain(item) for item in content.get("values", [])]
    return int(content) if kind == "intValue" else content


def _attributes(item: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _plain(pair["value"]) for pair in item.get("attributes", [])}


def read_run(folder: Path) -> Told:
    told = Told()
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            body = json.loads(line)
            for group in body.get("resourceSpans", []):
                for scope in group["scopeSpans"]:
                    for span in scope["spans"]:
                        span["attributes"] = _attributes(span)
                        for event in span.get("events", []):
                            event["attributes"] = _attributes(event)
                        told.spans.append(span)
            for group in body.get("resourceLogs", []):
                for scope in group["scopeLogs"]:
                    told.logs += [{**log, "attributes": _attributes(log)} for log in scope["logRecords"]]
            for group in body.get("resourceMetrics", []):
                for metric in (metric for scope in group["scopeMetrics"] for metric in scope["metrics"]):
                    for kind in ("sum", "gauge"):
                        for point in metric.get(kind, {}).get("dataPoints", []):
                            number = float(point.get("asDouble", point.get("asInt", 0)))
                            told.points.setdefault(metric["name"], []).append((_attributes(point), number))
    return told


class Program:
    """A program under ``aiobs run``."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        self.process, self.folder, self.log = process, folder, log

    def hear(self, word: str) -> None:
        """Wait until the program says `word`; it waits in turn."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.strip() == word, (said, self.process.poll(), self.log.exists() and self.log.read_text())

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> Told:
        """What it left, once it has ended."""
        assert self.process.stdin is not None
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return read_run(self.folder)


@pytest.fixture
def program(tmp_path: Path, gpus: Any, runtime_dir: Path) -> Iterator[Callable[..., Program]]:
    """Starts a program among the fake GPUs; GPUs are read every 0.2 s."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *, period: float = 0.2, **variables: str) -> Program:
        script = tmp_path / "program.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        folder = tmp_path / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--", sys.executable, str(script)],
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "AIOBS_FAKE_GPU": str(gpus.path), "AIOBS_RUN_DIR": str(folder),
                "AIOBS_DEVICE_PERIOD": str(period), "AIOBS_KEEP_EVERY": "1", "OTEL_METRIC_EXPORT_INTERVAL": "500",
                **variables,
            },
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        started.append(process)
        return Program(process, folder, runtime_dir / "agent" / "log")

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sampled(gpus: Any) -> Callable[[], None]:
    """Waits until the GPUs have been read twice from now on."""

    def wait() -> None:
        def readings() -> int:
            return gpus.calls().get("nvmlDeviceGetUtilizationRates", 0)

        before, deadline = readings(), time.monotonic() + 20
        while readings() < before + 4:
            assert time.monotonic() < deadline, gpus.calls()
            time.sleep(0.01)

    return wait


@pytest.fixture(name="read_run")
def read_run_fixture() -> Callable[[Path], Told]:
    """Reads a run folder."""
    return read_run
