"""Network namespaces and the interfaces in them."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.identity import all_processes
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.target import Target, Unit
from aiobs.errors import FaultError, PlanError


def _path(target: Target, name: str) -> str:
    path = name if name.startswith("/") else f"/run/netns/{name}"
    try:
        Namespace.of(path)
    except PlanError:
        raise PlanError("target", str(target), "there is no such network namespace; look with  ip netns list") from None
    return path


def _inside(path: str) -> Unit:
    namespace = Namespace.of(path)
    processes = []
    for process in all_processes():
        try:
            if Namespace.of(f"/proc/{process.pid}/ns/net") == Namespace(f"/proc/{process.pid}/ns/net", namespace.inode):
                processes.append(process)
        except PlanError:
            continue
    return Unit(path, tuple(processes), namespace=path)


@dataclass(frozen=True)
class NetworkNamespace(Target):
    """A network namespace by its name or path, with every process in it."""

    scheme = "netns"
    example = "node-a"

    def resolve(self) -> list[Unit]:
        path = _path(self, self.value)
        if Namespace.of(path).is_own:
            raise PlanError("target", str(self), "is this host's own namespace; name a process or a cgroup instead")
        return [_inside(path)]


@dataclass(frozen=True)
class Interface(Target):
    """``interface:eth0@node-a``: an interface in a network namespace."""

    scheme = "interface"
    example = "eth0@node-a"

    def resolve(self) -> list[Unit]:
        name, _, where = self.value.partition("@")
        path = _path(self, where) if where else ""
        try:
            Namespace.of(path).ask("ip", "-j", "link", "show", "dev", name)
        except FaultError as error:
            raise PlanError("target", str(self), f"no such interface: {error}") from None
        return [Unit(self.value, namespace=path or "/proc/self/ns/net", interface=name)]
