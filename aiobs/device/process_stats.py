"""What the kernel says of one process, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""CPU times are told in clock ticks."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ProcessStats:
    """Counters since the process's start, and levels; None where the process must not be asked.

    Attributes:
        user_s, system_s: CPU time of all its threads. `memory_bytes`: resident. `virtual_bytes`: address space.
        minor_faults, major_faults: page faults without and with reading from a disk.
        voluntary, involuntary: context switches of its main thread.
        read_bytes, write_bytes: moved from and to disks.
    """

    user_s: float
    system_s: float
    threads: int
    memory_bytes: int
    virtual_bytes: int
    minor_faults: int
    major_faults: int
    voluntary: int | None = None
    involuntary: int | None = None
    descriptors: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None


def cpu_s(pid: int, proc: Path = PROC) -> float | None:
    """CPU seconds of a process so far, all its threads together; None: there is none."""
    fields = _stat(pid, proc)
    return (int(fields[11]) + int(fields[12])) * TICK_S if fields else None


def memory_peak_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Most resident memory it ever had."""
    return _status(pid, proc, b"VmHWM:", 1024)


def read_process(pid: int, proc: Path = PROC) -> ProcessStats | None:
    """All of it; None: there is no such process."""
    fields = _stat(pid, proc)
    if not fields:
        return None
    io = _pairs(proc / str(pid) / "io")
    return ProcessStats(
        user_s=int(fields[11]) * TICK_S,
        system_s=int(fields[12]) * TICK_S,
        threads=int(fields[17]),
        memory_bytes=int(fields[21]) * PAGE_BYTES,
        virtual_bytes=int(fields[20]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        voluntary=_status(pid, proc, b"voluntary_ctxt_switches:"),
        involuntary=_status(pid, proc, b"nonvoluntary_ctxt_switches:"),
        descriptors=_descriptors(pid, proc),
        read_bytes=io.get("read_bytes"),
        write_bytes=io.get("write_bytes"),
    )


def _stat(pid: int, proc: Path) -> list[bytes]:
    """Fields of /proc/PID/stat behind the command's name; [] where there are not enough."""
    try:
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
    return fields if len(fields) >= 22 else []


def _status(pid: int, proc: Path, key: bytes, factor: int = 1) -> int | None:
    try:
        raw = b"\n" + (proc / str(pid) / "status").read_bytes()
    except OSError:
        return None
    words = raw.partition(b"\n" + key)[2].split(None, 1)
    return int(words[0]) * factor if words and words[0].isdigit() else None


def _descriptors(pid: int, proc: Path) -> int | None:
    try:
        return len(os.listdir(proc / str(pid) / "fd"))
    except OSError:
        return None


def _pairs(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = (line.partition(": ") for line in lines)
    return {key: int(value) for key, _, value in found if value.isdigit()}
