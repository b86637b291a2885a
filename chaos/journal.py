"""The undo journal of a session: written and synced before each act, read by whoever has to undo it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobs.errors import FaultError, PlanError

from .identity import boot_id
from .operation import Before, Operation, build_operation, to_data

NAME = "journal.jsonl"
_BY_HAND = "look what of it still stands, undo that by hand, and delete {}"


class Journal:
    """Appends; every line is on disk when a method returns."""

    def __init__(self, session: Path) -> None:
        """Begin or continue the journal of `session`. Raises FaultError where the disk does not take it."""
        self._path = session / NAME
        fresh = not self._path.exists()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if not fresh:
            self._end_line()
        else:
            self._write({"what": "begin", "boot": boot_id()})
            folder = os.open(session, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _end_line(self) -> None:
        """Take off what a death left of a line: it was never acted upon, and would spoil the next one."""
        content = self._path.read_bytes()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def _write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps({"at": time.time_ns(), **line}).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, size)  # half a line would spoil the next one
            raise FaultError(
                "inject", f"{self._path} cannot be written ({error}); nothing is injected that could not be undone"
            ) from error

    def plan(self, injection: str, plan: Mapping[str, Any]) -> None:
        """An injection is about to begin."""
        self._write({"what": "plan", "injection": injection, "plan": plan})

    def about_to(self, injection: str, index: int, operation: Operation, before: Before) -> None:
        """An operation is about to act."""
        self._write({
            "what": "operation", "injection": injection, "index": index, "operation": to_data(operation),
            "before": dict(before),
        })  # fmt: skip

    def undone(self, injection: str, index: int) -> None:
        """An operation has been seen to be undone."""
        self._write({"what": "undone", "injection": injection, "index": index})

    def close(self) -> None:
        """No more to come."""
        os.close(self._descriptor)


@dataclass
class Standing:
    """An operation that may have acted and has not been seen to be undone."""

    injection: str
    index: int
    operation: Operation
    before: Before


@dataclass
class Account:
    """What a journal says.

    Attributes:
        boot: the boot it was written in.
        plans: the plans by injection.
        standing: what is to be undone, in the order it was done.
        unreadable: lines that this version cannot read.
    """

    boot: str = ""
    plans: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    standing: list[Standing] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read_journal(session: Path) -> Account:
    """Read the journal of a session. A last line that was cut short by a death was never acted upon; any other that
    cannot be read may have been, and is said."""
    found = Account()
    standing: dict[tuple[str, int], Standing] = {}
    path = session / NAME
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return found
    except OSError as error:
        found.unreadable.append(f"{path}: {error.strerror}; {_BY_HAND.format(session)}")
        return found
    for number, raw in enumerate(lines, 1):
        try:
            _take(json.loads(raw), found, standing)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            found.unreadable.append(f"line {number} of {path} ({error!r}); {_BY_HAND.format(session)}")
    found.standing = list(standing.values())
    if found.boot and found.boot != boot_id():
        found.standing = [it for it in found.standing if it.operation.lasting]
    return found


def _take(line: Mapping[str, Any], found: Account, standing: dict[tuple[str, int], Standing]) -> None:
    """What one line says. Raises ValueError, LookupError, TypeError, AttributeError: it is no line of a journal."""
    what = line["what"]
    if what == "begin":
        found.boot = line["boot"]
    elif what == "plan":
        found.plans[line["injection"]] = line["plan"]
    elif what == "operation":
        key = line["injection"], line["index"]
        try:
            standing[key] = Standing(*key, build_operation(line["operation"]), line["before"])
        except PlanError as error:  # one line of another version must not keep the others from being undone
            found.unreadable.append(f"{line['operation']}: {error}")
    elif what == "undone":
        standing.pop((line["injection"], line["index"]), None)
