"""What the verdict's numbers come to on simulated telemetry with known truth: 2,000 runs a series, seed 20261124."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aiobs.chaos.containment.batch_means import inflation
from aiobs.chaos.containment.cells import cell
from aiobs.chaos.containment.model import Indicator, Samples, Slo, Spec, Windows
from aiobs.chaos.containment.planning import plan
from aiobs.chaos.containment.recovery import recovery
from aiobs.chaos.containment.sequential import LIMIT, Abort

SEED = 20261124
RUNS = 2000
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


SERIES: dict[str, tuple[Callable[[Any, float], Made], Any, float]] = {
    "independent": (independent, "ratio", 0.02),
    "correlated errors": (correlated_errors, "ratio", 0.02),
    "bursts": (bursts, "ratio", 0.03),
    "shared drift, with a control": (shared_drift, "ratio", 0.02),
    "durations, phi 0.6": (durations(0.6), "mean", 0.1),
    "durations, phi 0.95": (durations(0.95), "mean", 0.1),
    "durations, phi 0.99": (durations(0.99), "mean", 0.1),
    "heavy tail": (heavy_tail, "mean", 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("series", SERIES)
def test_harm_at_the_margin_is_hardly_ever_called_held(series: str) -> None:
    make, kind, margin = SERIES[series]
    rng = np.random.default_rng(SEED)
    slo = Slo("s", kind, Indicator(), 0.99 if kind == "ratio" else None, margin)
    held = sum(cell(*_args(make(rng, margin), slo)).result == "held" for _ in range(RUNS))
    # 1 % is promised; what 2,000 runs may show by chance is added (two standard errors).
    assert held / RUNS <= 0.01 + 2 * (0.01 * 0.99 / RUNS) ** 0.5, f"{held} of {RUNS}"


def _args(made: Made, slo: Slo) -> tuple[Any, ...]:
    return (made[0], slo, WINDOWS, Spec.alpha, made[1])


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "margin"), [(0.99, 0.02), (0.99, 0.01), (0.95, 0.05), (0.999, 0.005)])
def test_the_planned_size_has_its_power(objective: float, margin: float) -> None:
    slo = Slo("s", "ratio", Indicator(), objective, margin)
    (size,) = plan(Spec((), (slo,)), strata=1, power=0.9)
    rng = np.random.default_rng(SEED)
    start = times(size.requests)
    runs = 1000 if margin > 0.01 else 400
    held = sum(
        cell(samples(rng.random(len(start)) < 1 - objective, start=start), slo, WINDOWS, Spec.alpha).result == "held" for _ in range(runs)
    )  # fmt: skip
    assert held / runs >= 0.9 - 2 * (0.09 / runs) ** 0.5, f"{held} of {runs}, {size.requests} requests"


def stops(rng: Any, share: float, requests: int) -> int:
    """The request at which the experiment is stopped; a very large number: never."""
    abort = Abort("a", 0.01, 0.07, silence_s=0)
    bad = (rng.random(requests) < share).tolist()
    for place, one in enumerate(bad):
        if abort.see((one,), 0.0):
            return place + 1
    return 10**9


@pytest.mark.slow
def test_it_aborts_soon_and_hardly_ever_for_nothing() -> None:
    rng = np.random.default_rng(SEED)
    assert LIMIT == 200.0  # by Ville's inequality 0.5 % at most, over any length
    healthy = [stops(rng, 0.01, 2000) for _ in range(1000)]
    assert np.mean(np.array(healthy) < 10**9) <= 0.005 + 2 * (0.005 / 1000) ** 0.5
    assert np.median([stops(rng, 0.1, 400) for _ in range(1000)]) <= 40


def test_a_long_healthy_time_does_not_make_it_blind() -> None:
    rng = np.random.default_rng(SEED)
    abort = Abort("a", 0.01, 0.07, silence_s=0)
    abort.see((rng.random(3000) < 0.01).tolist(), 0.0)
    assert not abort.why
    assert abort.see((rng.random(400) < 0.1).tolist(), 0.0)


def test_silence_aborts() -> None:
    abort = Abort("rank 2", 0.01, 0.07, silence_s=5.0)
    assert not abort.check(0.0)
    assert not abort.see((False,), 4.0)
    assert abort.check(9.5)
    assert "rank 2 has not been heard of for 5.5 s" in abort.why


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_recovery_of_a_4_s_outage_lies_in_its_interval(share: float) -> None:
    rng = np.random.default_rng(SEED)
    for _ in range(300):
        at = np.sort(rng.uniform(-10, 30, 4000))
        bad = (rng.random(4000) < 0.01) | ((at < 4.0) & (at > -8) & (rng.random(4000) < share))
        found = recovery((at * 1e9).astype(np.int64), bad, 0, 30 * SECOND, 10 * SECOND, 0.01, 0.02, 100)
        assert not found.censored and not found.relapse
        assert (3.9 if share == 1.0 else 3.7) <= found.first_good_s <= 4.3
        assert found.last_bad_s <= found.first_good_s


def test_bad_requests_that_come_three_at_a_time_are_no_relapse() -> None:
    """Retries and batches fail together: at their ordinary share that is no outage, and an outage is still found."""
    rng = np.random.default_rng(SEED)
    second, end, sick = 10**9, 30 * 10**9, 0
    for _ in range(100):
        start = np.repeat(np.sort(rng.integers(0, end, 10_000)), 3)
        ordinary, now = (np.repeat(rng.random(10_000) < 0.003, 3) for _ in range(2))
        clumping = inflation(ordinary)
        found = recovery(start, now, 0, end, end // 2, 0.003, 0.03, 99, clumping)
        sick += found.relapse or found.censored
        out = recovery(start, now | (start < 4 * second), 0, end, end // 2, 0.003, 0.03, 99, clumping)
        assert out.first_good_s >= 3.9
    assert sick <= 3
