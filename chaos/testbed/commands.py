"""What was started in a node, on disk, so that it can be started again once the node is back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.testbed.record import BedRecord

INSTEAD_OF = "AIOBS_TESTBED_INSTEAD_OF"
"""Variable of what was started again: which process it stands for."""
_IN_BACKGROUND = 'out=$1 err=$2; shift 2; setsid sh -c "$@" <&0 >>"$out" 2>>"$err" & echo $!'
_WITH_CODE = '"$@"; code=$?; echo $code > "$0"; exit $code'


@dataclass(frozen=True)
class Command:
    """One program that was started.

    Attributes:
        argv, folder, env: program and arguments, working directory, environment.
        instead_of: ``<pid>/<start>`` of the one it stands for, "" where it was the first.
    """

    pid: int
    start: int
    argv: tuple[str, ...]
    folder: str
    env: Mapping[str, str]
    instead_of: str = ""

    def process(self) -> ProcessIdentity:
        """Its process."""
        return ProcessIdentity(self.pid, self.start)

    @property
    def key(self) -> str:
        """By which a successor names it."""
        return f"{self.pid}/{self.start}"


def note(
    bed: BedRecord, node: str, pid: int, argv: Sequence[str], folder: str, env: Mapping[str, str], instead_of: str = ""
) -> None:
    """Write down what was started."""
    try:
        start = ProcessIdentity.of(pid).start
    except ProcessLookupError:
        if not instead_of:
            return  # it has ended
        start = 0
    noted = Command(pid, start, tuple(argv), folder, dict(env), instead_of)
    descriptor = os.open(_path(bed, node), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(noted)) + "\n")


def commands(bed: BedRecord, node: str) -> list[Command]:
    """All that was started in a node, in order."""
    try:
        lines = _path(bed, node).read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            told: dict[str, Any] = json.loads(line)
            told["argv"] = tuple(told["argv"])
            found.append(Command(**told))
        except (ValueError, TypeError):
            continue  # its writer was killed
    return found


def running(bed: BedRecord, node: str) -> list[Command]:
    """Those that still run."""
    return [it for it in commands(bed, node) if it.process().is_alive()]


def start_again(bed: BedRecord, node: str, lost: Command, argv: Sequence[str], outputs: Sequence[str]) -> None:
    """Start what was lost once more, and note it. It is nobody's child: whoever undoes a fault may go on for long.

    Args:
        argv: the command line that runs it in the node.
        outputs: files for what it says, standard output and error. Raises OSError.
    """
    for path in outputs:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600))
    done = subprocess.run(
        ["sh", "-c", _IN_BACKGROUND, "sh", *outputs, _WITH_CODE, _code_path(bed, lost.key), *argv],
        env={**lost.env, INSTEAD_OF: lost.key}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    note(bed, node, int(done.stdout), lost.argv, lost.folder, lost.env, lost.key)


def successor(bed: BedRecord, node: str, key: str) -> Command | None:
    """What was started instead of that one, None where nothing was."""
    return next((it for it in commands(bed, node) if it.instead_of == key), None)


def code_of(bed: BedRecord, command: Command) -> int | None:
    """Exit code of one that was started again, None where it has none: it runs, or was killed."""
    try:
        return int(Path(_code_path(bed, command.instead_of)).read_text())
    except (OSError, ValueError):
        return None


def _path(bed: BedRecord, node: str) -> Path:
    return Path(bed.folder) / f"commands-{node}.jsonl"


def _code_path(bed: BedRecord, key: str) -> str:
    return str(Path(bed.folder) / f"code-{key.replace('/', '-')}")
