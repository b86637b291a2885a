"""What readings of a GPU say of an interval, and what they do not."""

from __future__ import annotations

import json

import pytest

from aiobs.agent.readings import Readings
from aiobs.device import quantities as q
from aiobs.device.base import FAST, Reading

S = 10**9


def reading(second: float, **values: float) -> Reading:
    keys = {"busy": q.UTILIZATION, "memory": q.MEMORY_USED, "joules": q.ENERGY, "mask": q.THROTTLE_REASONS,
            "capped": q.THROTTLED["power_cap"]}  # fmt: skip
    return Reading(FAST, int(second * S), {keys[name]: value for name, value in values.items()})


def series(*readings: Reading) -> Readings:
    found = Readings()
    for one in readings:
        found.add(one)
    return found


def told(readings: Readings, begin: float, end: float):
    return readings.statistics(int(begin * S), int(end * S))


def test_the_mean_is_weighted_by_time_and_the_most_is_that_of_any_reading() -> None:
    found = told(series(reading(0, busy=0), reading(1, busy=0.2), reading(2, busy=1.0), reading(4, busy=0.5)), 0.5, 3)
    assert found.mean == pytest.approx((0.5 * 0.2 + 1 * 1.0 + 1 * 0.5) / 2.5)
    assert found.max == 1.0
    assert found.samples == 2


def test_an_interval_between_two_readings_has_the_value_of_the_one_after_it_and_no_sample_of_its_own() -> None:
    found = told(series(reading(0, busy=0.1, memory=5), reading(1, busy=0.9, memory=7)), 0.2, 0.3)
    assert (found.samples, found.mean, found.max, found.memory_bytes) == (0, pytest.approx(0.9), 0.9, 5)


def test_nothing_is_made_up_where_there_are_no_readings() -> None:
    readings = series(reading(0, busy=0.5, memory=1), reading(1, busy=0.5, memory=1), reading(60, busy=0.9, memory=2))
    found = told(readings, 20, 30)
    assert (found.samples, found.mean, found.max, found.memory_bytes) == (0, None, None, None)
    assert told(Readings(), 0, 1).mean is None
    assert told(readings, 50, 60).mean == pytest.approx(0.9)


def test_throttling_is_counted_by_the_driver_and_told_by_reason() -> None:
    readings = series(
        reading(0, capped=10.0), reading(1, capped=10.5), reading(2, capped=10.5), reading(3, capped=11.5)
    )
    assert told(readings, 0, 3).throttled_s == {"power_cap": pytest.approx(1.5)}
    assert told(readings, 1, 2).throttled_s == {}
    assert told(readings, 2.5, 3).throttled_s == {"power_cap": pytest.approx(0.5)}


def test_throttling_without_counters_comes_from_the_reasons_of_the_moment() -> None:
    readings = series(reading(0, mask=0), reading(1, mask=0x8 | 0x1), reading(2, mask=0))
    assert told(readings, 0, 2).throttled_s == {"hw_slowdown": pytest.approx(1.0)}
    assert told(readings, 0, 2).throttle_known
    assert not told(series(reading(0, busy=1)), 0, 1).throttle_known


def test_energy_goes_on_over_a_reading_without_it_and_over_a_gap() -> None:
    readings = series(reading(0, joules=100), reading(1, busy=0.5), reading(2, joules=300), reading(60, joules=900))
    assert readings.energy is not None
    assert readings.energy.values[-1] == 800
    assert readings.counted(0, 60 * S)


@pytest.mark.parametrize("again", [0.0, 50.0, 99.9])
def test_a_counter_that_goes_backwards_makes_that_time_unknown_and_nothing_else(again: float) -> None:
    readings = series(
        reading(0, joules=0), reading(1, joules=100), reading(2, joules=again), reading(3, joules=again + 100)
    )
    assert not readings.counted(int(0.5 * S), int(1.5 * S))
    assert readings.counted(0, 1 * S)
    assert readings.counted(2 * S, 3 * S)
    assert readings.energy is not None
    assert readings.energy.values == [0, 100, 100, 200]


def test_a_reading_that_is_older_than_the_last_is_left_out() -> None:
    readings = series(reading(2, busy=0.5), reading(1, busy=0.9))
    assert readings.until_ns == 2 * S


def test_hours_of_readings_keep_their_extremes_in_bounded_memory() -> None:
    readings = Readings()
    for second in range(20_000):
        readings.add(
            reading(second, busy=1.0 if second == 5_001 else 0.25, memory=9 if second == 7_001 else 1, joules=second)
        )
    found = told(readings, 0, 20_000)
    assert (found.samples, found.max, found.memory_bytes) == (20_000, 1.0, 9)
    assert found.mean == pytest.approx(0.25, abs=1e-3)
    assert len(readings._noted) <= 4096
    assert told(readings, 19_990, 19_999).samples == 10


def test_the_newest_readings_survive_the_agent() -> None:
    readings = series(*(reading(second, busy=0.5, memory=3, joules=10.0 * second) for second in range(20)))
    later = Readings()
    later.restore(json.loads(json.dumps(readings.snapshot())))
    later.add(reading(25, busy=1.0, joules=300.0))
    assert later.energy is not None
    assert later.energy.between(17 * S, 25 * S) == pytest.approx(130)
    assert told(later, 17, 18).mean == pytest.approx(0.5)
    assert later.counted(17 * S, 25 * S)
