"""Which steps' traces are kept, and what they look like."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest

from aiobs import ids
from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import Exit
from aiobs.agent.reader import FlightReader

DONE = Exit("exit", 0, "", 0)


def test_a_step_trace_is_complete(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        step(lambda: recorder.span("inner", i=1).__enter__().__exit__(None, None, None))
        recorder.log(loss=0.5)
        recorder.steps().set("batch", 32)
        recorder.steps().close()
        recorder.stop()
    """)
    told = recorded.told(reader, ending=DONE)
    told.assert_no_orphans()
    told.assert_ids_unique()
    step = told.one("train step")
    assert step[1] == ids.step_trace_id("run-1", 0, 0)
    assert step[2] == ids.step_span_id("run-1", 0, 0, 0)
    assert step[3] == b""
    attributes = told.attributes(step)
    assert attributes["aiobs.step"] == 0
    assert attributes["aiobs.step.kept"] == "first"
    assert attributes["aiobs.step.microbatches"] == 1
    assert attributes["aiobs.train.loss"] == 0.5
    assert attributes["batch"] == 32
    assert step[7].links[0].trace_id.hex() == "11" * 16
    names = ["data.wait", "forward", "backward", "optimizer"]
    assert [row[2] for row in told.rows if row[0].name in names] == [ids.phase_span_id(step[2], i) for i in range(4)]
    assert told.one("inner")[3] == told.one("forward")[2]
    covered = sum(told.one(name)[5] - told.one(name)[4] for name in names) / 1e9
    assert abs((step[5] - step[4]) / 1e9 - covered - attributes["aiobs.step.other"]) < 1e-6


def test_first_every_and_last_are_kept_and_metrics_see_all(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=3, keep_every=10, keep_slow_ratio=1000.0)
        for i in range(35):
            step(lambda: recorder.span("inner", i=i).__enter__().__exit__(None, None, None))
            recorder.steps().close(skipped=i == 4)
        recorder.stop()
    """)
    told = recorded.told(reader, ending=DONE)
    assert told.steps() == {0: "first", 1: "first", 2: "first", 10: "every", 20: "every", 30: "every", 34: "last"}
    assert sorted(row[6][0] for row in told.named("inner")) == [0, 1, 2, 10, 20, 30, 34]
    assert told.assembler.counts()["left_out"] == 35 - 7
    assert told.metric("aiobs.train.steps").points[0].value == 35
    assert told.metric("aiobs.train.steps.skipped").points[0].value == 1
    (duration,) = told.metric("aiobs.train.step.duration").points
    assert duration.count == sum(duration.counts) == 35
    exported = {row[2] for row in told.named("train step")}
    assert duration.exemplars
    assert {exemplar.span_id for exemplar in duration.exemplars} <= exported
    phases = {point.attributes["aiobs.phase"]: point for point in told.metric("aiobs.train.phase.duration").points}
    assert set(phases) == {"data.wait", "forward", "backward", "optimizer", "other"}
    assert sum(point.sum for point in phases.values()) == pytest.approx(duration.sum)
    assert told.metric("aiobs.data.wait.duration").points[0].count == 35


def test_a_slow_step_is_kept_but_not_more_than_one_in_ten(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=3.0)
        for i in range(70):
            timed(50 if i == 20 or i >= 40 else 1)
        recorder.stop()
    """)
    steps = recorded.told(reader, ending=DONE).steps()
    slow = [number for number, reason in steps.items() if reason == "slow"]
    assert 20 in slow
    assert [number for number in slow if number < 40] == [20]
    assert 1 <= len([number for number in slow if number >= 40]) <= 6
    assert steps[69] == "last"


