"""What a GPU did comes some steps later: a kept step waits for it, within bounds, and over the agent's death."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aiobs.agent import device_time
from aiobs.agent.assemble import Assembler
from aiobs.agent.device_time import Arrivals, bound
from aiobs.agent.exits import Exit
from aiobs.agent.reader import FlightReader
from aiobs.agent.steps import Phase, Step
from aiobs.agent.untrusted import DamagedError
from aiobs.recorder.layout import ARRIVAL

from .conftest import Told

DONE = Exit("exit", 0, "", 0)
MS = 1_000_000
TRAINING = """
    start(keep_first=3, keep_every=0)
    from aiobs.recorder import write_arrivals
    thread = threading.get_native_id()
    write_arrivals(thread, [], 0)
    begun = []
    def arrive(number, late=5 * 10**6):
        # All phases end at the step's end, after 10 ms and 1 ns; forward begins after 1 µs.
        moments = [begun[number], begun[number] + 1000, begun[number] + 10 * 10**6, begun[number] + 10 * 10**6 + 1]
        write_arrivals(thread, [(at, at + late * i, 0) for i, at in enumerate(moments)], moments[-1])
    for number in range(4):
        timed(10)
        begun.append(clock)
"""
ALL = "    for number in range(4): arrive(number)\n    recorder.stop()\n"
SOME = "    arrive(0)\n    recorder.stop()\n"


def waits(told: Any) -> dict[int, float | None]:
    """How long data.wait took on the GPU, by step."""
    rows = [told.attributes(row) for row in told.named("data.wait")]
    return {row["aiobs.step"]: row.get("aiobs.gpu.duration") for row in rows}


def in_pieces(recorded: Any, code: str) -> Iterator[tuple[Any, Assembler, Any]]:
    """An assembler that is given the records one by one."""
    reader = recorded.run(code)
    assembler, told = Assembler(reader.route), Told()
    while assembler.add(reader, 1):
        told.take(assembler)
        yield told, assembler, reader


def test_a_kept_step_waits_for_what_its_gpu_did(recorded: Any) -> None:
    history = [told.steps().copy() for told, _, _ in in_pieces(recorded, TRAINING + ALL)]
    assert history[4] == {}, "after all of its steps"
    assert history[-1] == {0: "first", 1: "first", 2: "first"}


def test_its_phases_then_say_how_long_they_took(recorded: Any) -> None:
    reader = recorded.run(TRAINING + ALL)
    told = recorded.told(reader, ending=DONE)
    told.assert_no_orphans()
    assert told.steps() == {0: "first", 1: "first", 2: "first", 3: "last"}
    counted = told.metric("aiobs.train.steps.bound").points
    assert [(dict(it.attributes), it.value) for it in counted] == [({"aiobs.step.bound": "compute"}, 4)]
    assert [sum(it.counts) for it in told.metric("aiobs.train.phase.gpu.duration").points] == [4] * 4
    assert waits(told) == dict.fromkeys(range(4), pytest.approx(0.025, abs=1e-8))
    assert [told.attributes(row)["aiobs.gpu.duration"] for row in told.named("forward")] == [
        pytest.approx(0.02, abs=1e-5)
    ] * 4
    assert {told.attributes(row)["aiobs.step.bound"] for row in told.named("train step")} == {"compute"}


def test_one_whose_times_never_come_is_exported_without(recorded: Any) -> None:
    told = recorded.told(recorded.run(TRAINING + SOME), ending=DONE)
    assert told.steps() == {0: "first", 1: "first", 2: "first", 3: "last"}
    steps = {row[6][0]: told.attributes(row) for row in told.named("train step")}
    assert ["aiobs.step.bound" in steps[number] for number in range(4)] == [True, False, False, False]


def test_it_waits_no_longer_than_two_seconds(recorded: Any) -> None:
    now = [time.monotonic_ns()]
    reader = recorded.run(TRAINING + SOME)
    assembler, told = Assembler(reader.route, lambda: now[0]), Told()
    while assembler.add(reader):
        pass
    assert told.take(assembler).steps() == {0: "first"}
    now[0] += device_time.WAIT_NS + 10**9
    assert told.take(assembler).steps() == {0: "first", 1: "first", 2: "first"}


def test_it_is_neither_lost_nor_doubled_when_the_agent_is_replaced(recorded: Any) -> None:
    for restart_after in range(1, 9):
        reader = recorded.run(TRAINING + ALL)
        assembler, told = Assembler(reader.route), Told()
        for count in range(20):
            if count == restart_after:
                state = json.loads(json.dumps(assembler.snapshot()))
                reader, old = FlightReader(reader.path), reader
                reader.position = old.position
                assembler = Assembler(reader.route)
                assembler.restore(state)
            if not assembler.add(reader, 1):
                break
            told.take(assembler)
        assembler.process_ended(reader, DONE)
        told.take(assembler)
        assert told.steps() == {0: "first", 1: "first", 2: "first", 3: "last"}
        told.assert_ids_unique()
        assert [it.value for it in told.metric("aiobs.train.steps.bound").points] == [4]
        assert ["aiobs.step.bound" in told.attributes(row) for row in told.named("train step")] == [True] * 4


def test_moments_given_up_are_counted(recorded: Any) -> None:
    told = recorded.told(recorded.run(TRAINING + "    write_arrivals(thread, [], clock, 7)\n    recorder.stop()\n"), ending=DONE)  # fmt: skip
    assert told.metric("aiobs.gpu.arrivals.dropped").points[0].value == 7


def test_steps_that_are_not_kept_are_counted_too(recorded: Any) -> None:
    reader = recorded.run((TRAINING + ALL).replace("keep_first=3", "keep_first=0"))
    told = recorded.told(reader, ending=DONE)
    assert told.steps() == {3: "last"}
    assert [it.value for it in told.metric("aiobs.train.steps.bound").points] == [4]


@pytest.mark.parametrize("payload", [b"x", ARRIVAL.pack(1 << 63, 1, 0), ARRIVAL.pack(1, (1 << 64) - 1, 0)])
def test_a_damaged_record_is_refused(payload: bytes) -> None:
    with pytest.raises(DamagedError):
        Arrivals().take(1, 5, payload)


def test_what_is_remembered_is_bounded() -> None:
    arrivals = Arrivals()
    for thread in range(200):
        arrivals.take(thread, 1, ARRIVAL.pack(1, 1, 0))
    for number in range(100):
        moments = range(number * 1000 + 2, number * 1000 + 1002)
        arrivals.take(1, moments[-1], b"".join(ARRIVAL.pack(at, at + 5, 0) for at in moments))
    assert len(arrivals._threads) == device_time.THREADS_LIMIT
    assert len(arrivals._threads[1].moments) <= device_time.MOMENTS_LIMIT


def test_a_phase_across_two_gpus_has_no_time() -> None:
    arrivals = Arrivals()
    arrivals.take(1, 30, ARRIVAL.pack(10, 110, 0) + ARRIVAL.pack(20, 220, 1) + ARRIVAL.pack(30, 330, 1))
    step = Step(0, 1, 10, 30, [Phase("forward", -1, 10, 20), Phase("backward", -1, 20, 30)])
    arrivals.tell(step)
    assert [phase.gpu_s for phase in step.phases] == [None, 110 / 1e9]


def test_shares_add_up_and_name_the_largest() -> None:
    # data 0-10, forward 10-20, backward 20-40, after it the program asks for the loss until 60
    moments = [(0, 4), (10, 10), (20, 32), (40, 58), (60, 60)]
    found = bound([(at * MS, there * MS) for at, there in moments], [(0, 10 * MS)], 60 * MS)
    assert found == {
        "aiobs.step.bound": "compute",
        "aiobs.step.bound.input": 0.1,
        "aiobs.step.bound.launch": pytest.approx(2 / 60, abs=1e-4),
        "aiobs.gpu.busy": pytest.approx(52 / 60, abs=1e-4),
    }


def test_nothing_is_said_of_a_step_that_is_hardly_covered() -> None:
    assert bound([], [], 10 * MS) == {}
    assert bound([(0, 0), (2 * MS, 2 * MS)], [], 10 * MS) == {}
