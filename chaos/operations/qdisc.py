"""How fast and how late packets leave an interface: a queueing discipline of our own at its root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiobs.chaos.namespaces import Namespace, default_interface
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError, PlanError

HANDLE = "a10b:"
"""Ours; a root qdisc with another handle is somebody else's."""
_KERNELS_OWN = ("noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo")


@dataclass(frozen=True)
class Root(Operation):
    """Put a qdisc at the root of an interface; undone, the kernel's default is back.

    Attributes:
        spec: kind and options, in tc's language: ``tbf rate 10mbit burst 32kb latency 50ms``.
    """

    kind = "qdisc.root"

    namespace: str
    inode: int
    interface: str
    spec: str

    @property
    def _in(self) -> Namespace:
        return Namespace(self.namespace, self.inode)

    def _root(self) -> dict[str, Any]:
        for it in self._in.ask("tc", "-s", "-j", "qdisc", "show", "dev", self.interface):
            if it.get("root"):
                found: dict[str, Any] = it
                return found
        return {}

    def describe(self) -> str:
        return f"tc qdisc add dev {self.interface} root handle {HANDLE} {self.spec} in {self.namespace}"

    def describe_undo(self) -> str:
        return f"tc qdisc del dev {self.interface} root handle {HANDLE} in {self.namespace}"

    def before(self) -> Before:
        if self._in.is_own and self.interface in (default_interface(), "lo"):
            raise PlanError(
                "interface", self.interface, "is this host's own way out: choose one of a node's network namespace"
            )
        found = self._root()
        if found and (found["kind"] not in _KERNELS_OWN or found["handle"] not in ("0:", "")):
            raise PlanError(
                "interface", self.interface, f"has a root qdisc that is not ours ({found['kind']} {found['handle']})"
            )
        return {"kind": found.get("kind", "")}

    def act(self, before: Before) -> None:  # noqa: ARG002
        self._in.run("tc", "qdisc", "add", "dev", self.interface, "root", "handle", HANDLE, *self.spec.split())

    def effective(self, before: Before) -> str:  # noqa: ARG002
        found = self._root()
        if found.get("handle") != HANDLE or not found.get("packets"):
            return ""
        return f"{found['packets']} packets went through {found['kind']} on {self.interface}"

    def undo(self, before: Before) -> None:  # noqa: ARG002
        if not self._in.find():
            return
        try:
            ours = self._root().get("handle") == HANDLE
        except FaultError:  # the interface is gone, and with it its qdisc
            return
        if ours:
            self._in.run("tc", "qdisc", "del", "dev", self.interface, "root", "handle", HANDLE)

    def residue(self, before: Before) -> str:  # noqa: ARG002
        try:
            ours = bool(self._in.find()) and self._root().get("handle") == HANDLE
        except FaultError:
            return ""
        return f"{self.interface} still has our qdisc" if ours else ""
