"""What the benchmarks of faults share: a place of their own, a victim, experiments to be killed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXPERIMENT = """
import json, sys
from aiobs import chaos
told = json.loads(sys.argv[1])
with chaos.inject(told["fault"], told["target"], duration_s=told["duration_s"], **told["parameters"]) as it:
    print("held", flush=True)
    it.wait(60)
"""
VICTIM = """
import socket
server = socket.create_server(("127.0.0.1", 0))
server.settimeout(0.005)
port = server.getsockname()[1]
print(port, flush=True)
while True:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.01):
            server.accept()[0].close()
    except OSError:
        pass
"""


@contextmanager
def place() -> Iterator[Path]:
    """A folder, in which chaos and telemetry have theirs, with faults allowed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ.update(
            AIOBS_CHAOS="armed", AIOBS_ENVIRONMENT="test", AIOBS_CHAOS_DIR=f"{folder}/chaos",
            AIOBS_RUNTIME_DIR=f"{folder}/runtime", AIOBS_RUN_DIR=f"{folder}/run", AIOBS_AGENT="off",
        )  # fmt: skip
        yield folder


@contextmanager
def program(script: str = VICTIM) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A victim, and the number it says first (its port)."""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextmanager
def experiment(fault: str, target: str, duration_s: float, **parameters: object) -> Iterator[subprocess.Popen[str]]:
    """An experiment in a process of its own, which holds its fault."""
    told = {"fault": fault, "target": target, "duration_s": duration_s, "parameters": parameters}
    process = subprocess.Popen(
        [sys.executable, "-c", EXPERIMENT, json.dumps(told)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline() != "held\n":
        raise SystemExit(process.stderr.read())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> float:
    """Seconds until `condition` holds, looked at as often as it can be."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise SystemExit("it does not end")
        select.select([], [], [], 0.0002)
    return time.monotonic() - began


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95 %, most; in ms."""
    ordered = sorted(values)
    return {
        "median": ordered[len(ordered) // 2] * 1e3,
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] * 1e3,
        "most": ordered[-1] * 1e3,
    }
