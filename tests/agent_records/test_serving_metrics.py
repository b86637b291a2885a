"""Requests and engine steps in the metrics: what their spans say, counted once, with the conventions' buckets."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from aiobs.agent.exits import Exit
from aiobs.telemetry import HistogramPoint, Point

from .conftest import DONE, KILLED, Recorded, Told

SERVE = """
from aiobs.telemetry import CLIENT, SERVER, INTERNAL

def spent(name, seconds, kind=SERVER, error=None, end=True, **attributes):
    # A span that took so long, to the nanosecond.
    global at
    at += 10**9
    attributes = {key.replace("__", "."): value for key, value in attributes.items()}
    span = recorder.start_span(name, attributes, kind=kind, start_ns=at)
    if error:
        span.set("error.type", error)
        span.fail(error)
    if end:
        span.end(at + int(seconds * 1e9))
    return span

at = time.monotonic_ns() - 10**12
chat = dict(http__request__method="POST", http__route="/v1/chat/completions", url__scheme="http",
    http__response__status_code=200, gen_ai__operation__name="chat", gen_ai__provider__name="aiobs",
    gen_ai__request__model="tiny", server__address="127.0.0.1", server__port=8000)
start()
"""
MODEL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "aiobs",
    "gen_ai.request.model": "tiny",
    "server.address": "127.0.0.1",
    "server.port": 8000,
}


def served(recorded: Recorded, code: str, ending: Exit = DONE) -> Told:
    """What comes of a server's record."""
    return recorded.told(recorded.run(SERVE + textwrap.dedent(code)), ending=ending)


def points(told: Told, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
    """The points of a metric by their attributes."""
    return {tuple(sorted(point.attributes.items())): point for point in told.metric(name).points}


def only(told: Told, name: str) -> HistogramPoint:
    (point,) = told.metric(name).points
    assert isinstance(point, HistogramPoint)
    return point


def levels(told: Told, name: str, key: str) -> dict[str, float]:
    """Sums and gauges by one attribute."""
    return {
        str(point.attributes.get(key)): point.value for point in told.metric(name).points if isinstance(point, Point)
    }


def test_an_answer_of_a_model_with_all_its_times(recorded: Recorded) -> None:
    told = served(
        recorded,
        """
            spent("POST /v1/chat/completions", 3.0, **chat, gen_ai__usage__input_tokens=20, gen_ai__usage__output_tokens=100,
                aiobs__request__time_to_first_token=0.3, aiobs__request__time_per_output_token=0.027,
                aiobs__request__queue__duration=0.2, aiobs__request__prefill__duration=0.1,
                aiobs__request__decode__duration=2.7, aiobs__request__preemptions=2)
            """,
    )
    expected = {
        "gen_ai.server.request.duration": 3.0, "gen_ai.server.time_to_first_token": 0.3,
        "gen_ai.server.time_per_output_token": 0.027, "aiobs.request.queue.duration": 0.2,
        "aiobs.request.prefill.duration": 0.1, "aiobs.request.decode.duration": 2.7,
    }  # fmt: skip
    span = told.one("POST /v1/chat/completions")
    for name, seconds in expected.items():
        point = only(told, name)
        assert (point.count, point.sum) == (1, pytest.approx(seconds))
        assert point.attributes == MODEL
        (exemplar,) = point.exemplars
        assert (exemplar.trace_id, exemplar.span_id, exemplar.time_ns) == (span[1], span[2], span[5])
    assert only(told, "gen_ai.server.time_to_first_token").bounds == (
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    )  # fmt: skip
    assert levels(told, "aiobs.server.tokens", "gen_ai.token.type") == {"input": 20, "output": 100}
    assert [point.value for point in told.metric("aiobs.engine.preemptions").points] == [2]
    http = only(told, "http.server.request.duration")
    assert http.attributes == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "url.scheme": "http",
    }  # fmt: skip
    assert http.bounds[0] == 0.005


def test_failures_are_counted_by_type_and_have_no_token_times(recorded: Recorded) -> None:
    told = served(
        recorded,
        """
            failed = {**chat, "http__response__status_code": 500}
            spent("POST /x", 1.0, error="CudaError", **failed, aiobs__request__time_to_first_token=0.3)
            span = spent("POST /x", 1.0, end=False, **failed)
            span.fail("no type")
            span.end()
            """,
    )
    found = points(told, "gen_ai.server.request.duration")
    assert sorted(dict(key)["error.type"] for key in found) == ["CudaError", "_OTHER"]
    assert not [metric for metric in told.metrics if metric.name == "gen_ai.server.time_to_first_token"]


