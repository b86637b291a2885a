"""OOM kills, counted by the kernel for each control group; tells an OOM kill from any other SIGKILL.

``oom_kill`` in ``memory.oom_control`` (cgroup v1) or ``memory.events`` (v2) is the evidence; ``failcnt`` is
not, it can stay 0. Where a group cannot be read the count of the whole machine in ``/proc/vmstat`` stands in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aiobs.device.cgroups import UNLIMITED_BYTES, find_groups, kills_file, read_kills

FORGET_S = 2.0
"""A kill that none of the watched processes answers for within this time hit somebody else."""

_FIRST_VERSION = ("memory.limit_in_bytes", "memory.max_usage_in_bytes")


def counter_files(pid: int, proc: Path = Path("/proc")) -> list[Path]:
    """The files that count the OOM kills of a process's memory group, the machine's count last."""
    return [*(kills_file(group) for group in find_groups(pid, "memory", proc)), proc / "vmstat"]


def _number(file: Path) -> int | None:
    """The number in a group's file, 0 for ``max``; None where there is no such file."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else 0


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
            kills = read_kills(file)
            if kills is not None:
                # A group that goes away must not make the machine's count look like this group's.
                self.files = [file]
                return kills
        return getattr(self, "baseline", 0)

    def claim(self) -> bool:
        """Whether a kill happened that nobody has claimed yet; it is then this process's."""
        if self._read() <= self.baseline:
            return False
        self.baseline += 1
        return True

    def limit(self) -> tuple[int, int]:
        """The limit on the group's memory that its processes can run into, its own or that of a group around it, and
        the most that was used against it, bytes; (0, 0) where there is none."""
        unified = self.files[0].name == "memory.events"
        limit_name, peak_name = ("memory.max", "memory.peak") if unified else _FIRST_VERSION
        for folder in [self.files[0].parent, *self.files[0].parents[1:]]:
            limit = _number(folder / limit_name)
            if limit is None:  # the kernel's count for the whole machine, or above all groups
                break
            if 0 < limit < UNLIMITED_BYTES:
                return limit, min(limit, _number(folder / peak_name) or limit)
        return 0, 0

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
