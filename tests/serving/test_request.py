"""A request as frameworks and engines tell of it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

import aiobs
from aiobs.serving import ServerRequest, current_request
from aiobs.serving.quantiles import bucket_of, middle_s, quantiles
from aiobs.telemetry import SERVER
from aiobs.testing import CapturedSpan, capture


def nobody(name: str) -> str | None:
    return None


def begin(name: str = "GET", **attributes: Any) -> ServerRequest:
    return ServerRequest.begin(name, attributes, nobody, "127.0.0.1")


def stalls(span: CapturedSpan) -> list[dict[str, Any]]:
    return [dict(event.attributes) for event in span.events if event.name == "aiobs.stream.stall"]


def test_it_is_current_from_begin_to_end() -> None:
    with capture() as captured:
        assert current_request() is None
        with aiobs.span("around"):
            request = begin(answer=42)
            assert current_request() is request
            with aiobs.span("inside"):
                pass
            request.end({"done": True})
            request.end({"done": False})
            assert current_request() is None
            with aiobs.span("after"):
                pass
    span = captured.span("GET")
    assert span.kind == SERVER and span.parent_id == ""  # no work of the program's own is around a request
    assert span.attributes.items() >= {"answer": 42, "done": True}.items()
    assert captured.span("inside").parent_id == span.span_id
    assert captured.span("after").parent_id == captured.span("around").span_id


def test_nothing_is_recorded_and_nothing_breaks_where_recording_is_off() -> None:
    request = begin()
    for _ in range(3):
        request.chunk()
    request.first()
    request.fail(ValueError())
    request.disconnected()
    request.engine["x"] = 1
    request.end({"a": 1})
    assert current_request() is None


def test_an_engine_tells_from_any_thread() -> None:
    with capture() as captured:
        request = begin()
        thread = threading.Thread(target=lambda: request.engine.update({"tokens": 7, "model": "tiny"}))
        thread.start()
        thread.join()
        request.end({"model": "unknown"})
    assert captured.span("GET").attributes.items() >= {"tokens": 7, "model": "tiny"}.items()


def test_ended_in_another_context_than_it_began_in() -> None:
    with capture() as captured:
        request = begin()
        thread = threading.Thread(target=request.end)
        thread.start()
        thread.join()
        request.leave()
        assert len(captured.spans) == 0
    assert captured.span("GET").status == 0


def test_failures_and_departures() -> None:
    with capture() as captured:
        request = begin("failed")
        request.fail(ValueError("bad"))
        request.end()
        request = begin("left")
        request.disconnected()
        request.disconnected()
        request.end()
        request = begin("stayed")
        request.end()
        request.disconnected()
    assert captured.span("failed").status == 2 and captured.span("failed").attributes["error.type"] == "ValueError"
    left, stayed = captured.span("left"), captured.span("stayed")
    assert left.status == 0 and left.attributes["aiobs.request.disconnected"] is True and len(left.events) == 1
    assert "aiobs.request.disconnected" not in stayed.attributes


def test_quantiles_are_within_two_percent() -> None:
    source = random.Random(7)
    for draw in (
        lambda: source.lognormvariate(-4, 1.5),
        lambda: source.uniform(1e-5, 2),
        lambda: source.paretovariate(1) / 1e4,
    ):
        values = sorted(draw() for _ in range(4000))
        counts: dict[int, int] = {}
        for value in values:
            counts[bucket_of(int(value * 1e9))] = counts.get(bucket_of(int(value * 1e9)), 0) + 1
        for share, found in zip((0.5, 0.95, 0.99), quantiles(counts, (0.5, 0.95, 0.99)), strict=True):
            assert found == pytest.approx(values[int(share * len(values)) - 1], rel=0.02)
    assert all(
        middle_s(bucket_of(ns)) == pytest.approx(ns / 1e9, rel=0.016) for ns in (10**4, 10**6 + 1, 123456789, 10**11)
    )


def test_memory_does_not_grow_with_the_stream() -> None:
    with capture():
        request = begin()
        for _ in range(300_000):
            request.chunk()
        assert request.stream.chunks == 300_000
        assert len(request.stream._counts) < 32 * 22
        started = time.perf_counter()
        facts = request.stream.facts()
        assert time.perf_counter() - started < 0.005
        assert facts["aiobs.stream.chunks"] == 300_000
        request.end()


def test_a_chunk_costs_a_microsecond_at_most() -> None:
    with capture():
        request = begin()
        chunk, best_s = request.chunk, 1.0
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(2000):
                chunk()
            best_s = min(best_s, (time.perf_counter() - started) / 2000)
        request.end()
    assert best_s < 1e-6


def test_gaps_that_are_usual_are_no_stalls() -> None:
    with capture(serving_stall_s=0.02) as captured:
        slow = begin("slow")
        for _ in range(6):
            time.sleep(0.03)
            slow.chunk()
        slow.end()
        stalling = begin("stalling")
        for number in range(40):
            time.sleep(0.06 if number in (20, 30) else 0.001)
            stalling.chunk()
        stalling.end()
    # Of an answer that comes every 30 ms only the first gap has none to be compared with.
    assert captured.span("slow").attributes["aiobs.stream.stalls"] <= 1
    found = stalls(captured.span("stalling"))
    assert captured.span("stalling").attributes["aiobs.stream.stalls"] == len(found) == 2
    assert [stall["aiobs.stream.stall.after_chunk"] for stall in found] == [20, 30]
    assert all(stall["aiobs.stream.stall.duration"] == pytest.approx(0.06, abs=0.02) for stall in found)


def test_stalls_without_end_have_events_with_an_end() -> None:
    with capture(serving_stall_s=0.002) as captured:
        request = begin()
        for number in range(240):
            time.sleep(0.004 if number % 8 == 7 else 0)
            request.chunk()
        request.end()
    span = captured.span("GET")
    assert int(span.attributes["aiobs.stream.stalls"]) > 16
    assert len(stalls(span)) == 16


def test_the_loop_is_watched_only_while_requests_are_open() -> None:
    async def run() -> tuple[int, int]:
        loop: Any = asyncio.get_running_loop()
        request = begin()
        await asyncio.sleep(0)
        waiting = len(loop._scheduled)
        request.end()
        await asyncio.sleep(0.12)
        return waiting, len(loop._scheduled)

    with capture():
        assert asyncio.run(run()) == (1, 0)


def test_many_requests_share_one_timer() -> None:
    async def run() -> int:
        loop: Any = asyncio.get_running_loop()
        requests = [begin() for _ in range(50)]
        for request in requests:
            request.leave()
        waiting = len(loop._scheduled)
        for request in requests:
            request.end()
        return waiting

    with capture():
        assert asyncio.run(run()) == 1
