"""OOM kills, counted by the kernel for each control group; tells an OOM kill from any other SIGKILL.

``oom_kill`` in ``memory.oom_control`` (cgroup v1) or ``memory.events`` (v2) is the evidence; ``failcnt`` is
not, it can stay 0. Where a group cannot be read the count of the whole machine in ``/proc/vmstat`` stands in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

FORGET_S = 2.0
"""A kill that none of the watched processes answers for within this time hit somebody else."""

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def counter_files(pid: int, proc: Path = Path("/proc")) -> list[Path]:
    """The files that count the OOM kills of a process's memory group, the machine's count last."""
    found: list[Path] = []
    try:
        groups = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        groups, mounts = [], []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            left, _, right = mount.partition(" - ")
            root, point = left.split()[3:5]
            kind, _, options = right.split()[:3]
            v1 = kind == "cgroup" and "memory" in options.split(",")
            if (v1 if controllers else kind == "cgroup2") and (group + "/").startswith(root.rstrip("/") + "/"):
                inside = group[len(root.rstrip("/")) :].lstrip("/")
                found.append(Path(point) / inside / ("memory.oom_control" if v1 else "memory.events"))
                break
    return [*found, proc / "vmstat"]


class OomCounter:
    """OOM kills of one control group; shared by the processes in it, each kill is claimed by one of them."""

    def __init__(
        self, files: list[Path], baseline: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Count from `baseline`, by default from now on."""
        self.files = files
        self._clock = clock
        self._rose_at: float | None = None
        self.baseline = self._read() if baseline is None else baseline

    def _read(self) -> int:
        for file in self.files:
            try:
                match = _COUNT.search(file.read_text())
            except OSError:
                continue
            if match:
                # A group that goes away must not make the machine's count look like this group's.
                self.files = [file]
                return int(match[1])
        return getattr(self, "baseline", 0)

    def claim(self) -> bool:
        """Whether a kill happened that nobody has claimed yet; it is then this process's."""
        if self._read() <= self.baseline:
            return False
        self.baseline += 1
        return True

    def settle(self) -> None:
        """Forget kills nobody claims: they hit processes we do not watch. Call about once a second."""
        if self._read() <= self.baseline:
            self._rose_at = None
        elif self._rose_at is None:
            self._rose_at = self._clock()
        elif self._clock() - self._rose_at > FORGET_S:
            self.baseline, self._rose_at = self._read(), None


class OomCounters:
    """The counters of all groups that watched processes are in."""

    def __init__(self) -> None:
        self._by_file: dict[Path, OomCounter] = {}

    def of(self, pid: int) -> OomCounter:
        """The counter of the group that `pid` is in now."""
        counter = OomCounter(counter_files(pid))
        return self._by_file.setdefault(counter.files[0], counter)

    def settle(self) -> None:
        """See :meth:`OomCounter.settle`, for all."""
        for counter in self._by_file.values():
            counter.settle()

    def baselines(self) -> dict[str, int]:
        """Kills accounted for so far, by file; for the agent that comes after."""
        return {str(file): counter.baseline for file, counter in self._by_file.items()}

    def restore(self, baselines: dict[str, int]) -> None:
        """Go on from :meth:`baselines`: kills since then are still to be claimed."""
        for file, baseline in baselines.items():
            self._by_file[Path(file)] = OomCounter([Path(file)], baseline)
