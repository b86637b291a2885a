"""Experiments to be killed: for each line on stdin a fork that injects, holds, and says into a file how far it got.

Forks, as starting Python and importing for each of a thousand trials would take most of their time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from aiobs import chaos
from aiobs.errors import AiobsError, FaultError


def run(told: dict[str, Any]) -> None:
    """Inject what was told, hold it for its duration, undo it."""
    os.environ.update(told["environment"])
    with open(told["says"], "w", buffering=1, encoding="utf-8") as said:
        try:
            with chaos.inject(
                told["fault"], told["target"], duration_s=told["hold_s"], effect_s=told["effect_s"],
                **told["parameters"],
            ) as injection:  # fmt: skip
                said.write("held\n")
                injection.wait(told["hold_s"] + 2)
            said.write("over\n")
        except AiobsError as error:
            said.write(f"{'invalid' if isinstance(error, FaultError) else 'refused'} {error}\n")


def main() -> None:
    """Fork for each line; the answer is the pid."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                run(json.loads(line))
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
