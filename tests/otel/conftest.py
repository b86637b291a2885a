"""Scripts that use OpenTelemetry and aiobs in a process of their own, and what their flight records hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.decode import Decoder, Found
from aiobs.agent.reader import FlightReader
from aiobs.recorder import layout

PRELUDE = """
import json, os, sys
from pathlib import Path
from aiobs import otel, recorder
from aiobs.settings import Settings
from aiobs.telemetry import Route

def begin():
    recorder.start(Settings(), {}, Route(run_id="run-1"), Path(os.environ["RECORDS"]))
    otel.install(Settings())

def say(**facts):
    print(json.dumps(facts))
"""


@dataclass
class Recorded:
    """A span of a flight record, finished or (`open`) not; ids as hex, `parent` "" for a root, times Unix ns."""

    name: str
    trace: str
    span: str
    parent: str
    start: int
    end: int
    kind: int
    scope: str
    version: str
    attributes: dict[str, Any]
    in_step: bool = False
    open: bool = False
    status: int = 0
    message: str = ""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    state: str = ""


@dataclass
class Ran:
    """What a script said (its JSON lines), how it ended, and what it recorded."""

    code: int
    said: list[dict[str, Any]]
    stderr: str
    spans: list[Recorded]

    def span(self, name: str) -> Recorded:
        """The one span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., Ran]:
    """Run a script after :data:`PRELUDE` and read its flight records."""

    def run(script: str, *, code: int = 0, environment: dict[str, str] | None = None) -> Ran:
        records = tmp_path / f"records-{len(list(tmp_path.iterdir()))}"
        records.mkdir()
        ended = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "RECORDS": str(records), **(environment or {})},
        )
        assert ended.returncode == code, ended.stderr
        said = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
        return Ran(ended.returncode, said, ended.stderr, read_spans(records))

    return run


def read_spans(records: Path) -> list[Recorded]:
    """Every span of the flight records in that folder."""
    return [span for path in sorted(records.glob("*" + layout.SUFFIX)) for span in _read_one(path)]


def _read_one(path: Path) -> list[Recorded]:
    reader = FlightReader(path)
    offset = reader.wall_offset
    decoder = Decoder(reader.table, offset, 0)
    found: list[Found] = []
    while (cells := reader.read(final=True)) is not None:
        for at in range(0, len(cells.little), layout.CELL_BYTES):
            if cells.little[at] != layout.PART:
                one = decoder.whole(cells.little, at, cells.payloads.get(at))
                assert one is not None, "a damaged record"
                found.append(one)
    spans = [_of_found(one, offset, open_=False) for one in found if one.kind == layout.SPAN]
    for event in (one for one in found if one.kind == layout.EVENT):
        for span in spans:
            if span.span == event.span.hex():
                span.events.append((event.shape.name, event.all_attributes()))
    for mark in reader.open_slots():
        whole = decoder.whole(mark.raw, mark=True)
        assert whole is not None
        spans.append(_of_found(whole, offset, open_=True))
    reader.close()
    return spans


def _of_found(one: Found, offset: int, *, open_: bool) -> Recorded:
    extra = one.extra
    attributes = {**one.all_attributes(), **(extra.attributes if extra else {})}
    attributes.pop("thread.id", None)
    recorded = Recorded(
        one.shape.name,
        one.trace.hex(),
        one.span.hex(),
        one.parent.hex(),
        one.start + offset,
        one.end + offset,
        one.shape.kind,
        one.shape.scope,
        one.shape.version,
        attributes,
        bool(one.flags & layout.FLAG_IN_STEP),
        open_,
    )
    if extra is not None:
        recorded.status, recorded.message, recorded.state = extra.status, extra.message, extra.trace_state
        recorded.events = [(event.name, dict(event.attributes)) for event in extra.events]
        recorded.links = [(link.trace_id.hex(), link.span_id.hex()) for link in extra.links]
    return recorded
