"""Why this process could not have memory of the host: its own limit, or no more there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aiobs import names
from aiobs.device.cgroups import PROC, find_groups, read_limits

RLIMIT, HOST = "rlimit", "host"
ROUND = 16
"""A request of unknown size is taken for a sixteenth of the limit."""


def why(requested: int, proc: Path = PROC) -> dict[str, Any]:
    """Kind, limit and use for a request of so many bytes (0: unknown), as attributes of the event.

    A control group does not refuse memory, it has processes killed; its limit is told where nothing else is in the
    way, as the nearest thing to an answer.
    """
    found = _fields(proc / "self" / "status")
    for name, used in (("RLIMIT_AS", found.get("VmSize", 0)), ("RLIMIT_DATA", found.get("VmData", 0))):
        limit = _own_limit(name)
        if limit and used + max(requested, limit // ROUND) > limit:
            return _attributes(RLIMIT, name, limit, used)
    group = read_limits(find_groups(os.getpid(), "memory"), [])
    if group.memory_limit_bytes is not None:
        return _attributes(HOST, "cgroup", group.memory_limit_bytes, group.memory_bytes or 0)
    machine = _fields(proc / "meminfo")
    total = machine.get("MemTotal", 0)
    return _attributes(HOST, "memory", total, total - machine.get("MemAvailable", 0))


def _own_limit(name: str) -> int:
    """A limit of this process, 0 where there is none."""
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    limit, _ = resource.getrlimit(getattr(resource, name))
    return 0 if limit == resource.RLIM_INFINITY else limit


def _attributes(kind: str, name: str, limit: int, used: int) -> dict[str, Any]:
    return {names.OOM_KIND: kind, names.OOM_LIMIT_NAME: name, names.OOM_LIMIT: limit, names.OOM_USED: used}


def resident_bytes(proc: Path = PROC) -> int:
    """Memory of the host this process has."""
    return _fields(proc / "self" / "status").get("VmRSS", 0)


def _fields(path: Path) -> dict[str, int]:
    """Lines of ``name: 123 kB``, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}
