"""What a process recorded comes out as telemetry, also when the process was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from aiobs import ids
from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import Exit
from aiobs.agent.reader import FlightReader

ATTRIBUTES = """
    start()
    with recorder.span("work", number=7, ratio=0.5, text="naïve ✓", flag=True, empty="", items=[1, "two", None]):
        pass
    kill()
"""


def test_attributes_of_every_type(recorded: Any) -> None:
    told = recorded.told(recorded.run(ATTRIBUTES))
    row = told.one("work")
    assert told.attributes(row) == {
        "number": 7, "ratio": 0.5, "text": "naïve ✓", "flag": True, "empty": "", "items": [1, "two", None],
    }  # fmt: skip
    assert abs(row[4] - time.time_ns()) < 60e9
    assert row[5] >= row[4]
    assert row[3] == b""


def test_finished_spans_survive_a_kill_once_and_open_ones_are_truncated(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        with recorder.span("outer", kept="yes"):
            for i in range(500):
                with recorder.span("inner", i=i):
                    pass
            big = recorder.start_span("long attributes", {"text": "x" * 500})
            kill()
    """)
    told = recorded.told(reader)
    assert [row[6][0] for row in told.named("inner")] == list(range(500))
    outer = told.one("outer")
    assert {row[3] for row in told.named("inner")} == {outer[2]}
    assert told.attributes(outer) == {
        "kept": "yes", "aiobs.truncated": True, "aiobs.exit.cause": "signal", "aiobs.exit.signal": "SIGKILL",
    }  # fmt: skip
    assert outer[7].status == 2
    assert told.attributes(told.one("long attributes"))["aiobs.truncated"] is True
    told.assert_ids_unique()


def test_a_clean_end_makes_no_error_of_open_spans(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        recorder.start_span("never ended")
        os._exit(0)
    """)
    row = recorded.told(reader, ending=Exit("exit", 0, "", 0)).one("never ended")
    assert row[7].status == 0
    assert row[7].attributes["process.exit.code"] == 0


def test_long_payloads_are_put_together(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        def work(k):
            for i in range(40):
                with recorder.span("long", k=k, i=i, text=f"{k}" * 3000):
                    with recorder.span("short", i=i):
                        pass
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        kill()
    """)
    told = recorded.told(reader)
    seen = sorted((row[6][0], row[6][1]) for row in told.named("long"))
    assert seen == [(k, i) for k in range(4) for i in range(40)]
    for row in told.named("long"):
        attributes = told.attributes(row)
        assert attributes["text"] == str(attributes["k"]) * 3000
        assert attributes["thread.id"] != reader.pid
    assert reader.counters()["damaged"] == 0


def test_events_links_and_failures(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        try:
            with recorder.span("work") as span:
                recorder.event("halfway", percent=50)
                recorder.log(loss=0.25)
                with recorder.span("other") as other:
                    pass
                span.link(other.context, {"why": "test"})
                raise ValueError("no good")
        except ValueError:
            pass
        kill()
    """)
    told = recorded.told(reader)
    row = told.one("work")
    extra = row[7]
    assert [event.name for event in extra.events] == ["halfway", "exception"]
    assert extra.events[0].attributes == {"percent": 50}
    assert row[4] <= extra.events[0].time_ns <= row[5]
    assert (extra.status, extra.message) == (2, "no good")
    assert told.attributes(row)["error.type"] == "ValueError"
    assert told.attributes(row)["aiobs.train.loss"] == 0.25
    assert extra.links[0].span_id == told.one("other")[2]
    assert extra.links[0].attributes == {"why": "test"}
    by_name = {log.event_name: log for log in told.logs}
    assert by_name["halfway"].span_id == row[2]
    assert by_name["exception"].severity == 17
    assert by_name["exception"].body == "no good"
    assert told.metric("aiobs.train.loss").points[0].value == 0.25


def test_a_request_is_a_trace_of_its_own_linked_to_the_run(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        request = recorder.start_span("GET /", kind=2)
        recorder.start_span("query", kind=3, parent=request.context).end()
        request.end()
        kill()
    """)
    told = recorded.told(reader)
    request, query = told.one("GET /"), told.one("query")
    assert (request[3], query[3]) == (b"", request[2])
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in request[7].links] == [("11" * 16, "22" * 8)]
    assert query[7] is None


