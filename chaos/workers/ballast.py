"""Hold memory: all at once, or growing."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from aiobs.chaos.workers.life import Worker

_MADV_POPULATE_WRITE = 23
_CHUNK = 16 << 20


def main() -> None:
    """Take memory and hold it until asked to end."""
    worker = Worker()
    # Should memory run out nonetheless, the kernel takes this process and no other.
    Path("/proc/self/oom_score_adj").write_text("1000")
    size, grow_s = worker.arguments["bytes"], worker.arguments["grow_s"]
    worker.say()
    held: list[mmap.mmap] = []
    taken, began = 0, time.monotonic()
    while not worker.ended:
        due = size if not grow_s else min(size, int(size * (time.monotonic() - began) / grow_s))
        if taken < due:
            length = min(_CHUNK, due - taken) or 1
            block = mmap.mmap(-1, length)
            try:
                block.madvise(_MADV_POPULATE_WRITE)
            except OSError:  # a kernel before 5.14
                for offset in range(0, length, mmap.PAGESIZE):
                    block[offset] = 1
            held.append(block)
            taken += length
            worker.say(f"{taken} bytes of memory are held", bytes=taken)
        else:
            time.sleep(0.02)


if __name__ == "__main__":
    main()
