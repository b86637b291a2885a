"""A control group: a container, a testbed node, a service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.cgroups import Cgroup, hierarchies
from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.target import Target, Unit
from aiobs.errors import PlanError


@dataclass(frozen=True)
class Group(Target):
    """A group by its path as ``/proc/<pid>/cgroup`` has it, or the path of its folder."""

    scheme = "cgroup"
    example = "/llm/replica-1"

    def resolve(self) -> list[Unit]:
        path = self.value
        for it in hierarchies():
            if Path(path).is_relative_to(it.mount):
                path = "/" + Path(path).relative_to(it.mount).as_posix()
        group = Cgroup("/" + path.strip("/"))
        if group.path == "/" or not group.folders():
            raise PlanError("target", str(self), "there is no such group, or it is the root, which holds everything")
        processes = []
        for folder in group.folders():
            for file in folder.rglob("cgroup.procs"):
                for pid in file.read_text().split():
                    try:
                        processes.append(ProcessIdentity.of(int(pid)))
                    except (ProcessLookupError, ValueError):
                        continue
        unique = tuple(dict.fromkeys(processes))
        namespace = f"/proc/{unique[0].pid}/ns/net" if unique else ""
        return [Unit(group.path, unique, cgroup=group.path, namespace=namespace)]