def test_the_process_span_tells_how_it_ended(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        with recorder.span("process"):
            kill()
    """)
    told = recorded.told(reader, ending=Exit("oom_kill", None, "SIGKILL", time.monotonic_ns()))
    row = told.one("process")
    (event,) = row[7].events
    assert event.name == "process.exit"
    assert event.attributes == {"aiobs.exit.cause": "oom_kill", "aiobs.exit.signal": "SIGKILL"}
    assert row[7].message == "killed for lack of memory (OOM)"
    assert [log.event_name for log in told.logs] == ["process.exit"]


def test_a_process_span_that_ended_well_still_learns_the_exit_code(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        with recorder.span("process"):
            pass
        recorder.stop()
    """)
    assembler = Assembler(reader.route)
    assembler.add(reader)
    assert not assembler.take(time.time_ns()).spans
    assembler.process_ended(reader, Exit("exit", 3, "", 0))
    ((_, rows),) = assembler.take(time.time_ns()).spans
    assert rows[0][7].attributes["process.exit.code"] == 3
    assert rows[0][7].status == 2


def test_a_span_that_ended_just_before_the_kill_is_not_truncated(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        span = recorder.start_span("work")
        from aiobs.recorder.layout import SLOTS_AT
        (path,) = Path(os.environ["RECORDS"]).glob("*.fr")
        mark = path.read_bytes()[SLOTS_AT : SLOTS_AT + 192]
        span.end()
        with open(path, "r+b") as file:         # as if killed before the mark was taken away
            file.seek(SLOTS_AT)
            file.write(mark)
        kill()
    """)
    row = recorded.told(reader).one("work")
    assert row[7] is None


def test_open_spans_are_announced_once_even_by_a_new_agent(recorded: Any, wait_for: Callable[..., None]) -> None:
    process = recorded.start("""
        start(environment={"AIOBS_STARTED_AFTER": "0.01"})
        with recorder.span("slow", model="digits"):
            print(flush=True)
            time.sleep(60)
    """)
    try:
        process.stdout.readline()
        reader = FlightReader(next(recorded.directory.glob("*.fr")))
        assert reader.alive()
        assembler = Assembler(reader.route)
        assembler.add(reader)
        found: list[Any] = []

        def announced() -> bool:
            found.extend(row for _, rows in assembler.take(time.time_ns()).spans for row in rows)
            return bool(found)

        wait_for(announced)
        (row,) = found
        assert row[0].name == "slow (started)"
        assert row[2] == ids.started_span_id(row[3])
        assert row[7].attributes == {"model": "digits"}
        again = Assembler(reader.route)
        again.restore(json.loads(json.dumps(assembler.snapshot())))
        again.add(reader)
        assert not again.take(time.time_ns()).spans
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not reader.alive())
    assembler.process_ended(reader, Exit("signal", None, "SIGKILL", time.monotonic_ns()))
    ((_, rows),) = assembler.take(time.time_ns()).spans
    assert [row[0].name for row in rows] == ["slow"]
    assert rows[0][2] == row[3]


@pytest.mark.parametrize("turns", [1, 7, 40])
def test_a_new_agent_goes_on_where_the_old_one_committed(recorded: Any, turns: int) -> None:
    """The assembler is thrown away and restored between all turns; every span comes out exactly once."""
    reader = recorded.run("""
        start(keep_first=3, keep_every=5, keep_slow_ratio=1000.0)
        with recorder.span("process"):
            for i in range(60):
                step(lambda: recorder.span("inner", i=i).__enter__().__exit__(None, None, None))
                recorder.steps().close()
                with recorder.span("outside", i=i):
                    recorder.event("seen", i=i)
            kill()
    """)
    whole = recorded.told(FlightReader(reader.path))
    state: dict[str, Any] | None = None
    rows: list[Any] = []
    position, share = reader.position, 400 // turns
    for _ in range(turns):
        assembler, again = Assembler(reader.route), FlightReader(reader.path)
        if state is not None:
            assembler.restore(state)
        again.position = position
        assembler.add(again, share)
        rows += [row for _, found in assembler.take(time.time_ns(), metrics=False).spans for row in found]
        state, position = json.loads(json.dumps(assembler.snapshot())), again.position
    assembler, again = Assembler(reader.route), FlightReader(reader.path)
    assembler.restore(state)
    again.position = position
    assembler.process_ended(again, Exit("signal", None, "SIGKILL", 0))
    last = assembler.take(time.time_ns())
    rows += [row for _, found in last.spans for row in found]
    assert sorted(row[2] for row in rows) == sorted(row[2] for row in whole.rows)
    assert sorted((row[0].name, row[3], row[4], row[5]) for row in rows) == sorted(
        (row[0].name, row[3], row[4], row[5]) for row in whole.rows
    )
    steps = [metric for _, found in last.metrics for metric in found if metric.name == "aiobs.train.steps"]
    assert steps[0].points[0].value == 60
