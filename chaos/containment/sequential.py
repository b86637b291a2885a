"""Stop early when a bystander suffers: an e-process that may be looked at after every request."""

from __future__ import annotations

from collections.abc import Iterable

from aiobs.errors import PlanError

_FROM_THE_START = 0.9
"""Weight of trouble that begins with the watching; the rest is spread over all later requests, so that a long
healthy time does not make it slow to see."""

LIMIT = 200.0
"""Evidence to stop at: a healthy service reaches it with probability 0.5 % at most, however long it is watched."""
SILENCE_S = 10.0


class Abort:
    """Watches one stratum's requests; `why` is "" until the experiment must stop.

    It fails closed: a bystander that says nothing for `silence_s` seconds stops the experiment just the same.

    Args:
        name: of the stratum, for the sentence.
        bad_ratio: share of bad requests that is normal.
        unbearable: share at which stopping is right; its evidence grows fastest there, but also above it.
        silence_s: after how long without a request the watching counts as lost; 0: never.
        limit: evidence to stop at; more where many are watched at once.
        clumping: how many bad requests usually come at a time: so many count as one.

    Raises:
        PlanError: one of these cannot be.
    """

    def __init__(
        self,
        name: str,
        bad_ratio: float,
        unbearable: float,
        silence_s: float = SILENCE_S,
        *,
        limit: float = LIMIT,
        clumping: float = 1.0,
    ) -> None:
        if not 0 < bad_ratio < 1:
            raise PlanError("bad_ratio", bad_ratio, "use a share between 0 and 1, such as 0.01")
        if not bad_ratio < unbearable < 1:
            raise PlanError("unbearable", unbearable, f"use a share between bad_ratio ({bad_ratio}) and 1")
        if not 1 <= clumping < float("inf"):
            raise PlanError("clumping", clumping, "1 for independent requests, else more")
        self.name = name
        self.why = ""
        self.requests = 0
        # A power below 1 of a likelihood ratio is still a fair bet against the healthy: it grows more slowly.
        self._bad = (unbearable / bad_ratio) ** (1 / clumping)
        self._good = ((1 - unbearable) / (1 - bad_ratio)) ** (1 / clumping)
        self._limit = limit
        self._shares = (bad_ratio, unbearable)
        self._evidence = 0.0
        self._silence_s = silence_s
        self._last_s: float | None = None

    @property
    def evidence(self) -> float:
        """How much better `unbearable` explains what was seen than `bad_ratio`."""
        later = max(self.requests, 1)
        return self._evidence + (1 - _FROM_THE_START) / later

    def see(self, bad: Iterable[bool], now_s: float) -> bool:
        """Take requests in the order they ended; true once the experiment must stop."""
        for one in bad:
            self.requests += 1
            k = self.requests
            begins_here = _FROM_THE_START if k == 1 else (1 - _FROM_THE_START) / (k * (k - 1))
            self._evidence = min((self._evidence + begins_here) * (self._bad if one else self._good), 1e300)
            if self._evidence >= self._limit and not self.why:
                normal, unbearable = self._shares
                self.why = (
                    f"{self.name} fails far more than {normal:.2%} of its requests (evidence {self._evidence:.0f} to 1 for "
                    f"{unbearable:.0%} and more, after {self.requests} requests)"
                )
            self._last_s = now_s
        return self.check(now_s)

    def check(self, now_s: float) -> bool:
        """Whether to stop at the time `now_s` (seconds, any clock that `see` used too)."""
        if self._last_s is None:
            self._last_s = now_s
        if not self.why and self._silence_s and now_s - self._last_s > self._silence_s:
            self.why = f"{self.name} has not been heard of for {now_s - self._last_s:.1f} s: nobody is watching it"
        return bool(self.why)
