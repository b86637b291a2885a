"""The replicas behind the router: who they are, how they are, and which one is next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import httpx

from llm.bulkheads import Limits

HEALTH_S = 0.5
LONGEST_EJECTION_S = 8.0


@dataclass(eq=False)
class Replica:
    """One server behind the router.

    Attributes:
        healthy: what it last said of itself. outstanding: requests it has. turn: when it was chosen last.
        failures: of requests, in a row. ejected_until: on the monotonic clock; ejections: in a row.
    """

    name: str
    url: str
    healthy: bool = True
    outstanding: int = 0
    turn: int = 0
    failures: int = 0
    ejected_until: float = 0.0
    ejections: int = 0

    def is_well(self) -> bool:
        """Whether requests are sent to it at all, as long as there is another."""
        return self.healthy and time.monotonic() >= self.ejected_until

    def failed(self, limits: Limits) -> None:
        """A request failed there."""
        self.failures += 1
        if limits.walls and self.failures >= limits.eject_after:
            self.ejections += 1
            alone_s = min(limits.eject_s * 2 ** (self.ejections - 1), LONGEST_EJECTION_S)
            self.ejected_until, self.failures = time.monotonic() + alone_s, 0

    def answered(self) -> None:
        """It answered a request."""
        self.failures = self.ejections = 0


class Replicas:
    """All of them, as the command line names them or the registry has them."""

    def __init__(self, client: httpx.AsyncClient, limits: Limits, words: Iterable[str], registry: str = "") -> None:
        """`words`: ``http://…`` or ``name=http://…`` each; `registry`: its URL, "" for none."""
        self._client, self._limits, self._registry = client, limits, registry
        self._turns = count(1)
        self.all: list[Replica] = []
        for index, word in enumerate(words):
            name, equals, url = word.partition("=http")
            self.all.append(Replica(name, f"http{url}") if equals else Replica(f"replica-{index}", word))
        for each in self.all:
            each.url = each.url.rstrip("/")

    def choose(self, tried: Sequence[Replica]) -> Replica | None:
        """The replica with the fewest outstanding requests that is not among those `tried` and has room; one that is
        not well only where no other is left."""
        limits = self._limits
        if not limits.walls:  # in turn, whoever they are and however they are
            chosen = min(self.all, key=lambda it: it.turn, default=None)
        else:
            left = [it for it in self.all if it not in tried and it.outstanding < limits.per_replica]
            chosen = min(left, key=lambda it: (not it.is_well(), it.outstanding, it.turn), default=None)
        if chosen is not None:
            chosen.turn = next(self._turns)
        return chosen

    async def watch(self) -> None:
        """Ask the registry who there is, and every replica how it is, again and again."""
        while self._limits.walls:
            if self._registry:
                await self.look_up()
            await asyncio.gather(*map(self._ask, self.all))
            await asyncio.sleep(HEALTH_S)

    async def look_up(self) -> bool:
        """Learn from the registry who there is; false where it does not tell.

        It adds replicas and moves them, and takes none away: a registry that has just been started again knows few or
        none. Whether a replica lives is for itself to say.
        """
        limit_s = self._limits.connect_s if self._limits.walls else None
        try:
            found: dict[str, str] = (await self._client.get(f"{self._registry}/replicas", timeout=limit_s)).json()
        except (httpx.TransportError, ValueError):
            return False
        known = {it.name: it for it in self.all}
        for name, url in found.items():
            if name not in known or known[name].url != url:
                known[name] = Replica(name, url)
        self.all = list(known.values())
        return bool(found)

    async def _ask(self, replica: Replica) -> None:
        try:
            answer = await self._client.get(f"{replica.url}/health", timeout=self._limits.connect_s)
            healthy = answer.status_code == 200
            if healthy and not replica.healthy:
                replica.ejected_until = 0.0  # it says itself that it is back
            replica.healthy = healthy
        except httpx.TransportError:
            replica.healthy = False
