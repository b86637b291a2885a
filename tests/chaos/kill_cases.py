"""What is injected while somebody is killed: every fault there is, in every form that undoes differently.

Any module ``kill_cases*.py`` in this folder adds its own list `CASES`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from aiobs.chaos.fault import fault_kinds
from aiobs.chaos.netem import missing_netem

DISK = os.environ.get("AIOBS_TEST_DISK", "")
"""A small file system that somebody else has made for us."""


@dataclass(frozen=True)
class KillCase:
    """One fault to try.

    Attributes:
        fault: its kind; `target`, `parameters`: texts in them may name ``{pid}``, ``{port}``, ``{free}`` (a port where
            nobody listens), ``{folder}``, ``{disk}`` and ``{bed}``.
        scene: what it is aimed at, see :mod:`kill_scenes`.
        root: it needs root; others run as an ordinary user as well.
    """

    fault: str
    target: str = "pid:{pid}"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    scene: str = "program"
    root: bool = False

    def __str__(self) -> str:
        values = (str(it) for it in self.parameters.values() if "{" not in str(it))
        on = () if self.scene in ("program", "points", "gpu") else (f"on {self.scene}",)
        return " ".join([self.fault, *values, *on])


_HERE = {"port": "{port}", "peer": "127.0.0.1"}
_AT = {"point": "work"}

CASES = [
    KillCase("noop"),
    KillCase("process.pause"),
    KillCase("process.kill"),
    KillCase("process.slow", parameters={"share": 0.2, "how": "turns"}),
    KillCase("process.slow", parameters={"share": 0.2, "how": "quota"}, root=True),
    KillCase("process.freeze", root=True),
    KillCase("process.storm", parameters={"every_s": 0.1}),
    KillCase("process.exhaust", parameters={"what": "files"}),
    KillCase("process.exhaust", parameters={"what": "tasks"}, root=True),
    KillCase("memory.limit"),
    KillCase("memory.oom", scene="growing", root=True),
    KillCase("memory.oom", parameters={"stall": True}, scene="growing", root=True),
    KillCase("memory.pressure", parameters={"ballast_bytes": 8 << 20}),
    KillCase("network.partition", parameters=_HERE, root=True),
    KillCase("network.partition", "node:b", scene="bed"),
    KillCase("network.reset", parameters=_HERE, root=True),
    KillCase("network.reset", "node:b", {"port": 5000, "direction": "in"}, "bed"),
    KillCase("network.loss", parameters={**_HERE, "percent": 50}, root=True),
    KillCase("network.loss", "node:b", {"percent": 50}, "bed"),
    KillCase("network.dns", parameters={"port": "{port}", "how": "drop"}, root=True),
    KillCase("network.dns", "node:a", {"port": 5000, "how": "refuse"}, "bed"),
    KillCase("network.latency", parameters=_HERE, root=True),
    KillCase("network.latency", "node:a", {"port": 5000, "delay_s": 0.01}, "bed"),
    KillCase("network.proxy", "tcp:127.0.0.1:{port}", {"listen": "{free}", "delay_s": 0.01}),
    KillCase("network.grudge", "testbed:{bed}", {"shape": "isolate", "node": "a"}, "bed"),
    KillCase("network.refuse", parameters=_HERE, root=True),
    KillCase("network.refuse", "node:a", {"port": 5000}, "bed"),
    KillCase("network.blackhole", parameters=_HERE, root=True),
    KillCase("network.blackhole", "node:a", {"port": 5000}, "bed"),
    KillCase("network.slow_close", "node:a", {"port": 5000}, "bed"),
    KillCase("network.netem", "node:b", {"delay_s": 0.01}, "bed"),
    KillCase("traffic.overload", "service:127.0.0.1:{port}", {"rate": 100}),
    KillCase("traffic.poison", "service:127.0.0.1:{port}", {"every_s": 0.02, "times": 100}),
    KillCase("network.bandwidth", "node:b", {"rate_mbit": 1}, "bed"),
    KillCase("network.flap", "node:b", {"down_s": 0.05, "up_s": 0.05}, "bed"),
    KillCase("node.loss", "node:b", {}, "bed"),
    KillCase("node.loss", "node:b", {"kill": False}, "bed"),
    KillCase("disk.full", "path:{disk}"),
    KillCase("disk.full", parameters={"how": "limit", "spare_bytes": 4096}),
    KillCase("checkpoint.tear", "path:{folder}"),
    KillCase("checkpoint.corrupt", "path:{folder}"),
    KillCase("service.down", "service:127.0.0.1:{port}", {"how": "pause"}),
    KillCase("service.down", "service:127.0.0.1:{port}", {"how": "kill"}),
    KillCase("service.down", "service:127.0.0.1:{port}", {"how": "refuse"}, root=True),
    KillCase("service.down", "service:127.0.0.1:{port}", {"how": "drop"}, root=True),
    KillCase("telemetry.down", scene="exporting", root=True),
    KillCase("clock.skew", scene="faketime"),
    KillCase("point.arm", parameters={**_AT, "do": "2*sleep(1) -> raise(TimeoutError)"}, scene="points"),
    KillCase("point.latency", parameters={**_AT, "delay_s": 0.005}, scene="points"),
    KillCase("point.error", parameters={**_AT, "error": "TimeoutError"}, scene="points"),
    KillCase("point.gil", parameters={**_AT, "hold_s": 0.01}, scene="points"),
    KillCase("point.hang", parameters=_AT, scene="points"),
    KillCase("point.oom", parameters=_AT, scene="points"),
    KillCase("point.wrong", parameters=_AT, scene="points"),
    KillCase("rank.kill", "rank:0@{run}", {"step": 60}, "points"),
    KillCase("rank.stall", "rank:0@{run}", {"step": 60}, "points"),
    KillCase("gpu.xid", scene="gpu"),
    KillCase("gpu.lost", scene="gpu"),
    KillCase("gpu.throttle", parameters={"cause": "thermal"}, scene="gpu"),
    KillCase("gpu.throttle", parameters={"cause": "power"}, scene="gpu"),
]


def all_cases() -> list[KillCase]:
    """Those of here and of every other module of this name."""
    found = list(CASES)
    for path in sorted(Path(__file__).parent.glob("kill_cases_*.py")):
        found += import_module(f"{__package__}.{path.stem}").CASES
    return found


def lacking(case: KillCase) -> str:
    """What whoever runs this, or this machine, lacks for a case, "" where nothing."""
    if case.fault == "network.netem" and (missing := missing_netem()):
        return missing[0]
    if case.fault in ("gpu.memory_ballast", "gpu.power_cap"):
        return "needs an NVML in this very process: a real GPU, or as test_gpu_faults does it"
    if os.geteuid() == 0:
        return ""
    if case.fault in ("disk.slow", "disk.fail") and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not for ordinary users here"
    if case.root or fault_kinds()[case.fault].root:
        return "needs root"
    if case.target == "path:{disk}" and not DISK:
        return "needs root to make a small file system, or one in AIOBS_TEST_DISK"
    return ""
