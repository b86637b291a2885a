"""Kill a process and whatever takes its place, again and again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.workers.life import Worker


def _line(process: ProcessIdentity) -> bytes:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""


def main() -> None:
    """Kill until asked to end."""
    worker = Worker()
    first = ProcessIdentity(worker.arguments["pid"], worker.arguments["start"])
    parent, line = first.parent(), _line(first)
    supervisor = ProcessIdentity.of(parent)
    worker.say()
    killed = 0
    while not worker.ended and supervisor.is_alive():
        began = time.monotonic()
        for process in all_processes():
            if process.parent() == parent and _line(process) == line and process.send(signal.SIGKILL):
                killed += 1
                worker.say(f"killed {killed} times", killed=killed)
        while not worker.ended and time.monotonic() - began < worker.arguments["every_s"]:
            time.sleep(0.01)


if __name__ == "__main__":
    main()
