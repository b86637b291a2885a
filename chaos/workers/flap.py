"""Take an interface down and up in turns."""

from __future__ import annotations

import subprocess
import time

from aiobs.chaos.workers.life import Worker


def main() -> None:
    """Run until asked to end; whoever started this sees to it that the interface is up then."""
    worker = Worker()
    told = worker.arguments
    worker.say()
    times = 0
    while not worker.ended:
        for state, seconds in (("down", told["down_s"]), ("up", told["up_s"])):
            subprocess.run(["ip", "link", "set", "dev", told["interface"], state], check=True)
            times += state == "down"
            worker.say(f"{told['interface']} was taken down {times} times", times=times)
            until = time.monotonic() + seconds
            while not worker.ended and time.monotonic() < until:
                time.sleep(min(0.01, seconds))


if __name__ == "__main__":
    main()
