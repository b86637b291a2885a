"""The undo journal of a session: written and synced before each act, read by whoever has to undo it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobs.errors import FaultError

from .identity import boot_id
from .operation import Before, Operation, build_operation, to_data

NAME = "journal.jsonl"


class Journal:
    """Appends; every line is on disk when a method returns."""

    def __init__(self, session: Path) -> None:
        """Begin or continue the journal of `session`. Raises FaultError where the disk does not take it."""
        self._path = session / NAME
        fresh = not self._path.exists()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if fresh:
            self._write({"what": "begin", "boot": boot_id()})
            folder = os.open(session, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps({"at": time.time_ns(), **line}).encode() + b"\n"
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError("no space left")
            os.fsync(self._descriptor)
        except OSError as error:
            # A half-written line is skipped by readers once another newline ends it.
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
    """Read the journal of a session; lines cut short by a full disk or a death were never acted upon."""
    found = Account()
    standing: dict[tuple[str, int], Standing] = {}
    try:
        lines = (session / NAME).read_bytes().split(b"\n")
    except OSError:
        return found
    for raw in lines:
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        what = line.get("what")
        if what == "begin":
            found.boot = line["boot"]
        elif what == "plan":
            found.plans[line["injection"]] = line["plan"]
        elif what == "operation":
            key = line["injection"], line["index"]
            try:
                standing[key] = Standing(*key, build_operation(line["operation"]), line["before"])
            except Exception as error:  # noqa: BLE001 - one line of another version must not keep the others from being undone
                found.unreadable.append(f"{line['operation']}: {error}")
        elif what == "undone":
            standing.pop((line["injection"], line["index"]), None)
    found.standing = list(standing.values())
    if found.boot != boot_id():
        found.standing = [it for it in found.standing if it.operation.lasting]
    return found
