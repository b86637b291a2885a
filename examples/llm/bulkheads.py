"""What keeps one failure from becoming everybody's: how many requests go where, how long somebody is waited for, and
which request is sent again."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STRIKES = 2
"""A request that has lost so many replicas is taken for what killed them."""
REMEMBERED_S = 60.0


@dataclass(frozen=True)
class Limits:
    """What the router allows.

    Attributes:
        per_replica: requests that one replica has at once. per_tenant: requests of one tenant that are on their way at
            once; `waiting`: so many more of them wait for their turn, what comes then is refused.
        connect_s: how long a connection may take. answer_s: how long a replica may be silent, before the first token
            or between two.
        eject_after: failures in a row after which a replica is left alone for `eject_s`, twice as long each time it
            happens again.
        walls: false: none of this, and a request is sent until somebody answers.
    """

    per_replica: int = 512
    per_tenant: int = 512
    waiting: int = 512
    connect_s: float = 1.0
    answer_s: float = 30.0
    eject_after: int = 2
    eject_s: float = 1.0
    walls: bool = True


class Tenants:
    """Each tenant's share: one that asks for more waits for itself, and takes nothing from the others."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: dict[str, asyncio.Semaphore] = {}
        self._there: Counter[str] = Counter()

    async def enter(self, tenant: str) -> bool:
        """Wait for a turn; false where too many wait already."""
        limits = self._limits
        if not limits.walls:
            return True
        if self._there[tenant] >= limits.per_tenant + limits.waiting:
            return False
        self._there[tenant] += 1
        turns = self._running.setdefault(tenant, asyncio.Semaphore(limits.per_tenant))
        try:
            await turns.acquire()
        except BaseException:
            self._gone(tenant)
            raise
        return True

    def leave(self, tenant: str) -> None:
        """A request that had its turn is over."""
        if self._limits.walls:
            self._running[tenant].release()
            self._gone(tenant)

    def _gone(self, tenant: str) -> None:
        self._there[tenant] -= 1
        if not self._there[tenant]:  # nobody runs and nobody waits: tenants of the past take no room
            del self._there[tenant], self._running[tenant]


class Suspects:
    """Requests that were on a replica when it died, none of their answer having come.

    Most of them only had bad luck, and are sent once more, one copy at a time. The same request (tenant and body) that
    loses a second replica, whoever sends it, is taken for the cause, and refused for a while.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._on_trial: set[str] = set()

    @contextmanager
    def trial(self, mark: str) -> Iterator[bool]:
        """Send it while the block runs; false where it must not be: it is a suspect, and a copy of it is on trial."""
        suspected = self.strikes(mark) > 0
        if suspected and mark in self._on_trial:
            yield False
            return
        if suspected:
            self._on_trial.add(mark)
        try:
            yield True
        finally:
            if suspected:
                self._on_trial.discard(mark)

    @staticmethod
    def mark(tenant: str, body: bytes) -> str:
        """What tells this request from others."""
        return hashlib.sha256(tenant.encode() + b"\0" + body).hexdigest()

    def lost(self, mark: str) -> None:
        """A replica was lost with it."""
        now = time.monotonic()
        self._seen = {key: it for key, it in self._seen.items() if now - it[1] < REMEMBERED_S}
        self._seen[mark] = (self.strikes(mark) + 1, now)

    def answered(self, mark: str) -> None:
        """It is harmless."""
        self._seen.pop(mark, None)

    def strikes(self, mark: str) -> int:
        """How many replicas it has lost of late."""
        count, at = self._seen.get(mark, (0, 0.0))
        return count if time.monotonic() - at < REMEMBERED_S else 0

    def is_poison(self, mark: str) -> bool:
        """Whether it must not be sent to anybody."""
        return self.strikes(mark) >= STRIKES
