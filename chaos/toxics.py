"""What faults that go through the proxy share: how connections are carried on."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiobs.errors import PlanError

from .fault import Fault, Setting
from .operations.worker import Run


@dataclass(frozen=True)
class ThroughProxy(Fault):
    """A fault whose connections go through a worker that delays, narrows or breaks them.

    Attributes:
        delay_s, jitter_s: what is sent arrives so much later, give or take; the order stays.
        rate_mbit: megabits a second of each connection; 0: as fast as it goes.
        share: of the connections, chosen by the seed.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    rate_mbit: float = 0.0
    share: float = 1.0

    def check(self) -> None:
        for name, least, most in (
            ("delay_s", 0, 600),
            ("jitter_s", 0, self.delay_s),
            ("rate_mbit", 0, 1e6),
            ("share", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise PlanError(f"{self.kind}: {name}", value, f"use {least} to {most:g}")

    def worker(
        self, setting: Setting, listen: tuple[str, int], upstream: tuple[str, int] = ("", 0), *, enters: str = "",
        blackhole: bool = False, reset_after_bytes: int = -1,
    ) -> Run:  # fmt: skip
        """The operation that runs the proxy; without an `upstream` it serves redirected connections."""
        told = {
            "listen_host": listen[0], "listen_port": listen[1], "host": upstream[0], "port": upstream[1],
            "delay_s": self.delay_s, "jitter_s": self.jitter_s, "rate_bytes": self.rate_mbit * 125_000,
            "share": self.share, "blackhole": blackhole, "reset_after_bytes": reset_after_bytes,
            "seed": setting.random.randrange(1 << 32),
        }  # fmt: skip
        name = f"{setting.injection}-proxy-{listen[1]}"
        return Run("proxy", name, json.dumps(told), setting.folder, enters=enters)