@pytest.mark.parametrize(
    ("ending", "kind"), [(KILLED, "SIGKILL"), (Exit("oom_kill", None, "SIGKILL", 0), "oom_kill"), (DONE, "exit")]
)
def test_a_request_cut_off_by_the_death_of_its_process_is_an_error(recorded: Recorded, ending: Exit, kind: str) -> None:
    told = served(
        recorded,
        """
        span = spent("POST /x", 0, end=False, http__request__method="POST", url__scheme="http", gen_ai__operation__name="chat")
        spent("POST /x", 1.0, **chat)
        kill()
        """,
        ending,
    )
    for name in ("gen_ai.server.request.duration", "http.server.request.duration"):
        errors = [dict(key).get("error.type") for key in points(told, name)]
        assert sorted(map(str, errors)) == sorted(["None", kind])
    if not ending.clean:
        (cut,) = [row for row in told.rows if told.attributes(row).get("aiobs.truncated")]
        assert told.attributes(cut)["error.type"] == kind


def test_a_caller_that_left_is_no_error(recorded: Recorded) -> None:
    told = served(recorded, 'spent("POST /x", 1.0, **chat, aiobs__request__disconnected=True, aiobs__stream__stalls=3)')
    assert "error.type" not in only(told, "http.server.request.duration").attributes
    assert [point.value for point in told.metric("aiobs.server.disconnects").points] == [1]
    assert [point.value for point in told.metric("aiobs.server.stalls").points] == [3]


def test_calls_of_a_model_at_the_client(recorded: Recorded) -> None:
    told = served(
        recorded,
        """
            model = {key: value for key, value in chat.items() if not key.startswith(("http", "url"))}
            spent("chat tiny", 2.0, CLIENT, **model, gen_ai__usage__input_tokens=20, gen_ai__usage__output_tokens=100,
                gen_ai__response__time_to_first_chunk=0.5, aiobs__stream__chunks=31)
            spent("execute_tool weather", 2.0, INTERNAL, gen_ai__operation__name="execute_tool")
            spent("GET", 2.0, CLIENT, http__request__method="GET")
            spent("chat tiny", 4.0, INTERNAL, **model)  # the engine's own, where no server is around
            """,
    )
    assert only(told, "gen_ai.client.operation.duration").sum == pytest.approx(2.0)
    assert only(told, "gen_ai.client.operation.time_to_first_chunk").sum == pytest.approx(0.5)
    assert only(told, "gen_ai.client.operation.time_per_output_chunk").sum == pytest.approx(0.05)
    tokens = {
        point.attributes["gen_ai.token.type"]: point.sum for point in told.metric("gen_ai.client.token.usage").points
    }  # type: ignore[union-attr]
    assert tokens == {"input": 20, "output": 100}
    assert only(told, "gen_ai.server.request.duration").sum == pytest.approx(4.0)
    assert len(told.named("chat tiny")) == 2


def test_rpc_has_the_names_of_the_stable_convention(recorded: Recorded) -> None:
    told = served(
        recorded,
        """
            spent("demo.Chat/Say", 0.5, rpc__system="grpc", rpc__service="demo.Chat", rpc__method="Say", rpc__grpc__status_code=0)
            spent("demo.Chat/Say", 0.5, error="UNAVAILABLE", rpc__system__name="grpc", rpc__method="demo.Chat/Say",
                rpc__response__status_code="UNAVAILABLE")
            """,
    )
    ok = {"rpc.system.name": "grpc", "rpc.method": "demo.Chat/Say", "rpc.response.status_code": "OK"}
    failed = {**ok, "rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"}
    assert [point.attributes for point in told.metric("rpc.server.call.duration").points] == [ok, failed]


STEPS = (
    SERVE
    + """
for number in range(20):
    spent("engine step", 0.01 * (1 + number % 2), INTERNAL, aiobs__engine__name="tiny", aiobs__engine__step=number,
        aiobs__engine__step__kept=number % 10 == 0, aiobs__engine__running=number % 4, aiobs__engine__waiting=3,
        aiobs__engine__prefill_tokens=7, aiobs__engine__decode_tokens=2, aiobs__engine__kv__usage=0.25)
"""
)


