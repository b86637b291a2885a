"""The scene of the demo: a language model service under load and a training job, on machines that may fail.

::

    with Scene(Path("run")) as scene:
        os.environ.update(scene.environment)
        with chaos.inject("process.kill", scene.target("replica-1")):
            ...

All of it is recorded into one run folder, and ends with the scene, however that ends.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiobs.chaos.demo.glance import Glance, Rate
from aiobs.chaos.demo.parts import FRONT, Setup
from aiobs.errors import ArmError, FaultError, PlanError

MADE_S, ENDING_S = 30.0, 30.0
"""Patience until the machines are there, and until all has ended."""
READY_S = 180.0
"""Patience until all programs work: seven of them import PyTorch, on few processors."""
RATE = 24.0
_KEPT = ("AIOBS_CHAOS_DIR", "AIOBS_CHAOS_PROTECT", "AIOBS_ENVIRONMENT")
_PORTS = 10


class Scene:
    """See the module's text. A context manager: entered, everything works; left, everything is gone.

    Args:
        folder: the run folder; what the scene needs for itself is in its ``scene`` folder.
        rate: requests a second of the load; 0: none.
        bulkheads: without them a replica takes the whole service with it, and a rank all ranks.
        nodes: whether the machines are nodes of a testbed; None: where that can be had, and there are bulkheads.
        tenants: on whose behalf requests are made, in turn.
        seed: of load and training.
        waiting: called while it waits for the programs, with what is there so far.

    Attributes:
        run_folder: where the telemetry goes.
        environment: variables for whatever injects, so that its faults are on the same record.
        url: of the router, as programs on the machine in front see it.
        bed: name of the testbed, "" where there is none; `without_nodes`: why there is none.

    Raises:
        ArmError: `nodes` is true and they cannot be had here.
        FaultError: not everything works after three minutes; the message says what does not, and where its log is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 3,
        ranks: int = 3,
        rate: float = RATE,
        bulkheads: bool = True,
        nodes: bool | None = None,
        training: bool = True,
        tenants: Sequence[str] = ("blue", "green", "red"),
        seed: int = 0,
        waiting: Callable[[dict[str, Rate]], None] | None = None,
    ) -> None:
        self.run_folder = Path(folder).absolute()
        self._own = self.run_folder / "scene"
        self._setup = Setup(
            str(self._own), replicas, ranks, rate, bulkheads, bulkheads if nodes is None else nodes, training,
            tuple(tenants), seed, 8000,
        )  # fmt: skip
        self._must = nodes is True
        self._waiting = waiting
        self._glance = Glance(self.run_folder)
        self._stack = ExitStack()
        self._events_read = 0
        self.url = self.bed = self.without_nodes = ""
        base = {name: value for name, value in os.environ.items() if not _ours(name) or name in _KEPT}
        self.environment = {
            "AIOBS_ENVIRONMENT": base.get("AIOBS_ENVIRONMENT", "test"),
            "AIOBS_CHAOS": "armed",
            "AIOBS_RUN_ID": uuid.uuid4().hex,
            "AIOBS_RUN_NAME": "demo",
            "AIOBS_RUN_DIR": str(self.run_folder),
            "AIOBS_RUNTIME_DIR": str(self._own / "runtime"),
            "AIOBS_EXPORTERS": "jsonl,otlp" if any(map(base.get, _ENDPOINTS)) else "jsonl",
            "AIOBS_KEEP_EVERY": "1",
            "AIOBS_STARTED_AFTER": "600",
            "AIOBS_DEVICES": "off",
            "AIOBS_PATCHES_OFF": "httpx",  # callers tell their own spans
        }
        self._base = {**base, **self.environment}

    # -- who is there --------------------------------------------------------------------------------------
    @property
    def machines(self) -> list[str]:
        """Names of the machines that faults are aimed at."""
        return self._setup.machines

    @property
    def units(self) -> list[str]:
        """Names of all that serve or learn: the router, the replicas, the ranks."""
        ranks = range(self._setup.ranks if self._setup.training else 0)
        return ["router", *(f"replica-{it}" for it in range(self._setup.replicas)), *(f"rank-{it}" for it in ranks)]

    def pidfile(self, name: str) -> Path:
        """Where the pid of a program or a machine (``replica-1``, ``load``, ``node-1``, …) stands, the newest one's."""
        return self._own / "pids" / f"{name}.pid"

    def log(self, name: str) -> Path:
        """What a program printed."""
        return self._own / "logs" / f"{name}.log"

    def target(self, name: str) -> str:
        """The target that means a program, or a machine with all that runs on it.

        Raises:
            PlanError: there is none of that name.
        """
        if self.bed and name in (FRONT, *self.machines):
            return f"node:{name}@{self.bed}"
        if not self.pidfile(name).exists():
            there = ", ".join(sorted(it.stem for it in self.pidfile(name).parent.glob("*.pid")))
            raise PlanError("name", name, f"there are {there or 'no programs yet'}")
        return f"pidfile:{self.pidfile(name)}"

    def port(self, name: str) -> int:
        """The port that the router or a replica listens on. Raises PlanError."""
        for index, serving in enumerate(self.units[: self._setup.replicas + 1]):
            if serving == name:
                return self._setup.port + index
        raise PlanError("name", name, "only the router and the replicas have a port")

    def rates(self) -> dict[str, Rate]:
        """Requests of each replica and of the router, and steps of each rank, a second, of two seconds ago."""
        found = self._glance.rates()
        return {name: found.get(name, Rate()) for name in self.units}

    def events(self) -> Iterator[Mapping[str, Any]]:
        """What was started and what ended since the last call: ``part``, ``is``, ``at``, and ``pid`` or ``code``."""
        with suppress(OSError), (self._own / "events.jsonl").open("rb") as file:
            file.seek(self._events_read)
            text = file.read()
            whole = text.rfind(b"\n") + 1
            self._events_read += whole
            yield from map(json.loads, text[:whole].splitlines())

    def silent(self) -> list[str]:
        """Who of :attr:`units` does nothing good just now."""
        rates = self.rates()
        asked = self.units if self._setup.rate else [it for it in self.units if it.startswith("rank")]
        return [name for name in asked if not rates.get(name, Rate()).good]

    # -- coming and going ----------------------------------------------------------------------------------
    def __enter__(self) -> Scene:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin, and wait until everything works; whoever calls it also calls :meth:`close`, whatever it raises."""
        self._begin()
        deadline = time.monotonic() + READY_S
        while silent := self.silent() or self._hurried():
            if time.monotonic() > deadline:
                logs = ", ".join(str(self.log(name)) for name in silent)
                raise FaultError("inject", f"{', '.join(silent)} did not work for {READY_S:g} s; see {logs}")
            if self._waiting is not None:
                self._waiting(self.rates())
            time.sleep(0.2)

    def _hurried(self) -> list[str]:
        """The router, where it still makes up for what came while nobody could answer."""
        rate = self.rates().get("router", Rate())
        return ["router"] if self._setup.rate and rate.good > 1.5 * self._setup.rate else []

    def close(self) -> None:
        """End everything and wait until it has ended; again: nothing."""
        self._stack.close()

    def _begin(self) -> None:
        if (self.run_folder / "scene").exists():
            raise PlanError("folder", str(self.run_folder), "a scene was there before; name a new folder")
        self._own.mkdir(parents=True)
        (self._own / "runtime").mkdir(mode=0o700)
        self._stack.callback(shutil.rmtree, self._own / "runtime", ignore_errors=True)
        self._stack.callback(self._end_agent)
        answer = self._start(self._setup.nodes)
        if "refused" in answer and self._setup.nodes and not self._must:
            self.without_nodes = answer["refused"]
            answer = self._start(False)
        if "refused" in answer:
            raise ArmError(answer["refused"])
        self.url, self.bed = answer["url"], answer["bed"]

    def _start(self, nodes: bool) -> dict[str, Any]:
        path = self._own / "setup.json"
        port = 8000 if nodes else _free_ports(_PORTS)
        self._setup = replace(self._setup, nodes=nodes, port=port)
        self._setup.write(path)
        log = self._stack.enter_context(self.log_file("stage"))
        stage = subprocess.Popen(
            [
                sys.executable, "-m", "aiobs.cli", "run", "--quiet", "--name", "demo", "--run-dir", str(self.run_folder),
                "--", sys.executable, "-m", "aiobs.chaos.demo.stage", str(path),
            ],
            env=self._base, cwd=self._own, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        self._stack.callback(self._end_stage, stage)
        said, deadline = self._own / "stage.json", time.monotonic() + MADE_S
        while not said.exists():
            if stage.poll() is not None or time.monotonic() > deadline:
                raise FaultError("inject", f"the scene did not start; see {self.log('stage')}")
            time.sleep(0.02)
        answer: dict[str, Any] = json.loads(said.read_text("utf-8"))
        if "refused" in answer:
            stage.wait(ENDING_S)
            said.unlink()
        return answer

    def log_file(self, name: str) -> Any:
        """The log of `name`, opened."""
        self.log(name).parent.mkdir(exist_ok=True)
        return self.log(name).open("ab")

    def _end_stage(self, stage: subprocess.Popen[bytes]) -> None:
        assert stage.stdin is not None
        stage.stdin.close()
        try:
            stage.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            stage.terminate()
            with suppress(subprocess.TimeoutExpired):
                stage.wait(ENDING_S)
            stage.kill()
            stage.wait()

    def _end_agent(self) -> None:
        command = [sys.executable, "-m", "aiobs.cli", "agent", "--stop"]
        nowhere = subprocess.DEVNULL
        subprocess.run(command, env=self._base, stdout=nowhere, stderr=nowhere, check=False)


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _ours(name: str) -> bool:
    """Whether a variable would change how the scene records; where telemetry is sent to stays the caller's choice."""
    return name.startswith("AIOBS_") or (name.startswith("OTEL_") and not name.startswith("OTEL_EXPORTER_"))


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for first in range(18000, 28000, count):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise FaultError("inject", f"no {count} ports in a row are free between 18000 and 28000")
