"""What is in the runtime directory: records left behind, a backlog, the agent and its last words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiobs.agent.election import is_led
from aiobs.agent.reader import FlightReader
from aiobs.agent.records import DAMAGED, RecordFolder
from aiobs.agent.selfstats import read_status
from aiobs.cli.agent import leader
from aiobs.cli.figures import count, size
from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.errors import RecordError
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings

LOG_LINES = 3


def check_runtime(settings: Settings) -> Iterator[Finding]:
    """The runtime directory: usable? what is left in it? does an agent run?"""
    try:
        directory = runtime_dir(settings)
    except RecordError as error:
        yield Finding("runtime", PROBLEM, f"nothing can be recorded: {error}", "see the message")
        return
    alive, left = _records(directory)
    led = is_led(directory)
    status = read_status(directory)
    free = shutil.disk_usage(directory).free
    yield Finding(
        "runtime",
        OK if free > settings.ring_bytes * 4 else PROBLEM,
        f"{directory}, {size(free)} free",
        "" if free > settings.ring_bytes * 4 else "make room: flight records need it",
    )
    agent = (
        f"an agent runs (pid {leader(directory).get('pid', '?')})"
        if led
        else "no agent runs; one starts with the next recorded process"
    )
    yield Finding("agent", OK, agent, facts={"running": led, "leader": leader(directory), "status": status})
    if settings.agent == "off" and not led:
        yield Finding(
            "agent",
            PROBLEM,
            "AIOBS_AGENT=off and no agent runs: what is recorded stays in the runtime directory",
            "run `aiobs agent`, or unset AIOBS_AGENT",
        )
    if alive:
        yield Finding("runtime", OK, f"{count(alive, 'process', 'processes')} recording now")
    if left:
        yield Finding(
            "runtime",
            OK if led else PROBLEM,
            f"{count(left, 'flight record')} of ended processes wait to be exported",
            "" if led else "aiobs recover",
        )
    damaged = [path.name for path in (directory / "records" / DAMAGED).glob("*")]
    if damaged:
        yield Finding(
            "runtime",
            NOTE,
            f"{count(len(damaged), 'damaged flight record')} set aside in {directory / 'records' / DAMAGED}",
            "delete them when you do not need them",
        )
    yield from _backlog(directory, led=led)
    yield from _last_words(directory, status)


def _records(directory: Path) -> tuple[int, int]:
    alive = left = 0
    for path in RecordFolder(directory / "records").look():
        try:
            reader = FlightReader(path)
        except RecordError:
            continue
        if reader.alive():
            alive += 1
        else:
            left += 1
        reader.close()
    return alive, left


def _backlog(directory: Path, *, led: bool) -> Iterator[Finding]:
    bodies = [path.stat().st_size for path in (directory / "spool").rglob("*.body") if path.is_file()]
    if bodies:
        text = f"{count(len(bodies), 'request')} ({size(sum(bodies))}) wait in the spool for an endpoint that does not take them"
        yield Finding(
            "spool", NOTE if led else PROBLEM, text, "" if led else "aiobs recover, once the endpoint answers"
        )


def _last_words(directory: Path, status: dict[str, Any]) -> Iterator[Finding]:
    for route in status.get("routes", ()):
        for name, problem in route.get("problems", {}).items():
            yield Finding(
                "agent",
                PROBLEM,
                f"exporter {name} of run {route.get('run_id')}: {problem}",
                "correct the setting it names",
            )
        for name, outlet in route.get("exporters", {}).items():
            if outlet.get("last_error"):
                yield Finding(
                    "agent",
                    PROBLEM,
                    f"exporter {name} of run {route.get('run_id')}: {outlet['last_error']}",
                    "see the endpoint's findings",
                )
        if route.get("lost"):
            yield Finding(
                "agent",
                NOTE,
                f"run {route.get('run_id')} lost {count(route['lost'], 'record')}: the ring was overwritten before the agent read it",
                "raise AIOBS_RING_BYTES",
            )
    try:
        lines = (directory / "agent" / "log").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines[-LOG_LINES:]:
        yield Finding("agent", NOTE, f"its log says: {line}")
