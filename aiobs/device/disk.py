"""What disks have read and written."""

from __future__ import annotations

from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")
SECTOR_BYTES = 512
"""The kernel counts in sectors of this size, whatever the disk's own is."""


def read_disks(proc: Path = PROC, sys: Path = SYS) -> dict[str, tuple[int, int]]:
    """Bytes read and written by disk: whole disks that were used, no partitions, loops or RAM disks."""
    try:
        lines = (proc / "diskstats").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, tuple[int, int]] = {}
    for line in lines:
        words = line.split()
        if len(words) < 10 or words[2].startswith(("loop", "ram", "zram")):
            continue
        name, read, written = words[2], int(words[5]) * SECTOR_BYTES, int(words[9]) * SECTOR_BYTES
        # A partition is counted in its disk; only whole disks stand at the top of /sys/block.
        if (read or written) and (sys / "block" / name.replace("/", "!")).exists():
            found[name] = read, written
    return found
