"""What the kernel says of the whole host: CPU time and memory."""

from __future__ import annotations

from pathlib import Path

from aiobs.device.process_stats import TICK_S

PROC = Path("/proc")
MODES = ("user", "nice", "system", "idle", "iowait", "interrupt", "softirq", "steal")
"""In the order of /proc/stat; softirq is told as interrupt by the conventions, so the two are added up."""


def read_cpu(proc: Path = PROC) -> dict[str, float]:
    """CPU seconds of the host by ``cpu.mode``; {} where it does not tell."""
    try:
        words = (proc / "stat").read_bytes().split(b"\n", 1)[0].split()[1:]
    except OSError:
        return {}
    found: dict[str, float] = {}
    for mode, ticks in zip(MODES, words, strict=False):
        name = "interrupt" if mode == "softirq" else mode
        found[name] = found.get(name, 0.0) + int(ticks) * TICK_S
    return found


def read_memory(proc: Path = PROC) -> dict[str, int]:
    """Bytes of memory by ``system.memory.state`` (used, free, cached, buffers), and ``total``; {}: not told."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return {}
    told = {
        key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines) if rest.strip()
    }
    if not {"MemTotal", "MemFree"} <= told.keys():
        return {}
    cached, buffers = told.get("Cached", 0), told.get("Buffers", 0)
    used = max(0, told["MemTotal"] - told["MemFree"] - cached - buffers)
    return {"total": told["MemTotal"], "used": used, "free": told["MemFree"], "cached": cached, "buffers": buffers}
