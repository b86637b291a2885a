"""Spans as a user makes them: nesting, attributes, events, errors, whatever the concurrency."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import aiobs
from aiobs.propagation import Context
from aiobs.recorder import start_span
from aiobs.recorder.layout import PAYLOAD_LIMIT
from aiobs.testing import CapturedSpan, capture


def assert_inside(inner: CapturedSpan, outer: CapturedSpan) -> None:
    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_nested_spans_form_one_tree_under_the_process() -> None:
    with capture() as captured:
        with aiobs.span("outer"):
            with aiobs.span("first"):
                pass
            with aiobs.span("second"), aiobs.span("third"):
                pass
    outer = captured.span("outer")
    assert [span.name for span in captured.children(outer)] == ["first", "second"]
    assert_inside(captured.span("third"), captured.span("second"))
    assert_inside(outer, captured.span("process"))
    assert_inside(captured.span("process"), captured.span("run"))
    assert captured.span("run").parent_id == ""


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 2**63 - 1, -(2**63), True, False, 0.5, -0.0, math.inf, "", "text", "naïve ☃", "x" * 500,
        ["a", "b"], [1, 2, 3], [0.5], [],
    ],
)  # fmt: skip
def test_attribute_values_come_out_as_they_went_in(value: Any) -> None:
    with capture() as captured, aiobs.span("work", before=1, value=value) as span:
        span.set("later", value)
    found = captured.span("work").attributes
    assert found == {"before": 1, "value": value, "later": value}
    assert type(found["value"]) is type(value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (2**64, str(2**64)),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        (b"bytes", "bytes"),
        ((1, 2), [1, 2]),
        (KeyError("x"), "'x'"),
        (None, None),
    ],
)
def test_values_no_attribute_can_have_become_the_nearest_that_can(given: Any, expected: Any) -> None:
    with capture() as captured, aiobs.span("work", value=given):
        pass
    assert captured.span("work").attributes["value"] == expected


def test_one_key_with_changing_types_keeps_each_type() -> None:
    values: list[Any] = [1, 1.5, "one", True, 2, [1]]
    with capture() as captured:
        for value in values:
            with aiobs.span("work", value=value):
                pass
    found = [span.attributes["value"] for span in captured.named("work")]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_long_texts_are_cut_at_the_limit_and_the_span_stays() -> None:
    with capture(value_limit=100) as captured, aiobs.span("work", text="y" * 5000, short="z"):
        pass
    assert captured.span("work").attributes == {"text": "y" * 100, "short": "z"}


def test_more_than_a_record_can_hold_is_cut_not_lost() -> None:
    big = {f"key{i}": "v" * 4000 for i in range(40)}
    assert sum(map(len, big.values())) > PAYLOAD_LIMIT
    with capture() as captured:
        with aiobs.span("work", **big):
            pass
        with aiobs.span("after"):
            pass
    assert captured.span("work").attributes.keys() == big.keys()
    assert captured.span("after")


def test_many_names_and_keys_beyond_the_table_still_come_out_whole() -> None:
    with capture(ring_bytes=64 << 20) as captured:
        for number in range(9000):
            with aiobs.span(f"name-{number}", **{f"key-{number}": number}):
                pass
    assert [captured.span(f"name-{number}").attributes for number in (0, 4500, 8999)] == [
        {f"key-{number}": number} for number in (0, 4500, 8999)
    ]


def test_a_failing_block_marks_the_span_and_lets_the_exception_through() -> None:
    error = ValueError("no such thing")
    with capture() as captured:
        with pytest.raises(ValueError, match="no such thing") as caught, aiobs.span("work"):
            raise error
        assert caught.value is error
    span = captured.span("work")
    assert span.status == 2
    assert span.message == "no such thing"
    assert span.attributes["error.type"] == "ValueError"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert "raise error" in event.attributes["exception.stacktrace"]


def test_events_belong_to_the_innermost_span_and_are_logs_too() -> None:
    with capture() as captured, aiobs.span("outer"):
        aiobs.event("in outer", n=1)
        with aiobs.span("inner"):
            aiobs.event("in inner", text="t")
    assert [(e.name, dict(e.attributes)) for e in captured.span("outer").events] == [("in outer", {"n": 1})]
    assert [(e.name, dict(e.attributes)) for e in captured.span("inner").events] == [("in inner", {"text": "t"})]
    assert {log.event_name for log in captured.logs} >= {"in outer", "in inner"}


def test_links_lead_to_the_linked_span() -> None:
    with capture() as captured:
        with aiobs.span("cause") as cause:
            context = cause.context
        with aiobs.span("effect") as effect:
            effect.link(context, {"why": "because"})
    (link,) = captured.span("effect").links
    assert link.span_id.hex() == captured.span("cause").span_id
    assert dict(link.attributes) == {"why": "because"}


def test_threads_have_trees_of_their_own() -> None:
    def work(number: int) -> None:
        for _ in range(200):
            with aiobs.span("outer", number=number), aiobs.span("inner", number=number):
                pass

    with capture() as captured:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    outer = {span.span_id: span for span in captured.named("outer")}
    inner = captured.named("inner")
    assert len(outer) == len(inner) == 800
    for span in inner:
        assert span.attributes["number"] == outer[span.parent_id].attributes["number"]


def test_asyncio_tasks_do_not_mix_up_their_spans() -> None:
    async def request(number: int) -> None:
        with aiobs.span("request", number=number):
            for _ in range(3):
                await asyncio.sleep(random.random() / 1000)
                with aiobs.span("part", number=number):
                    await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(request(number) for number in range(50)))

    with capture() as captured:
        asyncio.run(main())
    requests = {span.span_id: span for span in captured.named("request")}
    parts = captured.named("part")
    assert (len(requests), len(parts)) == (50, 150)
    for part in parts:
        assert part.attributes["number"] == requests[part.parent_id].attributes["number"]


def test_trace_decorates_every_kind_of_function() -> None:
    @aiobs.trace
    def plain(x: int) -> int:
        """Doc."""
        return x + 1

    @aiobs.trace("named", k="v")
    async def coroutine() -> str:
        return "done"

    @aiobs.trace
    def generator() -> Iterator[int]:
        with aiobs.span("in generator"):
            yield 1
        yield 2

    @aiobs.trace
    async def agenerator() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def use() -> list[Any]:
        return [await coroutine(), [item async for item in agenerator()]]

    with capture() as captured:
        assert plain(1) == 2
        assert plain.__doc__ == "Doc."
        with aiobs.span("consumer") as consumer:
            items = []
            for item in generator():
                with aiobs.span("between"):
                    items.append(item)
        assert items == [1, 2]
        assert consumer.context
        assert asyncio.run(use()) == ["done", [1, 2]]
    prefix = "test_trace_decorates_every_kind_of_function.<locals>."
    assert captured.span(prefix + "plain")
    assert captured.span("named").attributes == {"k": "v"}
    made = captured.span(prefix + "generator")
    assert captured.span("in generator").parent_id == made.span_id
    assert {span.parent_id for span in captured.named("between")} == {captured.span("consumer").span_id}
    assert captured.span(prefix + "agenerator").status == 0


def test_a_generator_that_is_sent_thrown_and_closed_behaves_as_without_us() -> None:
    def original() -> Iterator[Any]:
        try:
            got = yield "first"
            try:
                yield got
            except KeyError:
                yield "caught"
        finally:
            closed.append(True)

    for make in (original, aiobs.trace(original)):
        closed: list[bool] = []
        with capture():
            running: Any = make()
            assert next(running) == "first"
            assert running.send("sent") == "sent"
            assert running.throw(KeyError("x")) == "caught"
            running.close()
            assert closed == [True]


def test_remote_parent_and_root_spans() -> None:
    parent = Context(bytes(range(16)), bytes(range(8)), remote=True, trace_state="vendor=1")
    with capture() as captured:
        with start_span("server", kind=2, parent=parent), aiobs.span("child"):
            pass
        start_span("alone", root=True).end()
        start_span("served", kind=2).end()
    server = captured.span("server")
    assert (server.trace_id, server.parent_id, server.kind) == (parent.trace_id.hex(), parent.span_id.hex(), 2)
    assert_inside(captured.span("child"), server)
    run = captured.span("run")
    for name in ("alone", "served"):
        own = captured.span(name)
        assert own.parent_id == ""
        assert own.trace_id != run.trace_id
        assert own.resource["aiobs.run.trace_id"] == run.trace_id


def test_beyond_the_limit_top_level_spans_begin_traces_of_their_own() -> None:
    with capture(join_limit=3) as captured:
        for _ in range(5):
            with aiobs.span("top"):
                pass
    run = captured.span("run").trace_id
    assert [span.trace_id == run for span in captured.named("top")] == [True] * 3 + [False] * 2
    assert captured.span("process").attributes["aiobs.process.spans.outside"] == 2


def test_thousands_of_open_spans_at_once_are_all_recorded() -> None:
    with capture(ring_bytes=16 << 20) as captured:
        opened = [start_span("many", {"n": n}) for n in range(5000)]
        for span in reversed(opened):
            span.end()
    assert sorted(span.attributes["n"] for span in captured.named("many")) == list(range(5000))


def test_ids_are_unique_and_leave_the_users_random_stream_alone() -> None:
    random.seed(42)
    expected = [random.random() for _ in range(5)]
    random.seed(42)
    with capture() as captured:
        drawn = []
        for _ in range(5):
            with aiobs.span("work"):
                drawn.append(random.random())
    assert drawn == expected
    assert len({span.span_id for span in captured.spans}) == len(captured.spans)


def test_nothing_is_recorded_and_nothing_raised_without_init() -> None:
    with aiobs.span("work", k=1) as span:
        span.set("a", 1)
        span.event("e")
        span.fail("no")
        aiobs.event("e2")
        aiobs.log(loss=1.0)
    with aiobs.step(), aiobs.phase("forward"):
        pass
    assert not span.recording
    with capture() as captured:
        pass
    assert {span.name for span in captured.spans} == {"run", "process"}


def test_spans_that_outlive_shutdown_go_nowhere_quietly() -> None:
    with capture() as captured:
        left = start_span("left open")
    left.set("k", 1)
    left.end()
    assert captured.span("left open").attributes["aiobs.truncated"] is True
