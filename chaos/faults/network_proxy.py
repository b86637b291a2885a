"""A bad line, without root: a proxy that a client was pointed at."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.fault import Setting
from aiobs.chaos.operation import Operation
from aiobs.chaos.target import Unit
from aiobs.chaos.toxics import ThroughProxy
from aiobs.errors import PlanError


@dataclass(frozen=True)
class NetworkProxy(ThroughProxy):
    """Listen on ``127.0.0.1:listen`` and carry connections to the target (``tcp:host:port``), late, slowly or not.

    Outside the fault nobody listens there: point a client at it only for the experiment.

    Attributes:
        listen: port of this machine.
        delay_s, jitter_s: what the client sends arrives so much later, give or take; the order stays.
        distribution: of the jitter: ``uniform`` (at most `jitter_s` either way), ``normal`` (`jitter_s` is the
            standard deviation) or ``pareto`` (later only, half of `jitter_s` on average, with a heavy tail).
        close_s: the end of a connection, from either side, is passed on so much later: half-open until then.
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        share: of the connections, chosen by the seed.
        blackhole: nothing arrives, and nobody is told.
        reset_after_bytes: the connection is reset after so many bytes of the client; 0: at once; -1: never.
    """

    kind = "network.proxy"
    takes = ("address",)
    certifies = "programs whose peer answers late, slowly, with a reset or never"
    limits = "packets: loss and retransmission do not occur; connections made through it end with it"

    listen: int = 0
    blackhole: bool = False
    reset_after_bytes: int = -1

    def check(self) -> None:
        super().check()
        if not 1 <= self.listen <= 65535:
            raise PlanError(
                "network.proxy: listen", self.listen, "use 1 to 65535: the port that the client is pointed at"
            )
        if self.reset_after_bytes < -1:
            raise PlanError(
                "network.proxy: reset_after_bytes", self.reset_after_bytes, "use 0 or more, or -1 for never"
            )

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        host, _, port = unit.address.rpartition(":")
        return [
            self.worker(
                setting,
                ("127.0.0.1", self.listen),
                (host.strip("[]"), int(port)),
                blackhole=self.blackhole,
                reset_after_bytes=self.reset_after_bytes,
            )
        ]
