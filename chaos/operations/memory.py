"""Out of memory by the kernel's own hand: a group's limit is pulled down to what it uses."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from aiobs.chaos.cgroups import FILES, Cgroup
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError

_UNLIMITED_V1 = 1 << 62
_PAGE = 4096


@dataclass(frozen=True)
class Limit(Operation):
    """Let a group use no more memory than it does now plus `headroom_bytes`.

    Its tasks are killed by the kernel when they need more, or with `stall` sleep until the limit goes up again.
    """

    kind = "memory.limit"

    path: str
    headroom_bytes: int
    stall: bool = False

    def describe(self) -> str:
        what = "stalls" if self.stall else "is killed"
        return f"cgroup {self.path}: memory limit = usage + {self.headroom_bytes} bytes; what grows beyond it {what}"

    def describe_undo(self) -> str:
        return f"cgroup {self.path}: the memory limit it had"

    def before(self) -> Before:
        group = Cgroup(self.path)
        first = group.require("memory")
        if self.stall and first.name == FILES["memory"][2]:
            group.require("memory_high")
        control = group.read("oom") or ""
        return {
            "limit": group.read("memory"), "swap": group.read("memory_and_swap"), "high": group.read("memory_high"),
            "killing": "oom_kill_disable 1" not in control, "kills": group.count("oom", "oom_kill"),
            "throttled": group.count("oom", "high"),
        }  # fmt: skip

    def act(self, before: Before) -> None:  # noqa: ARG002
        group = Cgroup(self.path)
        file = group.require("memory")
        high = group.file("memory_high")
        if self.stall and high is not None:
            high.write_text(str(self._limit(group)))
            return
        if self.stall:
            group.require("oom").write_text("1")
        swap = group.file("memory_and_swap")
        for _ in range(50):
            limit = str(self._limit(group))
            try:
                file.write_text(limit)
                if swap is not None:
                    swap.write_text(limit)
            except OSError as error:  # usage grew in between
                if error.errno not in (errno.EBUSY, errno.EINVAL):
                    raise
                time.sleep(0.002)
            else:
                return
        raise FaultError(
            "inject", f"the memory of cgroup {self.path} grows too fast to be limited; raise headroom_bytes"
        )

    def _limit(self, group: Cgroup) -> int:
        return (int(group.read("memory_usage") or 0) + self.headroom_bytes) // _PAGE * _PAGE

    def effective(self, before: Before) -> str:
        group = Cgroup(self.path)
        kills = group.count("oom", "oom_kill") - int(before["kills"])
        if kills > 0:
            return f"oom_kill of cgroup {self.path} rose by {kills}"
        if self.stall and group.count("oom", "under_oom") == 1:
            return f"cgroup {self.path} is under_oom"
        slowed = group.count("oom", "high") - int(before["throttled"])
        return f"cgroup {self.path} was throttled at memory.high {slowed} times" if slowed > 0 else ""

    def undo(self, before: Before) -> None:
        group = Cgroup(self.path)
        swap, limit, high = group.file("memory_and_swap"), group.file("memory"), group.file("memory_high")
        if swap is not None and before["swap"] is not None:
            swap.write_text(_v1(before["swap"]))  # first: it is never below the other
        if limit is not None:
            limit.write_text(_v1(before["limit"]) if swap is not None else str(before["limit"]))
        if high is not None and before["high"] is not None:
            high.write_text(str(before["high"]))
        control = group.file("oom")
        if self.stall and before["killing"] and control is not None and control.name == FILES["oom"][1]:
            control.write_text("0")

    def residue(self, before: Before) -> str:
        group = Cgroup(self.path)
        for meaning, key in (("memory", "limit"), ("memory_and_swap", "swap"), ("memory_high", "high")):
            now = group.read(meaning)
            if now is not None and now != before[key]:
                return f"{meaning} of cgroup {self.path} is {now}, it was {before[key]}"
        if before["killing"] and "oom_kill_disable 1" in (group.read("oom") or ""):
            return f"cgroup {self.path} still stalls instead of being killed"
        return ""


@dataclass(frozen=True)
class Rise(Operation):
    """Changes nothing: proves from the group's own counter that somebody, a ballast of ours, uses more memory in it.

    Attributes:
        least_bytes: so much more is the proof.
    """

    kind = "memory.rise"

    path: str
    least_bytes: int

    def describe(self) -> str:
        return f"cgroup {self.path}: see its memory usage rise"

    def describe_undo(self) -> str:
        return "nothing: it only looks"

    def _usage(self) -> int:
        return int(Cgroup(self.path).read("memory_usage") or 0)

    def before(self) -> Before:
        return {"usage": self._usage(), "kills": Cgroup(self.path).count("oom", "oom_kill")}

    def act(self, before: Before) -> None:
        pass

    def effective(self, before: Before) -> str:
        risen = self._usage() - int(before["usage"])
        kills = Cgroup(self.path).count("oom", "oom_kill") - int(before["kills"])
        if kills > 0:
            return f"oom_kill of cgroup {self.path} rose by {kills}"
        return f"memory usage of cgroup {self.path} rose by {risen} bytes" if risen >= self.least_bytes else ""

    def undo(self, before: Before) -> None:
        pass

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return ""


def _v1(text: object) -> str:
    """An unlimited value of version 1 is a huge number that cannot be written back as it was read."""
    return "-1" if str(text).isdigit() and int(str(text)) >= _UNLIMITED_V1 else str(text)
