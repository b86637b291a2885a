"""Flight records written by real processes, and what the assembler makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import Exit
from aiobs.agent.reader import FlightReader
from aiobs.telemetry import LogRow, Metric, Row

PRELUDE = """
import os, signal, sys, threading, time
from dataclasses import replace
from pathlib import Path
from aiobs import names, recorder
from aiobs.settings import Settings
from aiobs.telemetry import Route

def start(**changes):
    route = replace(Route("run-1", run_trace="11" * 16, run_span="22" * 8), **changes)
    settings = Settings(ring_bytes=int(os.environ.get("RING", 6 << 20)))
    recorder.start(settings, {"service.name": "trainer", "aiobs.rank": route.rank}, route, Path(os.environ["RECORDS"]))

def phase(name):
    number = recorder.phase_id(name)
    steps = recorder.steps()
    class Phase:
        def __enter__(self): self.token = steps.enter(number)
        def __exit__(self, *_): steps.leave(self.token)
    return Phase()

def step(work=lambda: None):
    for name in ("data.wait", "forward", "backward"):
        with phase(name):
            if name == "forward":
                work()
    with phase("optimizer"):
        pass
    recorder.steps().mark_end()

def timed(ms):
    # A step that took so long, to the nanosecond; its phases all last until its end.
    global clock
    steps = recorder.steps()
    clock += 10**9
    steps.begin(None, clock)
    for name, at in (("data.wait", 0), ("forward", 1000), ("backward", ms * 10**6), ("optimizer", ms * 10**6)):
        token = steps.enter(recorder.phase_id(name), clock + at)
        steps.leave(token)
    steps.close(clock + ms * 10**6 + 1)

clock = time.monotonic_ns() - 10**12

def kill():
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED = Exit("signal", None, "SIGKILL", 0)
DONE = Exit("exit", 0, "", 0)


class Told:
    """Everything an assembler gave out."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.logs: list[LogRow] = []
        self.metrics: list[Metric] = []

    def take(self, assembler: Assembler, now_ns: int | None = None) -> Told:
        batch = assembler.take(now_ns or time.time_ns(), metrics=True)
        self.rows += [row for _, rows in batch.spans for row in rows]
        self.logs += [row for _, rows in batch.logs for row in rows]
        self.metrics += [metric for _, found in batch.metrics for metric in found]
        return self

    def named(self, name: str) -> list[Row]:
        return [row for row in self.rows if row[0].name == name]

    def one(self, name: str) -> Row:
        (row,) = self.named(name)
        return row

    def steps(self) -> dict[int, str]:
        """Reason by number of the exported step spans."""
        return {row[6][0]: row[6][1] for row in self.rows if row[0].name in ("train step", "rank step")}

    def metric(self, name: str) -> Metric:
        return [metric for metric in self.metrics if metric.name == name][-1]

    @staticmethod
    def attributes(row: Row) -> dict[str, Any]:
        found = dict(zip(row[0].keys, row[6], strict=True))
        return {**found, **(row[7].attributes if row[7] else {})}

    def assert_ids_unique(self) -> None:
        ids = [row[2] for row in self.rows]
        assert len(ids) == len(set(ids))

    def assert_no_orphans(self) -> None:
        """Within each trace that has a root of ours, every parent is there."""
        for trace in {row[1] for row in self.rows}:
            rows = [row for row in self.rows if row[1] == trace]
            known = {row[2] for row in rows}
            assert [row[0].name for row in rows if row[3] and row[3] not in known] == []


class Recorded:
    """Runs programs that record, and reads what they left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        env = {**os.environ, "RECORDS": str(self.directory), **environment}
        program = PRELUDE + textwrap.dedent(code)
        return subprocess.Popen(
            [sys.executable, "-c", program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str, **environment: str) -> FlightReader:
        """The reader of the record that the program left."""
        before = set(self.directory.glob("*.fr"))
        process = self.start(code, **environment)
        process.communicate(timeout=60)
        assert process.returncode in (0, -9), process.returncode
        (path,) = set(self.directory.glob("*.fr")) - before
        return FlightReader(path)

    def told(self, *readers: FlightReader, ending: Exit = KILLED, restart: bool = False) -> Told:
        """What comes of the records of processes that have ended; with `restart` through a new agent on the way."""
        assembler = Assembler(readers[0].route)
        told = Told()
        for reader in readers:
            assembler.add(reader)
        if restart:
            told.take(assembler)
            state = json.loads(json.dumps(assembler.snapshot()))
            assembler = Assembler(readers[0].route)
            assembler.restore(state)
            again = [FlightReader(reader.path) for reader in readers]
            for new, old in zip(again, readers, strict=True):
                new.position = old.position
            readers = tuple(again)
        for reader in readers:
            assembler.process_ended(reader, ending)
        told.take(assembler)
        told.assembler = assembler  # type: ignore[attr-defined]
        return told


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    directory = tmp_path / "records"
    directory.mkdir(mode=0o700)
    return Recorded(directory)


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("records"))


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)

    return wait
