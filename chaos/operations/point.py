"""Points armed in running processes, through the control word of their flight records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.operation import Before, Operation
from aiobs.chaos.points.answer import Answered, make_answer, read_answer
from aiobs.chaos.points.files import ANSWER, ARMED, Order, folder_of, path_of, tell, write_order
from aiobs.chaos.record import context_of
from aiobs.clock import monotonic_ns
from aiobs.errors import PlanError, RecordError
from aiobs.recorder import layout as at
from aiobs.recorder.location import private_folder

_MAPPED = re.compile(r" (/\S*\.fr)$", re.MULTILINE)
MARGIN_S = 0.5
"""How long after its planned end a point ends by itself, should nobody be left to disarm it."""


def record_of(process: ProcessIdentity) -> Path | None:
    """The flight record that a process writes, None where it has none or may not be looked at."""
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8", "replace")
    except OSError:
        return None
    for name in dict.fromkeys(_MAPPED.findall(maps)):
        path = Path(name)
        try:
            with open(path, "rb") as file:
                head = at.IDENTITY.unpack(file.read(at.IDENTITY.size))
            owner = path.stat().st_uid
        except OSError:
            continue
        # The pid in it is that of the process' own pid namespace; its start is the same everywhere.
        if head[0] == at.MAGIC and head[1] == at.VERSION and head[4] == process.start and owner == process.user():
            return path
    return None


def looks_for_functions(record: Path) -> bool:
    """Whether the process has a thread that arms functions unasked."""
    with open(record, "rb") as file:
        file.seek(at.POINTS_WATCHED)
        return file.read(1) == b"\x01"


@dataclass(frozen=True)
class Arm(Operation):
    """Arm a point in every one of these processes that records; hit in any of them, it has acted.

    Attributes:
        injection: the injection's id; `fault`: its kind.
        pids, starts: the processes.
        until_s: how long it may take until it is seen to act; it ends by itself soon after.
        point, what, seed, only, key, run: see :class:`aiobs.chaos.points.files.Order`.
    """

    kind = "point.arm"
    lasting = True

    injection: str
    fault: str
    pids: tuple[int, ...]
    starts: tuple[int, ...]
    until_s: float
    point: str
    what: str
    seed: str
    only: str = ""
    key: str = ""
    run: str = ""

    def describe(self) -> str:
        where = f"{self.point} := {self.what}" + (f" for requests signed for {self.run}" if self.only else "")
        notes = {note for record in self._records() if (note := self._answer(record).note)}
        return f"arm {where} in pid {', '.join(map(str, self.pids))}" + "".join(f" ({it})" for it in sorted(notes))

    def describe_undo(self) -> str:
        return f"disarm {self.point} in pid {', '.join(map(str, self.pids))}"

    def _records(self) -> Iterator[Path]:
        for pid, start in zip(self.pids, self.starts, strict=True):
            record = record_of(ProcessIdentity(pid, start))
            if record is not None:
                yield record

    def _answer(self, record: Path) -> Answered:
        return read_answer(path_of(record, self.injection, ANSWER))

    def before(self) -> Before:
        records = []
        for record in self._records():
            owner = record.stat()
            folder = folder_of(record)
            try:
                if not folder.exists():
                    folder.mkdir(mode=0o700)
                    os.chown(folder, owner.st_uid, owner.st_gid)
                if os.geteuid() == owner.st_uid:
                    private_folder(folder)
            except (OSError, RecordError) as error:
                raise PlanError("target", str(folder), f"cannot be used: {error}") from None
            records.append([str(record), owner.st_uid, owner.st_gid])
        if not records:
            raise PlanError("target", f"pid {self.pids}", "none of these processes records; start it with  aiobs run")
        return {"records": records}

    def _order(self, seconds: float) -> Order:
        context = context_of(self.injection)
        return Order(
            self.injection, self.fault, self.point, self.what, self.seed,
            monotonic_ns() + int((seconds + MARGIN_S) * 1e9), self.only, self.key, self.run,
            context.trace_id.hex() if context else "", context.span_id.hex() if context else "",
        )  # fmt: skip

    def act(self, before: Before) -> None:
        for name, user, group in before["records"]:
            make_answer(path_of(Path(name), self.injection, ANSWER), user, group)
        self._write(before, self.until_s)

    def _write(self, before: Before, seconds: float) -> None:
        order = self._order(seconds)
        for name, user, group in before["records"]:
            record = Path(name)
            if record.exists():
                write_order(path_of(record, self.injection, ARMED), order, user, group)
                tell(record)

    def effective(self, before: Before) -> str:
        found = [(name, read_answer(path_of(Path(name), self.injection, ANSWER))) for name, _, _ in before["records"]]
        return "; ".join(
            f"{self.point} acted at {it.acted} of {it.reached} hits in process {Path(name).stem.partition('-')[0]}"
            for name, it in found
            if it.acted
        )

    def renew(self, before: Before, seconds: float) -> None:
        self._write(before, seconds)

    def undo(self, before: Before) -> None:
        for name, _, _ in before["records"]:
            record = Path(name)
            path_of(record, self.injection, ARMED).unlink(missing_ok=True)
            path_of(record, self.injection, ARMED).with_suffix(".new").unlink(missing_ok=True)
            if record.exists():
                tell(record)
            if not self._held(record):
                path_of(record, self.injection, ANSWER).unlink(missing_ok=True)

    def _held(self, record: Path) -> int:
        """Calls that are held in it still; those of a process that is gone are gone too."""
        pid, start, _ = record.stem.split("-")
        alive = any(
            it.is_alive()
            for it in map(ProcessIdentity, self.pids, self.starts)
            if it.start == int(start) and (it.pid == int(pid) or it.is_alive())
        )
        return self._answer(record).inside if alive else 0

    def residue(self, before: Before) -> str:
        for name, _, _ in before["records"]:
            record = Path(name)
            if path_of(record, self.injection, ARMED).exists():
                return f"{self.point} is still armed in process {record.stem}"
            if held := self._held(record):
                return f"{held} calls are still held at {self.point} in process {record.stem}"
        return ""
