"""What faults share that send requests to a service: whom they may ask, with what, and the worker that does."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from typing import Any

from aiobs.errors import PlanError

from .fault import Fault, Setting
from .namespaces import Namespace
from .operations.worker import Run
from .target import Unit

LONGEST_BODY = 64 << 10


@dataclass(frozen=True)
class Asking(Fault):
    """A fault that sends requests (plain HTTP/1.1) to the address of its target.

    Attributes:
        path: of each request, with its query.
        body: JSON text that is POSTed; "": a GET.
        tenant: on whose behalf, in the header `tenant_header`; "": no such header.
        tenant_header: name of that header.
        port: of the service, for a target that is an address without one (a node).
        answer_s: seconds after which a request is given up.
        peers: the explicit word for a service that is not on this machine: its address, once more. The plan's `within`
            has to cover it too.
    """

    takes = ("address",)

    path: str = "/"
    body: str = ""
    tenant: str = ""
    tenant_header: str = "x-tenant"
    port: int = 0
    answer_s: float = 30.0
    peers: str = ""

    def check(self) -> None:
        if not self.path.startswith("/") or not _plain(self.path) or " " in self.path:
            raise PlanError(f"{self.kind}: path", self.path, "use a path such as /v1/completions, without spaces")
        for name in ("tenant", "tenant_header"):
            if not _plain(getattr(self, name)):
                raise PlanError(f"{self.kind}: {name}", getattr(self, name), "use printable ASCII characters")
        if not self.tenant_header or ":" in self.tenant_header or " " in self.tenant_header:
            raise PlanError(f"{self.kind}: tenant_header", self.tenant_header, "use a header's name, such as x-tenant")
        if len(self.body.encode()) > LONGEST_BODY:
            raise PlanError(f"{self.kind}: body", f"{len(self.body)} characters", f"use at most {LONGEST_BODY} bytes")
        try:
            json.loads(self.body or "null")
        except ValueError as error:
            raise PlanError(f"{self.kind}: body", self.body, f"use JSON ({error})") from None
        if not 0 <= self.port <= 65535:
            raise PlanError(f"{self.kind}: port", self.port, "use 1 to 65535, or 0 where the target has one")
        if not 0 < self.answer_s <= 600:
            raise PlanError(f"{self.kind}: answer_s", self.answer_s, "use seconds above 0, at most 600")

    def address(self, unit: Unit) -> tuple[str, int]:
        """Host and port of the service. Raises PlanError where there is no port."""
        host, colon, port = unit.address.rpartition(":")
        if not colon or (":" in host and not host.startswith("[")):  # an address without a port
            host, port = unit.address, str(self.port or "")
        if not port:
            raise PlanError(f"{self.kind}: port", self.port, f"name the port: {unit.label} has an address only")
        return host.strip("[]"), int(port)

    def is_far(self, unit: Unit) -> bool:
        """Whether the service may be on another machine: not on loopback, nor on a node of a testbed here."""
        return not unit.namespace and not ipaddress.ip_address(self.address(unit)[0]).is_loopback

    def wants_radius(self, unit: Unit) -> bool:
        return self.is_far(unit)

    def missing(self, unit: Unit) -> list[str]:
        if unit.namespace and os.geteuid() != 0 and not Namespace.of(unit.namespace).is_own:
            return [
                f"the network of {unit.label} can be entered by root only: become root, or ask a service on loopback"
            ]
        return []

    def worker(self, unit: Unit, setting: Setting, **told: Any) -> Run:
        """The operation that sends them.

        Raises:
            PlanError: the service is on another machine, and the plan does not say so.
        """
        host, port = self.address(unit)
        if self.is_far(unit) and self.peers != host:
            raise PlanError(
                f"{self.kind}: peers", self.peers, f"{host} is not on this machine: say peers={host} if that is meant, and "
                "declare it in `within`",
            )  # fmt: skip
        told |= {
            "host": host, "port": port, "path": self.path, "body": self.body, "answer_s": self.answer_s,
            "headers": {self.tenant_header: self.tenant} if self.tenant else {},
        }  # fmt: skip
        name = f"{setting.injection}-asking-{port}"
        return Run("asking", name, json.dumps(told), setting.folder, enters=unit.namespace)


def _plain(text: str) -> bool:
    return text.isascii() and (not text or text.isprintable())