def test_the_step_a_process_died_in_is_truncated(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        for i in range(5):
            step()
            recorder.steps().close()
        phase("data.wait").__enter__()
        recorder.log(loss=3.5)
        recorder.start_span("inner")
        kill()
    """)
    died = time.monotonic_ns()
    told = recorded.told(reader, ending=Exit("signal", None, "SIGKILL", died))
    told.assert_no_orphans()
    assert told.steps()[5] == "failed"
    step = next(row for row in told.named("train step") if row[6][0] == 5)
    assert step[7].status == 2
    assert step[7].message == "killed by SIGKILL"
    assert step[5] == died + reader.wall_offset
    attributes = told.attributes(step)
    assert attributes["aiobs.truncated"] is True
    assert attributes["aiobs.train.loss"] == 3.5
    assert told.one("inner")[3] == told.one("data.wait")[2]
    assert told.metric("aiobs.train.steps").points[0].value == 5  # metrics know finished steps only


def test_a_step_that_was_over_when_the_process_died_is_no_failure(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        step()
        recorder.steps().close()
        step()          # its optimizer has ended; the next step has not begun
        kill()
    """)
    told = recorded.told(reader)
    (step,) = told.named("train step")
    assert step[6][:2] == (1, "last")
    assert step[7].status == 0
    assert told.metric("aiobs.train.steps").points[0].value == 2


def test_died_between_two_steps_in_the_next_phase(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        step()
        phase("data.wait").__enter__()
        kill()
    """)
    told = recorded.told(reader)
    told.assert_ids_unique()
    steps = {row[6][0]: row for row in told.named("train step")}
    assert steps[1][6][1] == "failed"
    assert steps[1][7].attributes["aiobs.truncated"] is True
    assert [row[3] for row in told.named("data.wait")] == [steps[1][2]]
    assert told.metric("aiobs.train.steps").points[0].value == 1


RANK = """
    rank = int(os.environ["R"])
    start(rank=rank, world_size=int(os.environ.get("W", 3)), keep_first=1, keep_every=0, keep_slow_ratio=10.0)
    for i in range(40):
        timed(40 if (rank, i) == (1, 30) else 1)
        if (rank, i) == (2, int(os.environ.get("DIE", 99))):
            phase("forward").__enter__()
            kill()
    recorder.stop()
"""


def test_one_slow_rank_keeps_the_step_of_all_ranks(recorded: Any) -> None:
    readers = [recorded.run(RANK, R=str(rank)) for rank in (0, 2, 1)]  # the slow one is read last
    told = recorded.told(*readers, ending=DONE)
    told.assert_no_orphans()
    told.assert_ids_unique()
    trace = ids.step_trace_id("run-1", 0, 30)
    steps = [row for row in told.rows if row[1] == trace and row[0].name in ("train step", "rank step")]
    assert {row[2] for row in steps} == {ids.step_span_id("run-1", 0, 30, rank) for rank in range(3)}
    root = ids.step_span_id("run-1", 0, 30, 0)
    assert Counter(row[3] for row in steps) == {b"": 1, root: 2}
    assert {row[6][1] for row in steps} == {"slow"}
    assert len([row for row in told.rows if row[1] == trace]) == 3 * 5
    assert not any("aiobs.step.partial" in told.attributes(row) for row in steps)


def test_a_rank_that_died_keeps_that_step_of_the_others(recorded: Any) -> None:
    readers = [recorded.run(RANK, R=str(rank), DIE="20", W="8") for rank in (0, 1, 2)]
    told = recorded.told(*readers, ending=Exit("signal", None, "SIGKILL", 0))
    trace = ids.step_trace_id("run-1", 0, 21)
    steps = [row for row in told.rows if row[1] == trace and row[0].name in ("train step", "rank step")]
    assert len(steps) == 3
    # Five of the eight ranks are on hosts that know nothing of it.
    assert all(told.attributes(row)["aiobs.step.partial"] is True for row in steps)


def test_steps_asked_for_are_kept_also_those_just_gone_by(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        for i in range(100):
            step()
            recorder.steps().close()
        recorder.stop()
    """)
    assembler = Assembler(reader.route)
    assembler.request(10, 11)
    assembler.add(reader)
    assembler.request(80, 81)
    assembler.request(2, 3)  # too long ago
    assembler.process_ended(reader, DONE)
    rows = [row for _, rows in assembler.take(time.time_ns()).spans for row in rows if row[0].name == "train step"]
    assert {row[6][0]: row[6][1] for row in rows} == {
        10: "requested", 11: "requested", 80: "requested", 81: "requested", 99: "last",
    }  # fmt: skip


