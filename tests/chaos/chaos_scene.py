"""What tests of faults look at: processes and their states, the injector of a session and its watchdog."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from aiobs.chaos.cgroups import hierarchies
from aiobs.chaos.identity import ProcessIdentity, all_processes, stat_fields
from aiobs.chaos.place import read_owner


def state_of(pid: int) -> str:
    """State letter of a process, "" where it is gone."""
    fields = stat_fields(pid)
    return fields[0] if fields and fields[0] not in "ZX" else ""


def eventually(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Wait until `condition` holds; false where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


def injector_of(place: Path) -> ProcessIdentity:
    """The injector of the only session there is."""
    (session,) = (place / "sessions").iterdir()
    owner = read_owner(session)
    assert owner is not None
    return owner.process()


def watchdogs_of(injector: ProcessIdentity) -> list[ProcessIdentity]:
    """The injector's children that run its own program, dead ones left out."""
    return [it for it in all_processes() if it.parent() == injector.pid and b"aiobs.chaos.injector" in line_of(it.pid)]


def line_of(pid: int) -> bytes:
    """The command line of a process, empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def world() -> dict[str, object]:
    """What faults may change and must leave as it was: compare two of these."""
    return {
        "cgroups": sorted(
            str(path)
            for it in hierarchies()
            for path in it.mount.rglob("*aiobs-[ct]*")
            if path.name.startswith(("aiobs-chaos", "aiobs-testbed"))
        ),
        "namespaces": sorted(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else [],
        "mounts": Path("/proc/self/mountinfo").read_text("utf-8"),
        "rules": _said("nft", "list", "ruleset"),
        "qdiscs": _said("tc", "qdisc", "show"),
        "links": sorted(os.listdir("/sys/class/net")),
        "stopped": sorted(it.pid for it in all_processes() if it.state() == "T"),
        "workers": sorted(it.pid for it in all_processes() if b"aiobs.chaos" in line_of(it.pid)),
    }


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
