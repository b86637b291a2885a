"""Notes of faults in force: how the agent learns what was done to whom, so that the spans it hit point to the fault.

Whoever injects writes ``<runtime>/faults/<id>.json`` before it acts and again when the fault has been undone; the
agent reads the folder. Neither needs the other.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "faults"
KEPT_NS = 60_000_000_000
"""A note is of use so long after the fault's end: spans that it hit may still be under way to the agent."""


@dataclass(frozen=True)
class FaultNote:
    """One fault. Times in monotonic ns.

    Attributes:
        fault: its id. `kind`: such as ``network.latency``.
        trace, span: hex ids of its span.
        processes: pid and start time (clock ticks since boot) of what it was aimed at.
        holder: the same of who holds it; a fault whose holder is gone is over.
        end_ns: 0 while it is in force.
    """

    fault: str
    kind: str
    trace: str
    span: str
    processes: tuple[tuple[int, int], ...]
    holder: tuple[int, int]
    begin_ns: int
    end_ns: int = 0


def write_note(runtime: Path, note: FaultNote) -> None:
    """Write or replace the note of a fault. Raises OSError."""
    folder = runtime / FOLDER
    fresh = folder / f".{note.fault}.new"
    fresh.write_text(json.dumps(asdict(note)), "utf-8")
    os.replace(fresh, folder / f"{note.fault}.json")


def read_notes(runtime: Path) -> list[FaultNote]:
    """Every note there is; what cannot be read is left out."""
    found = []
    try:
        paths = list((runtime / FOLDER).glob("*.json"))
    except OSError:
        return []
    for path in paths:
        try:
            told = json.loads(path.read_bytes())
            told["processes"] = tuple((int(pid), int(start)) for pid, start in told["processes"])
            told["holder"] = (int(told["holder"][0]), int(told["holder"][1]))
            found.append(FaultNote(**told))
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            continue
    return found


def remove_note(runtime: Path, fault: str) -> None:
    """Take a note away."""
    (runtime / FOLDER / f"{fault}.json").unlink(missing_ok=True)