def test_a_step_that_hangs_is_announced_and_kept(recorded: Any, wait_for: Any) -> None:
    process = recorded.start("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0, environment={"AIOBS_STARTED_AFTER": "0.05"})
        for i in range(3):
            step()
            recorder.steps().close()
        with phase("data.wait"):
            pass
        with phase("forward"):
            print(flush=True)
            sys.stdin.read()
        for name in ("backward", "optimizer"):
            with phase(name): pass
        recorder.steps().close()
        step()
        recorder.steps().close()
        recorder.stop()
    """)
    process.stdout.readline()
    reader = FlightReader(next(recorded.directory.glob("*.fr")))
    assembler = Assembler(reader.route)
    rows: list[Any] = []

    def announced() -> bool:
        assembler.add(reader)
        rows.extend(row for _, found in assembler.take(time.time_ns()).spans for row in found)
        return bool(rows)

    wait_for(announced)
    time.sleep(0.6)
    announced()
    (row,) = rows
    assert row[0].name == "train step (started)"
    assert row[7].attributes == {"aiobs.step": 3, "aiobs.phase": "forward"}
    process.communicate("", timeout=20)
    assembler.process_ended(reader, DONE)
    rows = [row for _, found in assembler.take(time.time_ns()).spans for row in found]
    kept = {row[2]: row[6][1] for row in rows if row[0].name == "train step"}
    assert row[3] in kept


def test_many_phases_are_summarised(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        for i in range(150):
            for name in ("forward", "backward"):
                with phase(name):
                    pass
        recorder.steps().close()
        for i in range(500):
            with phase("forward"):
                pass
        recorder.steps().close()
        recorder.stop()
    """)
    told = recorded.told(reader, ending=DONE)
    told.assert_no_orphans()
    told.assert_ids_unique()
    first, second = told.named("train step")
    assert sum(1 for row in told.rows if row[1] == first[1]) == 201
    assert told.attributes(first)["aiobs.step.phases.dropped"] == 300 - 198
    assert told.attributes(first)["aiobs.step.microbatches"] == 150
    many = [told.attributes(row) for row in told.rows if row[1] == first[1] and "aiobs.phase.count" in row[0].keys]
    assert sum(row["aiobs.phase.count"] for row in many) == 300 - 198
    assert told.attributes(second)["aiobs.step.phases.dropped"] == 500 - 199  # of 500 begun, the area held fewer


def test_in_a_crowd_a_rank_is_one_span_save_the_extremes(recorded: Any) -> None:
    readers = [
        recorded.run(f"""
        start(rank={rank}, world_size=300, keep_first=2, keep_every=0, keep_slow_ratio=1000.0)
        for i in range(2):
            timed({1 + 20 * rank})
        recorder.stop()
    """)
        for rank in range(4)
    ]
    told = recorded.told(*readers, ending=DONE)
    told.assert_ids_unique()
    for number in range(2):
        trace = ids.step_trace_id("run-1", 0, number)
        rows = [row for row in told.rows if row[1] == trace]
        steps = {row[2]: row for row in rows if row[0].name in ("train step", "rank step")}
        assert len(steps) == 4
        children = Counter(row[3] for row in rows if row[2] not in steps)
        fastest, slowest = (ids.step_span_id("run-1", 0, number, rank) for rank in (0, 3))
        assert children == {fastest: 4, slowest: 4}
        middle = told.attributes(steps[ids.step_span_id("run-1", 0, number, 1)])
        assert middle["aiobs.phase.forward"] == pytest.approx(0.021, rel=0.1)