@pytest.mark.parametrize("restart", [False, True])
def test_every_engine_step_counts_and_only_kept_ones_are_exported(recorded: Recorded, restart: bool) -> None:
    told = recorded.told(recorded.run(STEPS), ending=DONE, restart=restart)
    kept = told.named("engine step")
    assert len(kept) == 2
    assert told.assembler.counts() == {"left_out": 18, "overflow": 0}  # type: ignore[attr-defined]
    point = only(told, "aiobs.engine.step.duration")
    assert (point.count, point.sum, point.attributes) == (20, pytest.approx(0.3), {"aiobs.engine.name": "tiny"})
    assert levels(told, "aiobs.engine.tokens", "gen_ai.token.type") == {"input": 140, "output": 40}
    assert only(told, "aiobs.engine.batch.size").sum == sum(number % 4 for number in range(20))
    assert levels(told, "aiobs.engine.kv.usage", "aiobs.engine.name") == {"tiny": 0.25}
    if not restart:
        assert {exemplar.span_id for exemplar in point.exemplars} <= {row[2] for row in kept}


def test_an_engine_nobody_asks_anything_is_idle(recorded: Recorded) -> None:
    told = recorded.told(recorded.run(STEPS), ending=DONE)
    assert levels(told, "aiobs.engine.requests", "aiobs.engine.state") == {"running": 0, "waiting": 0}


def test_levels_follow_what_is_open(recorded: Recorded) -> None:
    from aiobs.agent.assemble import Assembler
    from aiobs.agent.reader import FlightReader

    process = recorded.start(
        STEPS
        + """
queue = recorder.start_span("queue", start_ns=at)
open_ones = [spent("GET /slow", 0, end=False, http__request__method="GET", url__scheme="http") for _ in range(5)]
print("ready", flush=True)
for line in sys.stdin:
    open_ones.pop().end()
    print("done", flush=True)
"""
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    (path,) = recorded.directory.glob("*.fr")
    reader = FlightReader(path)
    clock = iter(range(10**18, 10**18 + 10**11, 10**9))
    assembler = Assembler(reader.route, lambda: next(clock))
    assembler.add(reader)
    told = Told().take(assembler)
    assert levels(told, "http.server.active_requests", "http.request.method") == {"GET": 5}
    # A request waits in the engine: what the last step saw stands.
    assert levels(told, "aiobs.engine.requests", "aiobs.engine.state") == {"running": 3, "waiting": 3}
    for _ in range(2):
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
    assembler.add(reader)
    assert levels(Told().take(assembler), "http.server.active_requests", "http.request.method") == {"GET": 3}
    process.kill()
    process.communicate()
    assembler.add(reader)
    assembler.process_ended(reader, KILLED)
    assert levels(Told().take(assembler), "http.server.active_requests", "http.request.method") == {"GET": 0}


def test_callers_cannot_make_series_without_end(recorded: Recorded) -> None:
    told = served(
        recorded,
        """
            for number in range(300):
                wrong = {**chat, "http__response__status_code": 404, "gen_ai__request__model": f"made up {number}"}
                spent("POST /x", 1.0, **wrong)
            for number in range(300):
                spent("POST /x", 1.0, **{**chat, "gen_ai__request__model": f"loaded {number}"})
            """,
    )
    found = points(told, "gen_ai.server.request.duration")
    assert len(found) == 201
    assert not [key for key in found if "made up" in str(key)]
    assert sum(point.count for point in found.values()) == 600
    assert found[(("otel.metric.overflow", True),)].count == 300 - 199


@pytest.mark.parametrize("value", ['"text"', "-1.0", "float('nan')", "float('inf')", "True", "[1.0]"])
def test_values_that_are_no_measurement_are_passed_by(recorded: Recorded, value: str) -> None:
    told = served(
        recorded,
        f"""
            spent("POST /x", 1.0, **chat, aiobs__request__time_to_first_token={value}, gen_ai__usage__input_tokens={value})
            spent("POST /x", 1.0, http__request__method={value}, gen_ai__operation__name={value})
            spent("x", 1.0, INTERNAL, gen_ai__operation__name={value})
            """,
    )
    found = points(told, "gen_ai.server.request.duration")
    assert sum(point.count for point in found.values()) == (2 if value == '"text"' else 1)
    names = {metric.name for metric in told.metrics}
    assert "gen_ai.server.time_to_first_token" not in names
    assert "aiobs.server.tokens" not in names
    assert len(told.named("POST /x")) == 2
