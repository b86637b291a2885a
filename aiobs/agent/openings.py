"""What a process has open: spans in slots, training steps in areas, and what becomes of such a step at its death."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiobs import names
from aiobs.agent.exits import OOM_KILL, Exit
from aiobs.agent.keep import FAILED, LAST
from aiobs.agent.plans import TIME_LIMIT
from aiobs.agent.steps import Step, read_phases
from aiobs.agent.untrusted import DamagedError
from aiobs.recorder import layout
from aiobs.telemetry import SpanEvent


@dataclass(slots=True)
class Mark:
    """An open span: its slot's head and payload, undecoded."""

    slot: int
    raw: bytes


@dataclass(slots=True)
class OpenStep:
    """A training step in progress. Times in monotonic ns.

    Attributes:
        provisional_end: end of its last optimizer step, 0 where there was none.
        entries: phase id, index of the enclosing entry, thread, start, end (0: still open).
        begun: entries begun in all.
    """

    number: int
    thread: int
    start: int
    provisional_end: int
    entries: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    begun: int = 0


def read_area(raw: bytes) -> OpenStep | None:
    """The step in a step area; None where none is open.

    Raises:
        DamagedError: it cannot be one.
    """
    kind, _, _, _, _, _, _, _, thread, _, _, start, number, end, seq = layout.HEAD.unpack_from(raw)
    if seq != 1 or kind != layout.STEP:
        return None
    if max(start, end, number) >= TIME_LIMIT:
        raise DamagedError("a step out of time")
    count, _, begun = layout.STEP_COUNT.unpack_from(raw, layout.HEAD_BYTES)
    at = layout.HEAD_BYTES + layout.STEP_COUNT.size
    size = min(count, layout.AREA_ENTRIES) * layout.STEP_ENTRY.size
    return OpenStep(number, thread, start, end, list(layout.STEP_ENTRY.iter_unpack(raw[at : at + size])), begun)


def open_step(area: OpenStep, now: int, phases: Mapping[int, str]) -> Step:
    """The step in progress as it looks now (monotonic ns)."""
    now = max(now, area.start)
    return Step(area.number, area.thread, area.start, now, read_phases(area.entries, area.start, now, phases))


def split_at_death(
    area: OpenStep, died: int, ending: Exit, phases: Mapping[int, str]
) -> tuple[Step | None, Step | None]:
    """A step in progress at death: what lies before the provisional end is a finished step, the rest a truncated one.

    Args:
        died: monotonic ns.
    """
    entries, number, start, finished = area.entries, area.number, area.start, None
    split = area.provisional_end
    if split:
        done = [entry for entry in entries if entry[3] < split]
        finished = Step(
            number, area.thread, start, max(split, start), read_phases(done, start, split, phases), len(done)
        )
        entries = entries[len(done) :]
        number, start = number + 1, split
        if not entries or (ending.clean and all(entry[4] for entry in entries)):
            return finished, None
    died = max(died, start)
    first = len(area.entries) - len(entries)
    rest = Step(
        number, area.thread, start, died, read_phases(entries, start, died, phases, first), max(0, area.begun - first)
    )
    rest.truncated = True
    rest.attributes.update(exit_attributes(ending))
    rest.reason = LAST if ending.clean else FAILED
    rest.failed = not ending.clean
    rest.message = "" if ending.clean else str(ending)
    return finished, rest


def out_of_memory(ending: Exit, time_ns: int) -> SpanEvent | None:
    """That the kernel killed the process for lack of memory, as an event at `time_ns` (Unix ns); None where it did not."""
    if ending.cause != OOM_KILL:
        return None
    attributes: dict[str, Any] = {names.OOM_KIND: "cgroup" if ending.limit_bytes else "host"}
    if ending.limit_bytes:
        attributes[names.OOM_LIMIT], attributes[names.OOM_USED] = ending.limit_bytes, ending.used_bytes
        attributes[names.OOM_LIMIT_NAME] = "cgroup"
    return SpanEvent(names.EVENT_OUT_OF_MEMORY, time_ns, attributes)


def exit_attributes(ending: Exit) -> dict[str, Any]:
    """How a process ended, as attributes."""
    found: dict[str, Any] = {names.EXIT_CAUSE: ending.cause}
    if ending.code is not None:
        found[names.PROCESS_EXIT_CODE] = ending.code
    if ending.signal:
        found[names.EXIT_SIGNAL] = ending.signal
    return found
