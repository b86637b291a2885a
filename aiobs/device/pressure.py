"""Pressure stall information: how long tasks waited for CPU, memory or disks, where the kernel counts it."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
RESOURCES = ("cpu", "memory", "io")


def read_pressure(proc: Path = PROC) -> dict[tuple[str, str], float]:
    """Seconds so far by (resource, some or full); {} where the kernel does not count."""
    found: dict[tuple[str, str], float] = {}
    for resource in RESOURCES:
        try:
            lines = (proc / "pressure" / resource).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            kind, _, rest = line.partition(" ")
            total = rest.rpartition("total=")[2]
            if kind in ("some", "full") and total.isdigit():
                found[resource, kind] = int(total) / 1e6
    return found
