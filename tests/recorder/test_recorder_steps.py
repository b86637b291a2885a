"""Steps and phases through the public face and through what the patches use."""

from __future__ import annotations

import threading
import time

import pytest

import aiobs
from aiobs import ids, recorder
from aiobs.recorder.layout import AREA_ENTRIES
from aiobs.testing import Captured, CapturedSpan, capture

ROUNDING_NS = 1000


def phases_of(captured: Captured, step: CapturedSpan) -> list[str]:
    return [span.name for span in captured.children(step)]


def test_explicit_steps_with_phases_scalars_and_spans_inside() -> None:
    forward = aiobs.phase("forward")
    with capture() as captured:
        for epoch in range(3):
            with aiobs.step(epoch=epoch):
                with forward:
                    time.sleep(0.002)
                    with aiobs.span("inner"):
                        pass
                with aiobs.phase("backward"):
                    pass
                aiobs.log(loss=0.5 - epoch / 10)
    steps = captured.named("train step")
    assert [step.attributes["aiobs.step"] for step in steps] == [0, 1, 2]
    assert [step.attributes["epoch"] for step in steps] == [0, 1, 2]
    assert [step.attributes["aiobs.train.loss"] for step in steps] == [0.5, 0.4, 0.3]
    assert len({step.trace_id for step in steps}) == 3
    for step in steps:
        assert phases_of(captured, step) == ["forward", "backward"]
        assert captured.children(step)[0].duration_s >= 0.002
        assert [link.span_id.hex() for link in step.links] == [captured.span("run").span_id]
    inner = captured.named("inner")
    assert [span.parent_id for span in inner] == [captured.children(step)[0].span_id for step in steps]


def test_a_bare_call_at_the_top_of_the_loop_ends_the_step_before() -> None:
    with capture() as captured:
        for _ in range(3):
            aiobs.step()
            with aiobs.phase("work"):
                time.sleep(0.001)
    steps = captured.named("train step")
    assert len(steps) == 3
    for before, after in zip(steps, steps[1:], strict=False):
        assert abs(before.end_ns - after.start_ns) < 1_000_000


def test_step_ids_are_those_every_rank_computes() -> None:
    with capture(run_id="job-7") as captured, aiobs.step(41):
        pass
    step = captured.span("train step")
    assert step.trace_id == ids.step_trace_id("job-7", 0, 41).hex()
    assert step.span_id == ids.step_span_id("job-7", 0, 41, 0).hex()


def test_phases_begun_after_the_optimizer_move_to_the_next_step() -> None:
    with capture() as captured:
        steps = recorder.steps()
        forward, optimizer = recorder.phase_id("forward"), recorder.phase_id("optimizer")
        steps.leave(steps.enter(forward))
        steps.leave(steps.enter(optimizer))
        steps.mark_end()
        time.sleep(0.002)
        open_phase = steps.enter(forward)
        steps.close()
        assert steps.open
        assert steps.number == 1
        steps.leave(open_phase)
        steps.leave(steps.enter(optimizer))
        steps.mark_end()
        steps.close()
    first, second = captured.named("train step")
    assert phases_of(captured, first) == ["forward", "optimizer"]
    assert phases_of(captured, second) == ["forward", "optimizer"]
    assert first.end_ns + 1_000_000 < captured.children(second)[0].start_ns
    assert captured.children(second)[0].end_ns >= captured.children(second)[0].start_ns


def test_nested_phases_keep_their_order() -> None:
    with capture() as captured:
        with aiobs.step(), aiobs.phase("optimizer"):
            for _ in range(2):
                with aiobs.phase("forward"):
                    pass
    step = captured.span("train step")
    (outer,) = captured.children(step)
    assert [span.name for span in captured.children(outer)] == ["forward", "forward"]


def test_discarded_steps_leave_no_trace() -> None:
    with capture() as captured:
        steps = recorder.steps()
        steps.leave(steps.enter(recorder.phase_id("data.wait")))
        ((phase, start, end),) = steps.discard()
        assert phase == recorder.phase_id("data.wait")
        assert start <= end
        assert not steps.open
        with aiobs.step():
            pass
    assert len(captured.named("train step")) == 1
    assert not captured.named("data.wait")


def test_a_step_with_more_phases_than_fit_says_how_many_it_had() -> None:
    with capture() as captured, aiobs.step():
        micro = aiobs.phase("forward")
        for _ in range(AREA_ENTRIES + 50):
            with micro:
                pass
    step = captured.span("train step")
    assert step.attributes["aiobs.step.phases.dropped"] > 0
    assert 0 < len(captured.named("forward")) <= 200


def test_threads_have_steps_of_their_own() -> None:
    def train(count: int) -> None:
        for _ in range(count):
            with aiobs.step(), aiobs.phase("forward"):
                time.sleep(0.001)

    with capture() as captured:
        threads = [threading.Thread(target=train, args=(3,)) for _ in range(12)]  # more than there are areas
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    steps = captured.named("train step")
    assert len(steps) == 36
    assert len({step.span_id for step in steps}) == 36
    assert len(captured.named("forward")) == 36


def test_log_takes_numbers_of_any_library_and_refuses_the_rest_without_raising() -> None:
    torch = pytest.importorskip("torch")
    with capture() as captured, aiobs.step():
        aiobs.log(loss=torch.tensor(0.25), lr=1, bad="text", none=None)
        aiobs.log({"grad norm": 2.5})
    attributes = captured.span("train step").attributes
    assert attributes["aiobs.train.loss"] == 0.25
    assert attributes["aiobs.train.lr"] == 1.0
    assert attributes["aiobs.train.grad norm"] == 2.5
    assert "aiobs.train.bad" not in attributes
    gauges = {metric.name for metric in captured.metrics if metric.kind == "gauge"}
    assert {"aiobs.train.loss", "aiobs.train.lr"} <= gauges
