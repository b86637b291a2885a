"""Cases of :mod:`test_random_kills` for faults of disks, memory and GPUs."""

from __future__ import annotations

from typing import Any

CASES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("disk.slow", "path:{folder}", {"delay_s": 0.01, "on": "read,write,list"}, False),
    ("disk.slow", "path:{folder}", {"rate_bytes": 1e6}, False),
    ("disk.fail", "path:{folder}", {"on": "list,read"}, False),
    ("memory.leak", "pid:{pid}", {"how": "limit"}, False),
    ("memory.leak", "pid:{pid}", {"most_bytes": 8 << 20}, True),
    ("disk.slow", "pid:{pid}", {"folder": "{folder}", "delay_s": 0.2, "on": "list,read"}, False),
]
"""Fault, target, parameters, and whether it needs root."""
