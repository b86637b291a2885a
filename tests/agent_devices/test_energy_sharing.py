"""Joules: shared fairly, and adding up to what the counter counted."""

from __future__ import annotations

import json
import random

import pytest

from aiobs.agent.curve import Curve
from aiobs.agent.energy import Presence, Sharing

S = 10**9


def counter(*points: tuple[float, float]) -> Curve:
    """A counter that stood at so many joules after so many seconds."""
    curve = Curve()
    for second, joules in points:
        curve.add(int(second * S), joules)
    return curve


def present(*units: tuple[float, float | None], times: tuple[float, float | None] = (0, None)) -> Presence:
    """A process with units from second to second; None: still open."""

    def whole(interval: tuple[float, float | None]) -> tuple[int, int | None]:
        return int(interval[0] * S), None if interval[1] is None else int(interval[1] * S)

    return Presence(whole(times), [whole(unit) for unit in units])


def shared(curve: Curve, until: float, **processes: Presence) -> Sharing:
    sharing = Sharing()
    sharing.settle(curve, curve.times[0], {})
    sharing.settle(curve, int(until * S), processes)
    return sharing


def drawn(sharing: Sharing, process: str, begin: float, end: float) -> float:
    return sharing.drawn(process, int(begin * S), int(end * S)) or 0.0


def total(sharing: Sharing) -> float:
    return sharing.unattributed + sum(a.inside + a.outside for a in sharing.accounts.values())


def test_a_unit_alone_gets_what_the_gpu_drew_meanwhile() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((2, 5)))
    assert drawn(sharing, "a", 2, 5) == pytest.approx(300)
    assert sharing.accounts["a"].outside == pytest.approx(700)


def test_overlapping_requests_of_one_process_share_equally_while_they_overlap() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((0, 6), (4, 10)))
    assert drawn(sharing, "a", 0, 6) == pytest.approx(400 + 100)
    assert drawn(sharing, "a", 4, 10) == pytest.approx(400 + 100)


def test_processes_share_equally_however_many_units_each_has() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((0, 10)), b=present((0, 10), (0, 10), (0, 10)))
    assert drawn(sharing, "a", 0, 10) == pytest.approx(500)
    assert drawn(sharing, "b", 0, 10) == pytest.approx(500 / 3)


def test_an_idle_process_gets_nothing_while_another_works() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((0, 10)), b=present())
    assert drawn(sharing, "a", 0, 10) == pytest.approx(1000)
    assert sharing.accounts["b"].outside == 0


def test_a_nested_span_gets_its_units_density_over_its_own_time() -> None:
    sharing = shared(counter((0, 0), (4, 100), (8, 900)), 8, a=present((0, 8)), b=present((6, 8)))
    assert drawn(sharing, "a", 2, 5) == pytest.approx(50 + 200)
    assert drawn(sharing, "a", 6, 7) == pytest.approx(100)


def test_energy_without_any_process_is_nobodys_and_before_it_came_too() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((3, 5), times=(2, 6)))
    assert sharing.unattributed == pytest.approx(600)
    assert sharing.accounts["a"].outside == pytest.approx(200)


def test_a_unit_that_its_process_did_not_outlive_ends_with_it() -> None:
    sharing = shared(counter((0, 0), (10, 1000)), 10, a=present((2, None), times=(0, 5)))
    assert drawn(sharing, "a", 2, 10) == pytest.approx(300)
    assert sharing.unattributed == pytest.approx(500)


def test_a_unit_that_began_before_the_first_reading_has_no_figure_and_counts_as_outside() -> None:
    sharing = shared(counter((5, 0), (10, 500)), 10, a=present((2, 7), (8, 9)))
    assert sharing.drawn("a", 2 * S, 7 * S) is None
    assert drawn(sharing, "a", 8, 9) == pytest.approx(100)
    assert sharing.accounts["a"].outside == pytest.approx(400)
    assert sharing.drawn("a", 6 * S, 7 * S) is None


def test_settling_in_pieces_gives_the_same_as_at_once() -> None:
    curve = counter((0, 0), (3, 100), (7, 1000), (10, 1100))
    units = [(0.5, 6.5), (2.25, 9.0), (8.0, 9.5)]
    whole = shared(curve, 10, a=present(*units), b=present((1, 8)))
    pieces = Sharing()
    for second in (0, 3, 7, 10):
        now = [(begin, None if end > second else end) for begin, end in units if begin < second]
        pieces.settle(curve, second * S, {"a": present(*now), "b": present((1, None if second < 8 else 8))})
    for begin, end in units:
        assert drawn(pieces, "a", begin, end) == pytest.approx(drawn(whole, "a", begin, end))
    assert total(pieces) == pytest.approx(1100)


def test_everything_adds_up_whatever_happens() -> None:
    chance = random.Random(4)
    curve = Curve()
    joules = 0.0
    for second in range(61):
        curve.add(second * S, joules)
        joules += chance.uniform(0, 400)
    units = {
        name: sorted((begin, begin + chance.uniform(0.001, 20)) for begin in (chance.uniform(0, 55) for _ in range(40)))
        for name in "abc"
    }
    sharing = Sharing()
    for second in range(61):
        processes = {
            name: present(
                *((b, e if e <= second else None) for b, e in found if b < second and e > second - 1), times=(3, 50)
            )
            for name, found in units.items()
        }
        sharing.settle(curve, second * S, processes)
    counted = curve.values[-1]
    assert total(sharing) == pytest.approx(counted, rel=1e-9)
    spans = sum(drawn(sharing, name, max(b, 3), min(e, 50)) for name, found in units.items() for b, e in found)
    outside = sum(account.outside for account in sharing.accounts.values())
    assert spans + outside + sharing.unattributed == pytest.approx(counted, rel=1e-3)


def test_a_new_agent_goes_on_where_the_old_one_was() -> None:
    curve = counter((0, 0), (10, 1000), (30, 4000))
    sharing = shared(curve, 10, a=present((1, None), (2, 9)), b=present((5, None)))
    kept = json.loads(json.dumps(sharing.snapshot({"a": [1 * S], "b": [5 * S]})))
    later = Sharing()
    later.restore(kept)
    later.settle(curve, 30 * S, {"a": present((1, 20)), "b": present((5, 30))})
    sharing.settle(curve, 30 * S, {"a": present((1, 20)), "b": present((5, 30))})
    assert drawn(later, "a", 1, 20) == pytest.approx(drawn(sharing, "a", 1, 20))
    assert drawn(later, "b", 5, 30) == pytest.approx(drawn(sharing, "b", 5, 30))
    assert total(later) == pytest.approx(4000)


def test_a_long_unit_among_very_many_short_ones_stays_right_and_memory_bounded() -> None:
    sharing = Sharing()
    curve = counter((0, 0), (1000, 100_000))
    sharing.settle(curve, 0, {})
    for second in range(1, 1001):
        short = [(second - 1 + i / 50, second - 1 + (i + 1) / 50) for i in range(50)]
        sharing.settle(curve, second * S, {"a": present((0, None), *short)})
    assert drawn(sharing, "a", 0, 1000) == pytest.approx(50_000, rel=1e-6)
    assert drawn(sharing, "a", 500, 1000) == pytest.approx(25_000, rel=1e-3)
    assert len(sharing.accounts["a"].unit.times) <= 8192
