"""Control groups, version 1 and 2: where a process's is, what it may use and what it uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
UNLIMITED_BYTES = 1 << 60
"""A limit beyond this is none: version 1 writes the largest multiple of a page."""
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Group:
    """One control group. `unified`: version 2."""

    path: Path
    unified: bool


@dataclass(frozen=True)
class Limits:
    """What a process's groups say; None: not told, or no limit.

    Attributes:
        memory_bytes, memory_limit_bytes: used, and the limit. `oom_kills`: processes killed for it so far.
        cpu_s, cpu_limit: CPU time used; CPUs it may use at once. `cpu_throttled_s`: held back for that limit.
    """

    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    oom_kills: int | None = None
    cpu_s: float | None = None
    cpu_limit: float | None = None
    cpu_throttled_s: float | None = None


def find_groups(pid: int, controller: str, proc: Path = PROC) -> list[Group]:
    """The groups of a process that `controller` may act on, version 1 first."""
    found: list[Group] = []
    try:
        groups = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in mounts:
            left, _, right = mount.partition(" - ")
            root, point = left.split()[3:5]
            kind, _, options = right.split()[:3]
            v1 = kind == "cgroup" and controller in options.split(",")
            if (v1 if controllers else kind == "cgroup2") and (group + "/").startswith(root.rstrip("/") + "/"):
                found.append(Group(Path(point) / group[len(root.rstrip("/")) :].lstrip("/"), not v1))
                break
    return found


def kills_file(group: Group) -> Path:
    """The file that counts the OOM kills of a memory group."""
    return group.path / ("memory.events" if group.unified else "memory.oom_control")


def read_kills(file: Path) -> int | None:
    """OOM kills as :func:`kills_file` counts them; None where it does not tell."""
    match = _KILLS.search(_text(file))
    return int(match[1]) if match else None


def read_limits(memory: list[Group], cpu: list[Group]) -> Limits:
    """What the groups of a process say; of each kind the first that says anything."""
    found: dict[str, float | int | None] = {}
    for group in memory:
        names = (
            ("memory.current", "memory.max") if group.unified else ("memory.usage_in_bytes", "memory.limit_in_bytes")
        )
        used, limit = (_whole(group.path / name) for name in names)
        if used is not None:
            found |= {"memory_bytes": used, "oom_kills": read_kills(kills_file(group))}
            found["memory_limit_bytes"] = limit if limit is not None and limit < UNLIMITED_BYTES else None
            break
    for group in cpu:
        found |= _cpu_unified(group.path) if group.unified else _cpu_first(group.path)
        if found.get("cpu_s") is not None:
            break
    return Limits(**found)  # type: ignore[arg-type]


def _cpu_unified(path: Path) -> dict[str, float | None]:
    stat = dict(line.split(" ", 1) for line in _text(path / "cpu.stat").splitlines() if " " in line)
    quota, _, period = _text(path / "cpu.max").strip().partition(" ")
    return {
        "cpu_s": int(stat["usage_usec"]) / 1e6 if "usage_usec" in stat else None,
        "cpu_throttled_s": int(stat["throttled_usec"]) / 1e6 if "throttled_usec" in stat else None,
        "cpu_limit": int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None,
    }


def _cpu_first(path: Path) -> dict[str, float | None]:
    used = _whole(path / "cpuacct.usage")
    if used is None:  # mounted apart
        used = _whole(Path(str(path).replace("/cpu/", "/cpuacct/", 1)) / "cpuacct.usage")
    stat = dict(line.split(" ", 1) for line in _text(path / "cpu.stat").splitlines() if " " in line)
    quota, period = _whole(path / "cpu.cfs_quota_us"), _whole(path / "cpu.cfs_period_us")
    return {
        "cpu_s": used / 1e9 if used is not None else None,
        "cpu_throttled_s": int(stat["throttled_time"]) / 1e9 if "throttled_time" in stat else None,
        "cpu_limit": quota / period if quota is not None and period and quota > 0 else None,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _whole(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
