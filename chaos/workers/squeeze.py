"""Lower the data limit of processes, from what they may have down to what they used when the fault was planned."""

from __future__ import annotations

import resource
import time

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.workers.life import Worker

_TICK_S = 0.02


def main() -> None:
    """Lower until asked to end; whoever started this puts the limits back."""
    worker = Worker()
    told = worker.arguments
    processes = [ProcessIdentity(*it) for it in zip(told["pids"], told["starts"], strict=True)]
    worker.say()
    began = time.monotonic()
    gone = -1
    while not worker.ended:
        due = min(told["bytes"], int(told["bytes"] * (time.monotonic() - began) / told["seconds"]))
        if due != gone:
            for process, used in zip(processes, told["used"], strict=True):
                _lower(process, used + told["bytes"] - due)
            gone = due
            worker.say(f"RLIMIT_DATA has fallen by {gone} bytes" if gone else "", bytes=gone)
        time.sleep(_TICK_S)


def _lower(process: ProcessIdentity, limit: int) -> None:
    if not process.is_alive():
        return
    try:
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_DATA)
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, hard))
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
