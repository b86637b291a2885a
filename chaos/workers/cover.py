"""Cover a folder with a file system of ours that is slow, or fails.

At the end nothing is hit any more and the mount goes away; who still has files open on it is answered until they are
closed, so that no program is left with a file that cannot be used. Its parent's death is such an end too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from aiobs.chaos.mounts import KIND, detach, enter
from aiobs.chaos.workers.life import Worker
from aiobs.chaos.workers.passing import Passing, serve
from aiobs.chaos.workers.strain import Strain


def main() -> None:
    """Serve until asked to end, and then as long as files are open."""
    worker = Worker(death=signal.SIGTERM)
    told = worker.arguments
    path, source = told["path"], told["source"]
    if told["process"] != "self":
        enter(told["process"])
    if os.path.realpath(path) != path:
        sys.exit(f"{path} is reached through a link: name {os.path.realpath(path)}")
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    over = threading.Event()
    strain = Strain(told, over)
    passing = Passing(root, strain)
    serving = threading.Thread(target=serve, args=(passing, path, source, KIND), daemon=True)
    serving.start()
    while not passing.started.wait(0.01):
        if not serving.is_alive():
            sys.exit(f"{path} cannot be covered; what the library said stands above")
    worker.say()
    said = ""
    while not worker.ended and serving.is_alive():
        if (evidence := strain.evidence()) != said:
            worker.say(evidence)
            said = evidence
        time.sleep(0.005)
    over.set()
    detach(path, source)
    worker.say(said, over=True)
    serving.join()


if __name__ == "__main__":
    main()
