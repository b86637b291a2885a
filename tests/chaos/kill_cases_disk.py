"""Cases of :mod:`test_random_kills` for faults of disks, memory and GPUs."""

from __future__ import annotations

from .kill_cases import KillCase

CASES = [
    KillCase("disk.slow", "path:{folder}", {"delay_s": 0.01, "on": "read,write,list"}),
    KillCase("disk.slow", "path:{folder}", {"rate_bytes": 1e6, "on": "read,list"}),
    KillCase("disk.fail", "path:{folder}", {"on": "list,read"}),
    KillCase("disk.slow", parameters={"folder": "{folder}", "delay_s": 0.2, "on": "list,read"}, root=True),
    KillCase("memory.leak", parameters={"how": "limit"}),
    KillCase("memory.leak", parameters={"most_bytes": 8 << 20}, root=True),
    KillCase("gpu.ecc", scene="gpu"),
    KillCase("gpu.power_cap", parameters={"watts": 200}, scene="gpu"),
    KillCase("gpu.memory_ballast", scene="gpu"),
]
