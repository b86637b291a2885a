"""Whatever a process records, what waits in the agent and what one trace shows stays bounded, and the rest counted."""

from __future__ import annotations

import json
import time
from typing import Any

from aiobs.agent.assemble import Assembler
from aiobs.agent.keep import MEDIAN_OF, SlowRule
from aiobs.agent.metrics import SERIES_LIMIT, Metrics
from aiobs.agent.reader import FlightReader
from aiobs.agent.unfinished import EVENTS_OF_ONE, LIMIT, Unfinished
from aiobs.telemetry import Exemplar, SpanEvent


def test_a_step_trace_stays_below_2000_spans(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        step(lambda: [recorder.span("inner", i=i).__enter__().__exit__(None, None, None) for i in range(5000)])
        recorder.steps().close()
        recorder.stop()
    """)
    told = recorded.told(reader)
    assert 1500 < len(told.rows) < 2000
    dropped = told.attributes(told.one("train step"))["aiobs.step.spans.dropped"]
    assert dropped == 5000 - len(told.named("inner"))
    assert told.assembler.counts()["left_out"] == dropped


def test_spans_of_recent_steps_do_not_pile_up(recorded: Any) -> None:
    reader = recorded.run(
        """
        start(keep_first=0, keep_every=0, keep_slow_ratio=1000.0)
        for k in range(60):
            step(lambda: [recorder.span("inner", k=k).__enter__().__exit__(None, None, None) for i in range(500)])
            recorder.steps().close()
        recorder.stop()
    """,
        RING=str(8 << 20),
    )
    assembler = Assembler(reader.route)
    while assembler.add(reader):
        assembler.take(time.time_ns())
    (process,) = assembler._processes.values()
    assert process.steps._count <= 20_000
    told = recorded.told(FlightReader(reader.path))
    assert told.steps() == {59: "last"}


def test_events_of_spans_that_never_end(recorded: Any) -> None:
    waiting = Unfinished()
    for i in range(3 * LIMIT):
        waiting.event(i.to_bytes(8, "big"), SpanEvent("late", i))
    for i in range(2 * EVENTS_OF_ONE):
        waiting.event(b"same one", SpanEvent("again", i))
    assert waiting.overflow == 2 * LIMIT + EVENTS_OF_ONE + EVENTS_OF_ONE
    assert len(json.dumps(waiting.snapshot())) < 100 * LIMIT


def test_gauges_and_attribute_sets_of_a_process_are_bounded() -> None:
    metrics = Metrics(1)
    for i in range(2 * SERIES_LIMIT):
        metrics.set(f"aiobs.train.value{i}", i, i)
        metrics.observe("aiobs.train.phase.duration", 0.1, (("aiobs.phase", f"phase {i}"),))
    found = {metric.name: metric for metric in metrics.collect(5)}
    assert len(found) == SERIES_LIMIT + 1
    points = found["aiobs.train.phase.duration"].points
    assert len(points) == SERIES_LIMIT + 1
    (overflow,) = [point for point in points if point.attributes == {"otel.metric.overflow": True}]
    assert overflow.count == SERIES_LIMIT


def test_metrics_go_on_where_they_were() -> None:
    metrics = Metrics(1)
    for value in (0.002, 0.02, 700.0):
        metrics.observe("aiobs.train.step.duration", value)
    metrics.exemplify("aiobs.train.step.duration", Exemplar(0.02, 3, b"t" * 16, b"s" * 8))
    metrics.add("aiobs.train.steps", 3)
    metrics.set("aiobs.train.loss", 0.5, 4)
    again = Metrics.restored(json.loads(json.dumps(metrics.snapshot())))
    again.observe("aiobs.train.step.duration", 0.002)
    again.add("aiobs.train.steps")
    (duration,) = next(m for m in again.collect(9) if m.name == "aiobs.train.step.duration").points
    assert (duration.count, duration.min, duration.max, duration.start_ns) == (4, 0.002, 700.0, 1)
    assert duration.counts[-1] == 1
    assert sum(duration.counts) == 4
    steps = next(m for m in again.collect(9) if m.name == "aiobs.train.steps")
    assert (steps.kind, steps.points[0].value) == ("sum", 4)


def test_the_running_median_forgets() -> None:
    slow = SlowRule()
    for _ in range(MEDIAN_OF):
        slow.see(1_000, 1.5)
    assert slow.median_ns() == 1_000
    for _ in range(MEDIAN_OF):
        slow.see(5_000, 1.5)
    assert slow.median_ns() == 5_000
    again = SlowRule()
    again.restore(json.loads(json.dumps(slow.snapshot())))
    assert again.median_ns() == 5_000
    assert [again.see(6_000, 1.5), again.see(9_000, 1.5)] == [False, True]


def test_no_step_is_slow_before_there_is_something_to_compare_with() -> None:
    slow = SlowRule()
    assert not any(slow.see(10**i, 1.5) for i in range(8))
