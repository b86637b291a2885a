"""What faults that go through the proxy share: how connections are carried on."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.errors import PlanError

from .fault import Fault, Setting
from .namespaces import Namespace
from .network import cannot_change
from .operation import Operation
from .operations.nft import GATE, SLACK_S, Table
from .operations.worker import Run
from .target import Unit
from .traffic import Traffic
from .workers.proxy import DISTRIBUTIONS, MARK


@dataclass(frozen=True)
class ThroughProxy(Fault):
    """A fault whose connections go through a worker that delays, narrows or breaks them.

    Attributes:
        delay_s, jitter_s: what is sent arrives so much later, give or take; the order stays.
        distribution: of the jitter: ``uniform`` (at most `jitter_s` either way), ``normal`` (`jitter_s` is the
            standard deviation) or ``pareto`` (later only, half of `jitter_s` on average, with a heavy tail).
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        close_s: the end of the connection, from either side, is passed on so much later; the other side holds a
            half-open one until then.
        share: of the connections, chosen by the seed.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    distribution: str = "uniform"
    close_s: float = 0.0
    rate_mbit: float = 0.0
    share: float = 1.0

    def check(self) -> None:
        for name, least, most in (
            ("delay_s", 0, 600),
            ("jitter_s", 0, self.delay_s if self.distribution == "uniform" else 600),
            ("close_s", 0, 3600),
            ("rate_mbit", 0, 1e6),
            ("share", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise PlanError(f"{self.kind}: {name}", value, f"use {least} to {most:g}")
        if self.distribution not in DISTRIBUTIONS:
            known = ", ".join(DISTRIBUTIONS)
            raise PlanError(f"{self.kind}: distribution", self.distribution, f"use one of {known}")

    def worker(
        self, setting: Setting, listen: tuple[str, int], upstream: tuple[str, int] = ("", 0), *, enters: str = "",
        blackhole: bool = False, reset_after_bytes: int = -1,
    ) -> Run:  # fmt: skip
        """The operation that runs the proxy; without an `upstream` it serves redirected connections."""
        told = {
            "listen_host": listen[0], "listen_port": listen[1], "host": upstream[0], "port": upstream[1],
            "delay_s": self.delay_s, "jitter_s": self.jitter_s, "rate_bytes": self.rate_mbit * 125_000,
            "distribution": self.distribution, "close_s": self.close_s, "share": self.share,
            "blackhole": blackhole, "reset_after_bytes": reset_after_bytes, "seed": setting.random.randrange(1 << 32),
        }  # fmt: skip
        name = f"{setting.injection}-proxy-{listen[1]}"
        return Run("proxy", name, json.dumps(told), setting.folder, enters=enters)


@dataclass(frozen=True)
class Redirected(ThroughProxy):
    """Through a proxy that nobody was pointed at: the kernel hands it the new connections to a port, in the unit's
    own network namespace.

    Attributes:
        port: of the other side; `peer`: its IPv4 address or network, "" for all; `user`: numeric id of who connects,
            -1 for all.
        reset_standing: break the connections that stand when the fault begins, so that a pool makes new ones, which
            are hit; false: they are spared.
    """

    takes = ("namespace",)

    port: int = 0
    peer: str = ""
    user: int = -1
    reset_standing: bool = False

    def check(self) -> None:
        super().check()
        if not 1 <= self.port <= 65535:
            raise PlanError(f"{self.kind}: port", self.port, "use 1 to 65535: the port whose connections are meant")
        Traffic(self.port, self.peer).check(self.kind)

    def missing(self, unit: Unit) -> list[str]:
        return cannot_change(unit, "nft", "nsenter")

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        namespace = Namespace.of(unit.namespace)
        listen = setting.random.randrange(40_000, 60_000)
        peer = Traffic(self.port, self.peer).resolved(unit, self.kind).peer
        held = f"ip daddr {{ {peer} }} " if peer else ""
        held += f"meta skuid {self.user} " if self.user >= 0 else ""
        meant = f"{GATE} meta mark != {MARK} {held}tcp dport {self.port}"
        # First packets only: the kernel's tracking may begin with the fault, and what stands is new to it then.
        redirect = f"{meant} tcp flags & (syn | ack) == syn counter redirect to :{listen}"
        chains = [_chain("output", "nat", -100, redirect)]
        if self.reset_standing:
            # Behind the redirection: what still has its first destination here has not been redirected.
            answer = f"{meant} meta l4proto tcp tcp flags & rst == 0x0 counter reject with tcp reset"
            chains.append(_chain("standing", "filter", 10, answer))
        name, ttl_s = f"aiobs_{setting.injection}", setting.effect_s + SLACK_S
        return [
            self.worker(setting, ("0.0.0.0", listen), enters="" if namespace.is_own else namespace.path),  # noqa: S104 - of the unit's namespace
            Table(namespace.path, namespace.inode, name, tuple(chains), ttl_s),
        ]


def _chain(name: str, kind: str, priority: int, rule: str) -> str:
    return f"chain {name} {{ type {kind} hook output priority {priority}; policy accept;\n{rule}\n}}"
