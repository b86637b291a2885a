"""Stop and continue processes in turns, so that they run a given share of the time."""

from __future__ import annotations

import signal
import time

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.workers.life import Worker


def main() -> None:
    """Run until asked to end; the processes are running then."""
    worker = Worker()
    told = worker.arguments
    processes = [ProcessIdentity(pid, start) for pid, start in zip(told["pids"], told["starts"], strict=True)]
    running_s = told["share"] * told["period_s"]
    worker.say()
    turn, due = 0, time.monotonic()
    while not worker.ended:
        for process in processes:
            process.send(signal.SIGSTOP)
        due += told["period_s"] - running_s
        time.sleep(max(0.0, due - time.monotonic()))
        for process in processes:
            process.send(signal.SIGCONT)
        due += running_s
        time.sleep(max(0.0, due - time.monotonic()))
        turn += 1
        if turn in (1, 10) or turn % 100 == 0:
            worker.say(f"{len(processes)} processes stopped and continued {turn} times")
        due = max(due, time.monotonic() - told["period_s"])


if __name__ == "__main__":
    main()
