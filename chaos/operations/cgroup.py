"""Control groups: put processes into one of ours, freeze a group, limit its CPU and its number of tasks."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.cgroups import FILES, Cgroup, cgroup_of, hierarchies
from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError, PlanError

_FROZEN = {1: "FROZEN", 2: "1"}
_THAWED = {1: "THAWED", 2: "0"}


@dataclass(frozen=True)
class Enclose(Operation):
    """Make a group of ours for one controller and move processes into it; undone, all go back and it is removed.

    Attributes:
        name: last part of the group's path; it is made beside the group its first process is in (version 2) or
            below that (version 1), so that limits which held before still hold.
        pids, starts: the processes.
    """

    kind = "cgroup.enclose"

    controller: str
    path: str
    pids: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def around(cls, processes: tuple[ProcessIdentity, ...], controller: str, name: str) -> Enclose:
        """A group of that name for these processes.

        Raises:
            PlanError: the machine has no such controller.
        """
        found = Cgroup("/").folder(controller)
        if found is None:
            raise PlanError("cgroup", controller, "this machine has no such cgroup controller")
        home = cgroup_of(processes[0].pid, controller if found[1] == 1 else "")
        if found[1] == 2:
            home = str(Path(home).parent)
        path = f"{home.rstrip('/')}/{name}"
        return cls(controller, path, tuple(it.pid for it in processes), tuple(it.start for it in processes))

    def _folder(self) -> tuple[Path, int]:
        found = Cgroup(self.path).folder(self.controller)
        if found is None:
            raise FaultError("inject", f"controller {self.controller} is gone")
        return found

    def describe(self) -> str:
        return f"mkdir {self.path} ({self.controller}); move {len(self.pids)} processes into it"

    def describe_undo(self) -> str:
        return f"move what is in {self.path} back; rmdir {self.path}"

    def before(self) -> Before:
        folder, version = self._folder()
        if folder.exists():
            raise PlanError("cgroup", self.path, "exists already and is not ours; choose another injection id")
        controller = self.controller if version == 1 else ""
        return {"homes": [cgroup_of(pid, controller) for pid in self.pids]}

    def act(self, before: Before) -> None:  # noqa: ARG002
        folder, _ = self._folder()
        folder.mkdir()
        for pid, start in zip(self.pids, self.starts, strict=True):
            if ProcessIdentity(pid, start).is_alive():
                _move(pid, folder)

    def effective(self, before: Before) -> str:  # noqa: ARG002
        inside = _pids(self._folder()[0])
        if inside:
            return f"{len(inside)} processes are in {self.path}"
        # What was put in may be dead by now, of what was done to it there.
        living = any(ProcessIdentity(*it).is_alive() for it in zip(self.pids, self.starts, strict=True))
        return "" if living else f"the processes that were put into {self.path} are gone"

    def undo(self, before: Before) -> None:
        folder, version = self._folder()
        if not folder.exists():
            return
        mount = next(it.mount for it in hierarchies() if folder.is_relative_to(it.mount) and it.version == version)
        homes = dict(zip(self.pids, before["homes"], strict=True))
        for pid in _pids(folder):
            # Children that came meanwhile go where their parents do.
            home = mount / str(homes.get(pid, before["homes"][0])).strip("/")
            _move(pid, home if home.is_dir() else mount)
        deadline = time.monotonic() + 0.5
        while folder.exists():
            try:
                folder.rmdir()
            except OSError as error:  # dying tasks still count for a moment
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    def residue(self, before: Before) -> str:  # noqa: ARG002
        folder, _ = self._folder()
        return f"{folder} is still there" if folder.exists() else ""


def _move(pid: int, folder: Path) -> None:
    try:
        (folder / "cgroup.procs").write_text(str(pid))
    except ProcessLookupError:
        return


def _pids(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


@dataclass(frozen=True)
class Freeze(Operation):
    """Freeze every task of a group. In version 1 a frozen task ignores even SIGKILL until it is thawed."""

    kind = "cgroup.freeze"

    path: str

    def _file(self) -> tuple[Path, int]:
        path = Cgroup(self.path).require("freeze")
        return path, 1 if path.name == FILES["freeze"][1] else 2

    def describe(self) -> str:
        return f"freeze cgroup {self.path}"

    def describe_undo(self) -> str:
        return f"thaw cgroup {self.path}"

    def before(self) -> Before:
        path, version = self._file()
        state = path.read_text().strip()
        if state != _THAWED[version]:
            raise PlanError("cgroup", self.path, "is frozen already, so freezing it would prove nothing")
        return {"state": state}

    def act(self, before: Before) -> None:  # noqa: ARG002
        path, version = self._file()
        path.write_text(_FROZEN[version])

    def effective(self, before: Before) -> str:  # noqa: ARG002
        path, version = self._file()
        if version == 1:
            return f"{path} says FROZEN" if path.read_text().strip() == "FROZEN" else ""
        events = (path.parent / "cgroup.events").read_text()
        return f"{path.parent}/cgroup.events says frozen 1" if "frozen 1" in events else ""

    def undo(self, before: Before) -> None:  # noqa: ARG002
        if (path := Cgroup(self.path).file("freeze")) is not None:
            path.write_text(_THAWED[1 if path.name == FILES["freeze"][1] else 2])

    def residue(self, before: Before) -> str:
        state = Cgroup(self.path).read("freeze")
        return f"cgroup {self.path} is {state}" if state not in (None, before["state"]) else ""


@dataclass(frozen=True)
class CpuQuota(Operation):
    """Give a group no more CPU than `share` of one core, in periods of `period_s`."""

    kind = "cgroup.cpu"

    path: str
    share: float
    period_s: float

    def describe(self) -> str:
        return f"cgroup {self.path}: {self.share:g} of a core, every {self.period_s * 1e3:g} ms"

    def describe_undo(self) -> str:
        return f"cgroup {self.path}: the quota it had"

    def before(self) -> Before:
        group = Cgroup(self.path)
        group.require("cpu_quota")
        return {
            "quota": group.read("cpu_quota"), "period": group.read("cpu_period"),
            "throttled": group.count("cpu_stat", "nr_throttled"),
        }  # fmt: skip

    def act(self, before: Before) -> None:  # noqa: ARG002
        group = Cgroup(self.path)
        period = int(self.period_s * 1e6)
        quota = max(1000, int(self.share * period))
        file, period_file = group.require("cpu_quota"), group.file("cpu_period")
        if period_file is None:
            file.write_text(f"{quota} {period}")
        else:
            file.write_text("-1")
            period_file.write_text(str(period))
            file.write_text(str(quota))

    def effective(self, before: Before) -> str:
        throttled = Cgroup(self.path).count("cpu_stat", "nr_throttled") - int(before["throttled"])
        return f"cgroup {self.path} was throttled {throttled} times" if throttled > 0 else ""

    def undo(self, before: Before) -> None:
        group = Cgroup(self.path)
        file, period_file = group.file("cpu_quota"), group.file("cpu_period")
        if file is None:
            return
        if period_file is not None:
            file.write_text("-1")
            period_file.write_text(str(before["period"]))
        file.write_text(str(before["quota"]))

    def residue(self, before: Before) -> str:
        group = Cgroup(self.path)
        now = group.read("cpu_quota"), group.read("cpu_period")
        if now[0] is None or now == (before["quota"], before["period"]):
            return ""
        return f"the CPU quota of cgroup {self.path} is {now[0]}, it was {before['quota']}"


@dataclass(frozen=True)
class PidsLimit(Operation):
    """Let a group have no more tasks than it has now plus `headroom`: fork and thread creation fail with EAGAIN."""

    kind = "cgroup.pids"

    path: str
    headroom: int = 0

    def describe(self) -> str:
        return f"cgroup {self.path}: at most the tasks it has and {self.headroom} more"

    def describe_undo(self) -> str:
        return f"cgroup {self.path}: the pids.max it had"

    def before(self) -> Before:
        group = Cgroup(self.path)
        group.require("pids")
        return {"limit": group.read("pids"), "refused": group.count("pids_refused", "max")}

    def act(self, before: Before) -> None:  # noqa: ARG002
        group = Cgroup(self.path)
        group.require("pids").write_text(str(max(1, int(group.read("pids_now") or 0) + self.headroom)))

    def effective(self, before: Before) -> str:
        group = Cgroup(self.path)
        refused = group.count("pids_refused", "max") - int(before["refused"])
        if refused > 0:
            return f"cgroup {self.path} was refused {refused} new tasks"
        limit = group.read("pids") or ""
        if limit.isdigit() and int(group.read("pids_now") or 0) + self.headroom < int(limit):
            self.act(before)  # it had more tasks at the moment of the act than it needs
        return ""

    def undo(self, before: Before) -> None:
        if (file := Cgroup(self.path).file("pids")) is not None:
            file.write_text(str(before["limit"]))

    def residue(self, before: Before) -> str:
        now = Cgroup(self.path).read("pids")
        return (
            f"pids.max of cgroup {self.path} is {now}, it was {before['limit']}"
            if now not in (None, before["limit"])
            else ""
        )
