"""What became of each Python under ``aiobs run``, for the end of the run and for ``aiobs doctor``."""

from __future__ import annotations

import os
import sys

from aiobs.activation import LOG_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing and dataclasses cost more than all of this
    from collections.abc import Iterator


def note(outcome: str) -> None:
    """Append this process and its `outcome` to the log that the environment names; silent where it cannot."""
    path = os.environ.get(LOG_VARIABLE)
    if not path:
        return
    line = f"{os.getpid()}\t{sys.executable}\t{' '.join(outcome.split())[:500]}\n"
    try:
        # One write of a short line in append mode: lines of many processes never mix.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode("utf-8", "replace"))
        finally:
            os.close(descriptor)
    except OSError:
        pass


def read_notes(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """The (pid, executable, outcome) of each line, in order; nothing where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            for line in log:
                pid, _, rest = line.rstrip("\n").partition("\t")
                executable, _, outcome = rest.partition("\t")
                if pid.isdigit():
                    yield int(pid), executable, outcome
    except OSError:
        return
