"""Spans of OpenTelemetry and ours lie within each other as the code does, in both directions."""

from __future__ import annotations

from itertools import pairwise

import pytest

SET_UPS = {
    "api alone": "begin()\nfrom opentelemetry import trace",
    "provider before": """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
begin()""",
    "provider after": """
begin()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())""",
    "private provider": """
begin()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
mine = TracerProvider()
trace.get_tracer = mine.get_tracer""",
}


@pytest.fixture(params=list(SET_UPS))
def set_up(request):
    return SET_UPS[request.param]


def chain(ran, *names):
    """Assert that each span is the child of the one before, in one trace; returns the first."""
    spans = [ran.span(name) for name in names]
    for outer, inner in pairwise(spans):
        assert inner.parent == outer.span, f"{inner.name} is not in {outer.name}"
        assert inner.trace == outer.trace
        assert outer.start <= inner.start <= inner.end <= outer.end
    return spans[0]


def test_ours_theirs_ours_theirs(run_script, set_up):
    ran = run_script(
        set_up
        + """
tracer = trace.get_tracer("lib", "2.1")
with recorder.span("a"):
    with tracer.start_as_current_span("b", kind=trace.SpanKind.CLIENT, attributes={"k": 1}) as b:
        b.set_attribute("late", [1, 2])
        with recorder.span("c"):
            with tracer.start_as_current_span("d"):
                pass
        with tracer.start_as_current_span("e"):
            pass
"""
    )
    assert len(ran.spans) == 5
    assert chain(ran, "a", "b", "c", "d").parent == ""
    chain(ran, "a", "b", "e")
    b = ran.span("b")
    assert (b.kind, b.scope, b.version) == (3, "lib", "2.1")
    assert b.attributes == {"k": 1, "late": [1, 2]}


def test_theirs_outermost(run_script, set_up):
    ran = run_script(
        set_up
        + """
tracer = trace.get_tracer("lib")
with tracer.start_as_current_span("a"):
    with recorder.span("b"):
        with tracer.start_as_current_span("c"):
            pass
    with recorder.span("d"):
        pass
"""
    )
    chain(ran, "a", "b", "c")
    assert chain(ran, "a", "d").parent == ""


def test_over_threads_with_carried_context(run_script, set_up):
    ran = run_script(
        set_up
        + """
import contextvars, threading
tracer = trace.get_tracer("lib")
def work():
    with tracer.start_as_current_span("c"):
        with recorder.span("d"):
            pass
def lost():
    with tracer.start_as_current_span("elsewhere"):
        pass
with tracer.start_as_current_span("a"):
    with recorder.span("b"):
        for target, how in ((work, contextvars.copy_context().run), (lost, lambda f: f())):
            thread = threading.Thread(target=how, args=(target,))
            thread.start()
            thread.join()
"""
    )
    chain(ran, "a", "b", "c", "d")
    assert ran.span("elsewhere").parent == ""


def test_over_asyncio_tasks(run_script, set_up):
    ran = run_script(
        set_up
        + """
import asyncio
tracer = trace.get_tracer("lib")
async def one(n):
    with recorder.span(f"ours {n}"):
        await asyncio.sleep(0.001)
        with tracer.start_as_current_span(f"theirs {n}"):
            await asyncio.sleep(0.001)
            with recorder.span(f"inner {n}"):
                await asyncio.sleep(0.001)
async def main():
    with tracer.start_as_current_span("all"):
        await asyncio.gather(*(one(n) for n in range(5)))
asyncio.run(main())
"""
    )
    for n in range(5):
        chain(ran, "all", f"ours {n}", f"theirs {n}", f"inner {n}")


def test_in_a_generator(run_script, set_up):
    ran = run_script(
        set_up
        + """
tracer = trace.get_tracer("lib")
def items():
    with tracer.start_as_current_span("reading"):
        with recorder.span("chunk"):
            yield 1
with recorder.span("all"):
    for _ in items():
        pass
    with tracer.start_as_current_span("after"):
        pass
"""
    )
    chain(ran, "all", "reading", "chunk")
    chain(ran, "all", "after")


def test_an_explicit_context_beats_what_is_around(run_script, set_up):
    ran = run_script(
        set_up
        + """
from opentelemetry.context import Context
tracer = trace.get_tracer("lib")
with tracer.start_as_current_span("first") as first:
    pass
with recorder.span("around"):
    tracer.start_span("under first", context=trace.set_span_in_context(first)).end()
    tracer.start_span("alone", context=Context()).end()
"""
    )
    assert ran.span("under first").parent == ran.span("first").span
    assert ran.span("alone").parent == ""
    assert ran.span("alone").trace != ran.span("around").trace


def test_spans_in_a_training_step_go_with_the_step(run_script, set_up):
    ran = run_script(
        set_up
        + """
from aiobs import ids
tracer = trace.get_tracer("lib")
forward = recorder.phase_id("forward")
with tracer.start_as_current_span("epoch"):
    for _ in range(2):
        steps = recorder.steps()
        token = steps.enter(forward)
        with tracer.start_as_current_span("augment"):
            with tracer.start_as_current_span("crop"):
                with recorder.span("ours"):
                    pass
        steps.leave(token)
        steps.close()
step = ids.step_span_id("run-1", 0, 0, 0)
say(trace=ids.step_trace_id("run-1", 0, 0).hex(), phase=ids.phase_span_id(step, 0).hex())
"""
    )
    (facts,) = ran.said
    in_step = [span for span in ran.spans if span.trace == facts["trace"]]
    assert sorted(span.name for span in in_step) == ["augment", "crop", "ours"]
    assert all(span.in_step for span in in_step)
    by_name = {span.name: span for span in in_step}
    assert by_name["augment"].parent == facts["phase"]
    assert by_name["crop"].parent == by_name["augment"].span
    assert by_name["ours"].parent == by_name["crop"].span
    assert not ran.span("epoch").in_step


def test_what_a_span_is_told(run_script, set_up):
    ran = run_script(
        set_up
        + """
from opentelemetry.trace import Link, Status, StatusCode
tracer = trace.get_tracer("lib")
with tracer.start_as_current_span("target") as target:
    pass
with tracer.start_as_current_span("told", links=[Link(target.get_span_context(), {"why": "test"})]) as span:
    span.update_name("renamed")
    span.add_event("tick", {"n": 1})
    span.add_link(target.get_span_context())
    span.set_status(StatusCode.OK)
    span.set_status(StatusCode.ERROR, "too late")
try:
    with tracer.start_as_current_span("failing"):
        raise ValueError("no such thing")
except ValueError:
    pass


"""
    )
    told = ran.span("renamed")
    target = ran.span("target")
    assert told.events == [("tick", {"n": 1})]
    assert told.links == [(target.trace, target.span)] * 2
    assert told.status == 1
    failing = ran.span("failing")
    assert (failing.status, failing.message) == (2, "ValueError: no such thing")
    ((event, attributes),) = failing.events
    assert event == "exception"
    assert attributes["exception.type"] == "ValueError"
    assert "no such thing" in attributes["exception.stacktrace"]
