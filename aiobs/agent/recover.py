"""Waiting until all is exported: for ``aiobs recover`` after a crash, and for the launcher at the end of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiobs.agent.election import is_led
from aiobs.agent.loop import Agent
from aiobs.agent.reader import FlightReader
from aiobs.agent.records import RecordFolder
from aiobs.agent.selfstats import read_status
from aiobs.agent.service import serve
from aiobs.agent.start import ensure_agent
from aiobs.agent.version import installed_version
from aiobs.errors import RecordError
from aiobs.settings import Settings

POLL_S = 0.02


@dataclass(frozen=True)
class Report:
    """What :func:`recover` did.

    Attributes:
        records: flight records there were. `left`: still there (their process lives, or no exporter works).
        waiting: items left in the spool. `damaged`: names of records that cannot be read.
        problems: what stands in the way, one sentence each.
    """

    records: int
    left: int
    waiting: int
    damaged: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def recover(runtime_dir: Path, settings: Settings, timeout_s: float = 60.0) -> Report:
    """Drain everything that was left behind in `runtime_dir`: by an agent at work, else right here.

    Raises:
        OSError: the folder cannot be used.
    """
    deadline = time.monotonic() + timeout_s
    folder = RecordFolder(runtime_dir / "records")
    before = folder.look()

    def make() -> Agent:
        agent = Agent(
            runtime_dir, spool_bytes=settings.spool_bytes, version=installed_version(),
            settings=replace(settings, devices="off"),  # what the GPUs did then cannot be read now
        )  # fmt: skip
        agent.hurry()
        return agent

    if not serve(make, runtime_dir, linger_s=0.0, stopping=lambda: time.monotonic() >= deadline, patience_s=timeout_s):
        while time.monotonic() < deadline and _in_work(read_status(runtime_dir)):
            time.sleep(POLL_S)
    status = read_status(runtime_dir)
    routes = [*status.get("routes", []), *status.get("ended", [])]
    problems = [text for route in routes for text in route.get("problems", {}).values()]
    problems += [
        f"{name}: {outlet['last_error']}"
        for route in routes
        for name, outlet in route.get("exporters", {}).items()
        if outlet.get("last_error")
    ]
    return Report(
        len(before),
        len(folder.look()),
        _waiting(status),
        tuple(status.get("damaged", ())),
        tuple(dict.fromkeys(problems)),
    )


def wait_done(
    runtime_dir: Path, run_id: str, timeout_s: float, *, settings: Settings | None = None, remote_s: float = 5.0
) -> bool:
    """Wait until a run is exported: none of its flight records is left, its local exporters have finished.

    Args:
        runtime_dir, run_id: the run.
        timeout_s: seconds to wait at most.
        settings: given, an agent is started again should it have died.
        remote_s: of these, seconds to wait for receivers; not at all for one that does not answer.
    """
    deadline = time.monotonic() + timeout_s
    folder = runtime_dir / "records"
    looked_at = 0.0
    while _records_of(folder, run_id):
        if time.monotonic() >= deadline:
            return False
        if settings is not None and time.monotonic() - looked_at > 0.5:
            looked_at = time.monotonic()
            if not is_led(runtime_dir):
                ensure_agent(settings, runtime_dir)
        time.sleep(POLL_S)
    deadline = min(deadline, time.monotonic() + remote_s)
    while time.monotonic() < deadline and _sending(read_status(runtime_dir), run_id):
        time.sleep(POLL_S)
    return True


def _records_of(folder: Path, run_id: str) -> bool:
    for path in RecordFolder(folder).look():
        try:
            reader = FlightReader(path)
        except RecordError:
            continue
        try:
            if reader.route.run_id == run_id:
                return True
        finally:
            reader.close()
    return False


def _sending(status: dict[str, Any], run_id: str) -> bool:
    return any(
        outlet.get("waiting") and not outlet.get("last_error")
        for route in status.get("routes", [])
        if route.get("run_id") == run_id
        for outlet in route.get("exporters", {}).values()
    )


def _waiting(status: dict[str, Any]) -> int:
    return sum(
        outlet.get("waiting", 0) for route in status.get("routes", []) for outlet in route.get("exporters", {}).values()
    )


def _in_work(status: dict[str, Any]) -> bool:
    return bool(status.get("adopted")) or bool(_waiting(status))
