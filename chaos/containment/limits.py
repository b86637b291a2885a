"""What is ordinary for a bystander, from the time before the fault, and so from where on it suffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise

from aiobs.chaos.containment.batch_means import inflation
from aiobs.chaos.containment.model import REST, Slo
from aiobs.chaos.containment.proportions import wilson
from aiobs.chaos.containment.sequential import LIMIT, Abort
from aiobs.errors import ArmError

UNBEARABLE = 0.09
"""So far above the ordinary share of bad requests an experiment is stopped soonest; at 1 % promised that is 10 %."""
_LOOKED_AT = 5000
_LATELY_S = 120.0
_LATE = 1000
"""By so much more evidence is asked for against strata that turn up only during the fault, of which there may be many."""
_SURE = 2.576
_GAPS = 3.0
_PLAINLY = 2.0


class Ordinary:
    """What one stratum said of one SLO lately, before the fault."""

    def __init__(self) -> None:
        self._heard: deque[tuple[float, bool]] = deque(maxlen=_LOOKED_AT)

    def see(self, bad: bool, now_s: float) -> None:
        """Take a request that arrived at `now_s`."""
        self._heard.append((now_s, bad))

    def bad(self, now_s: float) -> list[bool]:
        """Whether each of the last requests was bad."""
        while self._heard and self._heard[0][0] < now_s - _LATELY_S:
            self._heard.popleft()
        return [bad for _, bad in self._heard]

    def patience_s(self, least_s: float) -> float:
        """After how long it counts as silent: what is sent in batches, or seldom, is waited for."""
        times = [at for at, _ in self._heard]
        return max([least_s, *[_GAPS * (after - before) for before, after in pairwise(times)]])

    def alive(self, least_s: float, now_s: float) -> bool:
        """Whether it is still heard."""
        return bool(self._heard) and now_s - self._heard[-1][0] <= self.patience_s(least_s)


def watchers(
    heard: Mapping[tuple[str, str], Ordinary], slos: Mapping[str, Slo], silence_s: float, now_s: float
) -> dict[tuple[str, str], Abort]:
    """An :class:`Abort` for each stratum and SLO, that together hardly ever stop a healthy experiment.

    Raises:
        ArmError: one of them is ill already.
    """
    # Of more than two each has half the share it is due: what evidence jumps beyond the limit makes up for it.
    limit = LIMIT * max(min(len(heard), 1.5), len(heard) / 2)
    found = {}
    for (stratum, slo), it in heard.items():
        promised = 1.0 - (slos[slo].objective or 0.99)
        flags = it.bad(now_s)
        bad, n = sum(flags), len(flags)
        low, high = wilson(bad, n, _SURE)
        if low > promised + slos[slo].margin:
            raise ArmError(f"{slo} of {stratum} is ill before the fault: {bad} of {n} were bad, {promised:.2%} is promised; get it healthy first")  # fmt: skip
        usual = high if low > promised else promised
        # Of "everything else" nobody knows whether it has to say something all the time.
        patience_s = 0.0 if stratum == REST or not silence_s else it.patience_s(silence_s)
        abort = Abort(
            f"{slo} of {stratum}", min(max(usual, 1e-6), 0.98), min(usual + UNBEARABLE, 0.99), patience_s,
            limit=limit if n else LIMIT * _LATE, clumping=_clumping(flags),
        )  # fmt: skip
        abort.check(now_s)
        found[stratum, slo] = abort
    return found


def _clumping(flags: list[bool]) -> float:
    """How many bad requests come at a time; 1 where that is not plain: it makes a watch slower to stop."""
    found = inflation(flags) if any(flags) else 1.0
    return found if found >= _PLAINLY else 1.0
