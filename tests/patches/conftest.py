"""A recorder with the patches in force, and what it recorded, read back from the flight record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches, recorder
from aiobs.agent.decode import Decoder, Found
from aiobs.agent.reader import FlightReader
from aiobs.agent.steps import Step, parse_step
from aiobs.recorder import layout
from aiobs.settings import Settings
from aiobs.telemetry import Route


@dataclass
class Seen:
    """What a flight record holds: finished steps, spans by name, the last resource, steps still open."""

    steps: list[Step] = field(default_factory=list)
    spans: list[Found] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    route: Route | None = None
    open_steps: int = 0

    def named(self, name: str) -> list[Found]:
        return [span for span in self.spans if span.shape.name == name]

    def phases(self) -> list[list[str]]:
        """Names of the top-level phases of each step."""
        return [[phase.name for phase in step.phases if phase.parent < 0] for step in self.steps]


def read_record(path: Path) -> Seen:
    reader = FlightReader(path)
    seen = Seen()
    try:
        decoder = Decoder(reader.table, 0, reader.pid, special={"evaluate", "checkpoint save", "checkpoint load", "checkpoint write", "compile", "distributed init"})  # fmt: skip
        found: list[Found] = []
        while (cells := reader.read(final=True)) is not None:
            decoder.decode(cells, [], found.append)
        for it in found:
            if it.kind == layout.STEP:
                seen.steps.append(parse_step(it.aux, it.thread, it.start, it.end, it.flags, it.payload, reader.table.phases))
            elif it.kind == layout.SPAN:
                seen.spans.append(it)
        assert decoder.damaged == 0
        assert reader.counters()["faults"] == 0
        seen.resource = dict(reader.resource.attributes)
        seen.route = reader.route
        seen.open_steps = len(reader.open_steps())
    finally:
        reader.close()
    return seen


class Recording:
    """A flight record being written in this process."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory, self._settings = directory, settings
        directory.mkdir(exist_ok=True)
        recorder.start(settings, {"service.name": "unnamed"}, Route(run_id="run"), directory)
        patches.install_all(settings)

    def finish(self) -> Seen:
        patches.remove_all()
        recorder.stop(0)
        (path,) = self._directory.glob("*" + layout.SUFFIX)
        return read_record(path)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    """Starts a recording: ``record()``; its ``finish()`` gives what was seen."""
    begun: list[Recording] = []

    def begin(**settings: Any) -> Recording:
        begun.append(Recording(tmp_path / f"records-{len(begun)}", Settings(**settings)))
        return begun[-1]

    yield begin
    patches.remove_all()
    recorder.stop(0)


def pause(seconds: float) -> None:
    """Take at least `seconds`, and not much longer."""
    time.sleep(seconds)
