"""Network interfaces, taken down and up again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiobs.chaos.namespaces import Namespace, default_interface
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError, PlanError


@dataclass(frozen=True)
class Down(Operation):
    """Take an interface down; undone, it is up again, with the routes that went with it.

    Attributes:
        kept: leave it up for now and only see to it that it is up in the end: for a worker that takes it down in
            turns.
    """

    kind = "link.down"

    namespace: str
    inode: int
    interface: str
    kept: bool = False

    @property
    def _in(self) -> Namespace:
        return Namespace(self.namespace, self.inode)

    def _is_up(self) -> bool | None:
        """None where the interface or its namespace is gone."""
        if not self._in.find():
            return None
        try:
            (found,) = self._in.ask("ip", "-j", "link", "show", "dev", self.interface)
        except (FaultError, ValueError):
            return None
        return "UP" in found["flags"]

    def describe(self) -> str:
        what = "see to it that it is up in the end" if self.kept else "down"
        return f"ip link set {self.interface} {what} in {self.namespace}"

    def describe_undo(self) -> str:
        return f"ip link set {self.interface} up in {self.namespace}, with its routes"

    def before(self) -> Before:
        if self._in.is_own and self.interface in (default_interface(), "lo"):
            raise PlanError(
                "interface", self.interface, "is this host's own way out: choose one of a node's network namespace"
            )
        if not self._is_up():
            raise PlanError("interface", self.interface, "is not up, so taking it down would prove nothing")
        routes: list[dict[str, Any]] = self._in.ask("ip", "-j", "route", "show", "dev", self.interface)
        return {"routes": [it for it in routes if it.get("protocol") != "kernel"]}

    def act(self, before: Before) -> None:  # noqa: ARG002
        if not self.kept:
            self._in.run("ip", "link", "set", "dev", self.interface, "down")

    def effective(self, before: Before) -> str:  # noqa: ARG002
        if self.kept:
            return f"{self.interface} will be up in the end"
        return f"{self.interface} is down" if self._is_up() is False else ""

    def undo(self, before: Before) -> None:
        if self._is_up() is not False:
            return
        self._in.run("ip", "link", "set", "dev", self.interface, "up")
        for route in before["routes"]:
            words = [route["dst"], *(("via", route["gateway"]) if "gateway" in route else ())]
            metric = ("metric", str(route["metric"])) if "metric" in route else ()
            self._in.run("ip", "route", "replace", *words, "dev", self.interface, *metric)

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return f"{self.interface} in {self.namespace} is down" if self._is_up() is False else ""
