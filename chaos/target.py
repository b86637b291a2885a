"""To whom: a target names what a fault may hit, and resolves to units whose identity is checked again at undo.

A target is written as ``<scheme>:<value>``: ``pid:4711``, ``tree:4711``, ``cgroup:/llm/replica-1``,
``netns:node-a``. Each scheme is a class in a module of ``aiobs.chaos.targets`` (or of another distribution, by
entry point ``aiobs_chaos_target``); faults know units only, so that new targets need no change to any fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar

from aiobs.errors import PlanError

from .identity import ProcessIdentity

GROUP = "aiobs_chaos_target"


@dataclass(frozen=True)
class Unit:
    """One thing that can be hit alone: what is known of it decides which faults fit.

    Attributes:
        label: how people call it.
        processes: its processes, the root of a tree first.
        cgroup: its control group, as :mod:`aiobs.chaos.cgroups` writes it, or "".
        namespace: path of a file that holds its network namespace (``/proc/<pid>/ns/net``), "" for ours.
        interface: its network interface in that namespace.
        address: its IP address, or host:port.
        path: a file or folder.
        point: a named point of its processes.
        attributes: more, for those who made it (a rank, a node's name); goes onto the fault's span.
    """

    label: str
    processes: tuple[ProcessIdentity, ...] = ()
    cgroup: str = ""
    namespace: str = ""
    interface: str = ""
    address: str = ""
    path: str = ""
    point: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    def facets(self) -> set[str]:
        """Which of its attributes are known, by name."""
        names = ("processes", "cgroup", "namespace", "interface", "address", "path", "point")
        return {name for name in names if getattr(self, name)}

    def keys(self) -> list[str]:
        """What must not be hit by two experiments at once."""
        found = [f"pid {it.pid}/{it.start}" for it in self.processes]
        found += [f"{name} {getattr(self, name)}" for name in ("cgroup", "path") if getattr(self, name)]
        if self.point:
            found += [f"point {self.point}"]
        if self.namespace or self.interface:
            found.append(f"network {self.namespace}%{self.interface}")
        elif self.address:
            found.append(f"address {self.address}")
        return found


@dataclass(frozen=True)
class Target:
    """A way to name units.

    Attributes:
        scheme: the word before the colon; `pattern` is true where one target may mean any number of units, so
            that a plan must say how many it may hit.
        value: the text after it.
        example: a value, for error messages.
    """

    scheme: ClassVar[str] = ""
    pattern: ClassVar[bool] = False
    example: ClassVar[str] = ""

    value: str = field()

    def __init_subclass__(cls) -> None:
        if cls.scheme:
            _known[cls.scheme] = cls

    def resolve(self) -> list[Unit]:
        """The units it means now.

        Raises:
            PlanError: it means nothing, or cannot be read.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.scheme}:{self.value}"


_known: dict[str, type[Target]] = {}


def target_schemes() -> dict[str, type[Target]]:
    """Every kind of target there is, by scheme."""
    package = import_module("aiobs.chaos.targets")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        entry.load()
    return dict(sorted(_known.items()))


def parse_target(text: str) -> Target:
    """The target that `text` names.

    Raises:
        PlanError: there is no such scheme, or nothing after it.
    """
    scheme, colon, value = text.partition(":")
    schemes = target_schemes()
    if not colon or scheme not in schemes:
        known = ", ".join(f"{name}:{it.example}" for name, it in schemes.items())
        raise PlanError("target", text, f"write <scheme>:<value>; there are {known}")
    if not value:
        raise PlanError("target", text, f"names nothing; write for example {scheme}:{schemes[scheme].example}")
    return schemes[scheme](value)