def test_two_programs_of_one_run_do_not_share_step_ids(recorded: Any) -> None:
    code = """
        start()
        for i in range(3):
            step(lambda: recorder.span("inner", i=i).__enter__().__exit__(None, None, None))
            recorder.steps().close()
        recorder.stop()
    """
    told = recorded.told(recorded.run(code), recorded.run(code), ending=DONE)
    told.assert_ids_unique()
    told.assert_no_orphans()
    assert len(told.named("train step")) == 6
    assert len({row[1] for row in told.named("train step")}) == 6
    phases = {row[2] for row in told.named("forward")}
    assert {row[3] for row in told.named("inner")} == phases


def test_step_numbers_that_begin_again_get_ids_of_their_own(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        for epoch in range(2):
            for i in range(3):
                recorder.steps().begin(i)
                step(lambda: recorder.span("inner", i=i).__enter__().__exit__(None, None, None))
                recorder.steps().close()
        recorder.stop()
    """)
    told = recorded.told(reader, ending=DONE)
    told.assert_ids_unique()
    told.assert_no_orphans()
    assert len({row[1] for row in told.named("train step")}) == 6


def test_an_undecided_step_survives_the_agent(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        for i in range(10):
            step(lambda: recorder.span("inner", i=i).__enter__().__exit__(None, None, None))
            recorder.event("within", i=i)
            recorder.steps().close()
        recorder.stop()
    """)
    told = recorded.told(reader, ending=DONE, restart=True)
    assert told.steps()[9] == "last"
    assert [row[6][0] for row in told.named("inner")][-1] == 9
    events = next(row for row in told.named("train step") if row[6][0] == 9)[7].events
    assert [event.name for event in events] == ["within"]
    assert told.metric("aiobs.train.steps").points[0].value == 10


def test_a_held_step_is_not_held_for_ever(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        step()
        recorder.steps().close()
        recorder.stop()
    """)
    now = [0]
    assembler = Assembler(reader.route, clock=lambda: now[0])
    assembler.add(reader)
    assert not assembler.take(time.time_ns(), metrics=False).spans
    now[0] = time.monotonic_ns() + 10_000_000_000
    ((_, rows),) = assembler.take(time.time_ns(), metrics=False).spans
    assert [row[0].name for row in rows] == ["train step", "data.wait", "forward", "backward", "optimizer"]
    assembler.process_ended(reader, DONE)
    assert not assembler.take(time.time_ns(), metrics=False).spans


def test_the_snapshot_stays_small(recorded: Any) -> None:
    reader = recorded.run("""
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        for i in range(2000):
            step()
            recorder.steps().close()
        kill()
    """)
    assembler = Assembler(reader.route)
    while assembler.add(reader):
        assembler.take(time.time_ns())
    assert len(json.dumps(assembler.snapshot())) < 20_000
    assert FlightReader(reader.path).position == 1


def test_spans_of_a_step_that_was_none_go_under_the_process(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        with recorder.span("process"):
            recorder.steps().begin()
            with recorder.span("checkpoint save"):
                with recorder.span("inner"):
                    pass
            recorder.steps().discard()
            kill()
    """)
    told = recorded.told(reader)
    told.assert_no_orphans()
    assert told.one("checkpoint save")[3] == told.one("process")[2]
    assert told.one("inner")[3] == told.one("checkpoint save")[2]
    assert {row[1] for row in told.rows} == {told.one("process")[1]}


def test_an_open_span_of_a_step_long_gone_is_exported_with_what_is_left(recorded: Any) -> None:
    code = """
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        process = recorder.start_span("process")
        for i in range(200):
            step(lambda: recorder.start_span("lasting", {"i": i}) if i in (10, 190) else None)
            recorder.steps().close()
        kill()
    """
    told = recorded.told(recorded.run(code))
    told.assert_no_orphans()
    lasting = {row[6][0]: row for row in told.named("lasting")}
    assert lasting[10][3] == told.one("process")[2]
    assert told.steps() == {190: "failed", 199: "last"}
    step = next(row for row in told.named("train step") if row[6][0] == 190)
    assert lasting[190][1] == step[1]
    assert all(row[7].attributes["aiobs.truncated"] for row in lasting.values())
