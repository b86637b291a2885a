"""Keeps programs running: starts them, starts again what dies, ends them with itself.

A machine of the demo is one such process (this file, run by its path, so that a fault may hit it) with its programs as
children: whoever kills the tree has killed the machine. Standard library only: it must be up at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TICK_S, ENDING_S = 0.05, 5.0
_DEATH_SIGNAL = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Part:
    """One program.

    Attributes:
        env: variables on top of the keeper's own.
        again_s: started again so long after it has died.
        fate: parts with the same one die with each other, and are started again together: a missing bulkhead.
        needs: a file with a line about an interface, such as ``/proc/<pid>/net/route``, without which it is not started:
            a machine that is cut off has not come back yet.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    again_s: float = 1.0
    fate: str = ""
    needs: str = ""


class _Running:
    """A part with its process."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.due = 0.0


class Keeper:
    """See the module's text.

    Args:
        folder: for what they print (``logs``), their pids (``pids``) and what became of them (``events.jsonl``).
        ending_s: what has not ended so long after SIGTERM is killed.
    """

    def __init__(self, folder: Path, parts: Sequence[Part], ending_s: float = ENDING_S) -> None:
        self._folder, self._ending_s = folder, ending_s
        self._running = [_Running(it) for it in parts]
        for name in ("logs", "pids"):
            (folder / name).mkdir(exist_ok=True)

    def run(self, over: Callable[[], bool]) -> None:
        """Keep them until `over`, then end them."""
        try:
            while not over():
                for it in self._running:
                    self._look_after(it)
                time.sleep(TICK_S)
        finally:
            self._end([it.process for it in reversed(self._running) if it.process is not None])

    def _look_after(self, it: _Running) -> None:
        now = time.monotonic()
        if it.process is not None and it.process.poll() is not None:
            self._say(it, "ended", code=it.process.returncode)
            it.process, it.due = None, now + it.part.again_s
            for other in self._running:
                if it.part.fate and other.part.fate == it.part.fate and other.process is not None:
                    other.process.kill()
        if it.process is None and now >= it.due and _there(it.part.needs):
            self._start(it)

    def _start(self, it: _Running) -> None:
        environment = {**os.environ, **it.part.env, "TORCHELASTIC_RESTART_COUNT": str(it.starts)}
        with open(self._folder / "logs" / f"{it.part.name}.log", "ab") as log:
            it.process = subprocess.Popen(
                it.part.argv, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, preexec_fn=_end_with_us
            )  # fmt: skip
        it.starts += 1
        pidfile = self._folder / "pids" / f"{it.part.name}.pid"
        fresh = pidfile.with_suffix(".new")
        fresh.write_text(str(it.process.pid), "utf-8")
        fresh.replace(pidfile)
        self._say(it, "started", pid=it.process.pid, start=it.starts)

    def _end(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for it in processes:
            it.terminate()
        deadline = time.monotonic() + self._ending_s
        for it in processes:
            try:
                it.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                it.kill()
                it.wait()

    def _say(self, it: _Running, what: str, **told: Any) -> None:
        line = json.dumps({"at": time.time(), "part": it.part.name, "is": what, **told}) + "\n"
        with open(self._folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(line)


def _there(needs: str) -> bool:
    """Whether the interface's network is in the table of routes: it goes when the link does."""
    try:
        return not needs or len(Path(needs).read_text("utf-8").splitlines()) > 1
    except OSError:
        return False


def _end_with_us() -> None:
    """In the child: be killed when the keeper is, however that ends."""
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)


def written(path: Path, folder: Path, parts: Sequence[Part]) -> list[str]:
    """Write down what a keeper shall keep; returns the command line that runs it."""
    path.write_text(json.dumps({"folder": str(folder), "parts": [asdict(it) for it in parts]}), "utf-8")
    return [sys.executable, str(Path(__file__).resolve()), str(path)]


def main() -> int:
    """Be a keeper until SIGTERM."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    values = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Keeper(Path(values["folder"]), [Part(**it) for it in values["parts"]]).run(lambda: bool(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
