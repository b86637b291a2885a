"""Simulated telemetry with known truth, and what the verdict's numbers come to on it.

``python tests/containment/rates.py --runs 10000`` prints the tables of docs/containment.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aiobs.chaos.containment.cells import cell
from aiobs.chaos.containment.judge import judge
from aiobs.chaos.containment.model import Boundary, Fault, Indicator, Samples, Seen, Slo, Spec, Windows
from aiobs.chaos.containment.planning import plan
from aiobs.chaos.containment.sequential import Abort

SEED = 20261124
SIZE = 4000
SECOND = 10**9
WINDOWS = Windows((0, 60 * SECOND), (60 * SECOND, 120 * SECOND), (120 * SECOND, 180 * SECOND), SECOND, 0, 0)


def times(size: int) -> Any:
    return (np.arange(2 * size) * (120e9 / (2 * size))).astype(np.int64)


START = times(SIZE)
DURING = START >= 60 * SECOND
Made = tuple[Samples, "Samples | None"]


def samples(bad: Any, value: Any = None, start: Any = START) -> Samples:
    return Samples("a", "s", "outside", start, bad, np.empty(0) if value is None else value)


def walk(rng: Any, size: int, phi: float) -> Any:
    from scipy.signal import lfilter

    noise = rng.standard_normal(size) * (1 - phi * phi) ** 0.5
    noise[0] = rng.standard_normal()
    return lfilter([1], [1, -phi], noise)


def independent(rng: Any, growth: float) -> Made:
    return samples(rng.random(2 * SIZE) < 0.01 + growth * DURING), None


def correlated_errors(rng: Any, growth: float) -> Made:
    level = np.repeat(walk(rng, 2 * SIZE // 10, 0.95), 10)
    return samples(rng.random(2 * SIZE) < np.clip(0.01 * np.exp(0.7 * level - 0.245) + growth * DURING, 0, 1)), None


def bursts(rng: Any, growth: float) -> Made:
    bad = rng.random(2 * SIZE) < growth * DURING
    for begin in rng.integers(0, 2 * SIZE, rng.poisson(2 * SIZE * 0.01 / 8)):
        bad[begin : begin + rng.geometric(1 / 8)] = True
    return samples(bad), None


def bursty_harm(rng: Any, growth: float) -> Made:
    bad = rng.random(2 * SIZE) < 0.005
    for begin in SIZE + rng.integers(0, SIZE, rng.poisson(SIZE * growth / 8)):
        bad[begin : begin + rng.geometric(1 / 8)] = True
    return samples(bad), None


def shared_drift(rng: Any, growth: float) -> Made:
    level = np.cumsum(rng.standard_normal(2 * SIZE)) / SIZE**0.5
    share = np.clip(0.02 + 0.006 * (level - level.mean()), 0.002, 1)
    return samples(rng.random(2 * SIZE) < np.clip(share + growth * DURING, 0, 1)), samples(rng.random(2 * SIZE) < share)


def durations(phi: float) -> Callable[[Any, float], Made]:
    def made(rng: Any, growth: float) -> Made:
        value = (1 + 0.3 * walk(rng, 2 * SIZE, phi)) * (1 + growth * DURING)
        return samples(np.zeros(2 * SIZE, bool), value), None

    return made


def heavy_tail(rng: Any, growth: float) -> Made:
    value = (0.5 + 0.75 * rng.pareto(2.5, 2 * SIZE)) * (1 + growth * DURING)
    return samples(np.zeros(2 * SIZE, bool), value), None


def fallen(rng: Any, growth: float) -> Made:
    """Requests of which fewer and fewer are good, at 40 a second and in waves."""
    wave = 1 + 0.3 * np.sin(START / 2e9)
    there = rng.random(2 * SIZE) < 0.6 * wave * np.where(DURING, 1 - growth, 1.0)
    return samples(np.zeros(there.sum(), bool), start=START[there]), None


SERIES: dict[str, tuple[Callable[[Any, float], Made], Any, float]] = {
    "independent errors": (independent, "ratio", 0.02),
    "correlated errors": (correlated_errors, "ratio", 0.02),
    "errors in bursts of 8": (bursts, "ratio", 0.03),
    "harm in bursts of 8": (bursty_harm, "ratio", 0.03),
    "drift shared with a control": (shared_drift, "ratio", 0.02),
    "durations, φ 0.6": (durations(0.6), "mean", 0.1),
    "durations, φ 0.95": (durations(0.95), "mean", 0.1),
    "durations, φ 0.98": (durations(0.98), "mean", 0.1),
    "durations, φ 0.99": (durations(0.99), "mean", 0.1),
    "durations, heavy tail": (heavy_tail, "mean", 0.1),
    "throughput in waves": (fallen, "rate", 0.1),
}


def results(series: str, growth: float, runs: int, seed: int = SEED) -> Counter[str]:
    """What `runs` cells of `series` come out as; `growth` in margins."""
    make, kind, margin = SERIES[series]
    rng = np.random.default_rng([seed, list(SERIES).index(series)])
    slo = Slo("s", kind, Indicator(), 0.99 if kind == "ratio" else None, margin)
    found: Counter[str] = Counter()
    for _ in range(runs):
        one, control = make(rng, growth * margin)
        found[cell(one, slo, WINDOWS, Spec.alpha, control).result] += 1
    return found


def power(objective: float, margin: float, runs: int) -> tuple[float, int]:
    """How often a healthy stratum of the planned size is shown to have held, and that size."""
    slo = Slo("s", "ratio", Indicator(), objective, margin)
    (size,) = plan(Spec((), (slo,)), strata=1, power=0.9)
    rng, start, held = np.random.default_rng(SEED), times(size.requests), 0
    for _ in range(runs):
        one = samples(rng.random(len(start)) < 1 - objective, start=start)
        held += cell(one, slo, WINDOWS, Spec.alpha).result == "held"
    return held / runs, size.requests


def stops(rng: Any, share: float, requests: int) -> int:
    """The request at which the experiment is stopped; a very large number: never."""
    abort = Abort("a", 0.01, 0.07, silence_s=0)
    bad = (rng.random(requests) < share).tolist()
    for place, one in enumerate(bad):
        if abort.see((one,), 0.0):
            return place + 1
    return 10**9


class Service:
    """Three replicas behind a router, the first of them lost for the length of a window, as a source of telemetry.

    Args:
        leak: by how much more of the requests to the second fail meanwhile.
        rate: requests a second to each; windows are 10 s long.
    """

    def __init__(self, rng: Any, rate: float = 30.0, leak: float = 0.0, length: float = 10.0, clumps: int = 1) -> None:
        self._rows: list[tuple[str, Any, Any, Any]] = []
        self.length = length
        for name in "abc":
            start = np.sort(rng.uniform(0, 3 * length, rng.poisson(3 * rate * length)))
            held = (start >= length) & (start < 2 * length)
            bad = np.repeat(rng.random(-(-len(start) // clumps)) < 0.005 / clumps, clumps)[: len(start)]
            seconds = rng.lognormal(-2.0, 0.6, len(start))
            if name == "a":
                bad = bad | (held | (start < 2 * length + 1) & (start >= length))
            elif name == "b":
                bad = bad | (held & (rng.random(len(start)) < leak))
            self._rows.append((name, (start * 1e9).astype(np.int64) + SECOND, bad, seconds))
        at = [round(place * length * 1e9) + SECOND for place in (1, 2, 3)]
        self.fault = Fault("f", "kill", at[0], at[0], at[1], "a")
        self._whole = (SECOND, at[2] - 1)
        self.spec = Spec(
            tuple([Boundary(name, {"aiobs.replica": (name,)}) for name in "abc"]),
            (
                Slo("availability", "ratio", Indicator(), 0.99, 0.1),
                Slo("latency", "threshold", Indicator(value="duration", above=1.0), 0.95, 0.1),
            ),
            permitted=("a",),
            rest=False,
        )

    def seen(self) -> Seen:
        alive = np.unique(np.concatenate([row[1] for row in self._rows]) // 10**8) * 10**8
        return Seen(sum(len(row[1]) for row in self._rows), 0, self._whole, alive, {})

    def faults(self) -> tuple[Fault, ...]:
        return (self.fault,)

    def samples(self, spec: Spec, permitted: Sequence[str]) -> tuple[Samples, ...]:
        found = []
        for name, start, bad, seconds in self._rows:
            side: Any = "inside" if name in permitted else "outside"
            found.append(Samples(name, "availability", side, start, bad, np.empty(0), took=seconds))
            found.append(Samples(name, "latency", side, start, seconds > 1.0, seconds, took=seconds))
        return tuple(found)


def verdicts(runs: int, **of: Any) -> Counter[str]:
    """What a whole judging comes to, in `runs` experiments on :class:`Service`."""
    rng = np.random.default_rng(SEED)
    found: Counter[str] = Counter()
    for _ in range(runs):
        service = Service(rng, **of)
        found[judge(service.spec, service).kind] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    print(
        f"| series ({runs} runs) | called held at the margin | called harmed when healthy | held when healthy |\n|---|---|---|---|"
    )
    for series in SERIES:
        at, well = results(series, 1.0, runs), results(series, 0.0, runs, SEED + 1)
        print(
            f"| {series} | {at['held'] / runs:.2%} | {well['harmed'] / runs:.2%} | {well['held'] / runs:.1%} |",
            flush=True,
        )
    print("\n| objective, margin | requests planned | held when healthy |\n|---|---|---|")
    for objective, margin in ((0.99, 0.02), (0.99, 0.01), (0.95, 0.05), (0.999, 0.005)):
        share, size = power(objective, margin, runs // 4)
        print(f"| {objective:g}, {margin:g} | {size} | {share:.1%} |", flush=True)
    rng = np.random.default_rng(SEED)
    false = np.mean([stops(rng, 0.01, 5000) < 10**9 for _ in range(runs)])
    print(
        f"\n| share of bad requests | stopped within 5,000 | median requests to it |\n|---|---|---|\n| 1% (normal) | {false:.2%} | |"
    )
    for share in (0.05, 0.1, 0.5):
        after = [stops(rng, share, 5000) for _ in range(runs // 4)]
        print(f"| {share:.0%} | {np.mean(np.array(after) < 10**9):.1%} | {np.median(after):.0f} |", flush=True)
    print("\n| whole experiments, three replicas, two SLOs | verdicts |\n|---|---|")
    for title, of in WHOLE.items():
        print(f"| {title} | {shown(verdicts(runs // 20, **of))} |", flush=True)


WHOLE: dict[str, dict[str, Any]] = {
    "healthy, 30 requests/s to each, windows of 10 s": {},
    "healthy, 60 requests/s, windows of 20 s": {"rate": 60.0, "length": 20.0},
    "healthy, errors three at a time": {"clumps": 3},
    "a sibling loses 10 points more, its margin": {"leak": 0.1},
    "a sibling loses 30 points more": {"leak": 0.3},
}


def shown(found: Counter[str]) -> str:
    total = found.total()
    return ", ".join(f"{kind.replace('_', ' ')} {count / total:.1%}" for kind, count in found.most_common())


if __name__ == "__main__":
    main()
