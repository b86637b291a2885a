"""``aiobs summary`` of a server's run: which routes and models, where slow requests waited, what failed, engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiobs.cli.report import report
from aiobs.cli.report_text import render

from .conftest import Run
from .made_runs import MadeRun

CHAT = "POST /v1/chat/completions"
SERVER = {"service.name": "llm-server"}


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    return MadeRun(tmp_path / "aiobs-runs" / "20240101-000000-served")


def request(
    run: MadeRun, start: float, took: float, name: str = CHAT, *, status: int = 200, kind: int = 2, **more: Any
) -> str:
    """A request of `took` ms; returns its span id."""
    how = {
        "http__request__method": name.split()[0],
        **({"http__response__status_code": status} if status else {}),
        **more,
    }
    return run.span(name, start, start + took, parent="", kind=kind, resource=SERVER, rank=None, **how)


def answer(
    run: MadeRun, start: float, queue: float, prefill: float, decode: float, model: str = "tiny", **more: Any
) -> str:
    """A request to a model; times in ms."""
    engine = {
        "gen_ai__operation__name": "chat", "gen_ai__request__model": model, "gen_ai__usage__input_tokens": 10,
        "gen_ai__usage__output_tokens": 101, "aiobs__request__time_to_first_token": (queue + prefill) / 1000,
        "aiobs__request__time_per_output_token": decode / 1000 / 100, "aiobs__request__queue__duration": queue / 1000,
        "aiobs__request__prefill__duration": prefill / 1000, "aiobs__request__decode__duration": decode / 1000,
    }  # fmt: skip
    return request(run, start, queue + prefill + decode, **{**engine, **more})


def text(run: MadeRun, width: int = 160) -> str:
    return "\n".join(render(report(run.folder), width=width))


def section(page: str, title: str) -> list[str]:
    """The lines of the section that begins with `title`."""
    lines = page.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith(title)]
    end = next((number for number in range(first, len(lines)) if not lines[number]), len(lines))
    return [line.rstrip() for line in lines[first:end]]


def served(run: MadeRun) -> None:
    """100 answers of 1.1 s, one a second, of which the 5 last waited 9 s more in the queue; 10 health checks."""
    for number in range(100):
        answer(run, number * 1000, 9000 if number >= 95 else 0, 100, 1000)
    for number in range(10):
        request(run, number * 1000, 2, "GET /health")


def test_requests_by_route_with_their_tokens_and_waits(made: MadeRun) -> None:
    served(made)
    page = text(made)
    assert section(page, "Requests") == [
        "Requests  model tiny",
        "                             count  a second      p50      p95      p99  longest",
        "  POST /v1/chat/completions    100     0.917   1.10 s   1.55 s   10.1 s   10.1 s",
        "  GET /health                   10    0.0917  2.00 ms  2.00 ms  2.00 ms  2.00 ms",
    ]
    assert " ".join(section(page, "Tokens")[2].split()) == (
        "POST /v1/chat/completions 100 ms 550 ms 9.10 s 10.0 ms 10.0 ms 10.0 ms 1,000 10,100 92.6"
    )
    assert " ".join(section(page, "In the engine")[2].split()) == (
        "POST /v1/chat/completions 0 s 450 ms 9.00 s 100 ms 100 ms 100 ms 1.00 s 1.00 s 1.00 s"
    )
    assert section(page, "Where the slowest 5 % spent their time")[1:] == [
        "                             count    from  queued  prefill  decode",
        "  POST /v1/chat/completions      5  10.1 s  89.1 %    1.0 %   9.9 %",
    ]
    assert "Other spans" not in page


def test_the_slowest_are_shown_with_what_held_them_up(made: MadeRun) -> None:
    stall = ("aiobs.stream.stall", {"aiobs.stream.stall.duration": 1.5, "aiobs.stream.stall.cause": "upstream"})
    span = answer(
        made, 0, 4000, 100, 2000, aiobs__request__preemptions=1, aiobs__stream__stalls=1, events=[stall],
        aiobs__request__event_loop__blocked=0.25,
    )  # fmt: skip
    # The engine took it after one second, and put it back for three.
    made.span("queue", 0, 1000, parent=span)
    made.span("queue", 1500, 4500, parent=span)
    answer(made, 0, 0, 100, 2000, error__type="CudaError", failed=True)
    lines = section(text(made), "Slowest requests")
    assert lines[2].rpartition("aa  ")[2] == ("preempted 3.00 s, decode 2.00 s, stalled 1.50 s, queued 1.00 s")
    assert "failed: CudaError, decode 2.00 s" in lines[3]
    assert "aa" * 16 in lines[2]


def test_streams_of_any_server_are_divided_at_their_first_chunk(made: MadeRun) -> None:
    request(made, 0, 1000, "GET /events", aiobs__stream__chunks=5, aiobs__stream__time_to_first_chunk=0.75)
    (row,) = report(made.folder)["serving"]["slow"]
    assert (row["before_first_chunk"], row["streaming"], row["other"]) == (0.75, 0.25, pytest.approx(0))
    assert section(text(made), "Where the slowest")[2].split() == ["GET", "/events", "1", "1.00", "s", "75.0", "%", "25.0", "%"]  # fmt: skip


def test_errors_refusals_and_callers_that_left_are_told_apart(made: MadeRun) -> None:
    for number in range(3):
        request(made, number, 10, status=500, failed=True, error__type="RuntimeError")
        request(made, number, 10, status=404, error__type="invalid_request_error")
    request(made, 0, 10, aiobs__request__disconnected=True)
    request(
        made, 0, 50_000, status=0, aiobs__truncated=True, aiobs__exit__cause="signal", aiobs__exit__signal="SIGKILL"
    )
    (row,) = report(made.folder)["serving"]["requests"]
    assert (row["count"], row["errors"], row["refused"], row["disconnected"], row["truncated"]) == (8, 4, 3, 1, 1)
    assert row["seconds_p99"] == pytest.approx(0.01)  # what was cut off says nothing of how long it would have taken
    assert section(text(made), "Failed requests")[1:] == [
        f"  3 × RuntimeError in {CHAT}, status 500, trace {'aa' * 16}",
        f"  1 × SIGKILL in {CHAT}, cut off by the end of the process, trace {'aa' * 16}",
    ]


def test_an_announcement_is_no_request(made: MadeRun) -> None:
    request(made, 0, 10)
    request(made, 0, 0, f"{CHAT} (started)")
    assert [row["count"] for row in report(made.folder)["serving"]["requests"]] == [1]


def test_services_and_models_stay_apart(made: MadeRun) -> None:
    answer(made, 0, 0, 1, 10, model="small")
    answer(made, 0, 0, 1, 10, model="large")
    made.span("chat small", 0, 20, kind=3, gen_ai__operation__name="chat", gen_ai__request__model="small")
    made.span("embeddings tiny", 0, 20, kind=1, gen_ai__operation__name="embeddings", gen_ai__request__model="tiny")
    found = report(made.folder)["serving"]
    assert {(row["service"], row["model"]) for row in found["requests"]} == {
        ("llm-server", "small"), ("llm-server", "large"), ("trainer", "tiny"),
    }  # fmt: skip
    assert [(row["name"], row["count"]) for row in found["calls"]] == [("chat small", 1)]
    page = text(made)
    assert "llm-server" in section(page, "Requests")[2] + section(page, "Requests")[3]
    assert section(page, "Calls of models")[0] == "Calls of models  model small"


def test_engines_with_all_their_steps(made: MadeRun) -> None:
    engine = {"aiobs.engine.name": "tiny engine"}
    for number in range(4):
        made.span(
            "engine step", number * 10, number * 10 + 5, parent="", rank=0, aiobs__engine__name="tiny engine", aiobs__engine__step=number,
            aiobs__engine__running=2, aiobs__engine__waiting=number, aiobs__engine__kv__usage=0.25 * number,
        )  # fmt: skip
    for name, values in (
        ("aiobs.engine.step.duration", [0.005] * 400),
        ("aiobs.engine.batch.size", [2.0] * 399 + [8.0]),
    ):
        made.histogram(name, values, rank=0, **{key.replace(".", "__"): value for key, value in engine.items()})
    for kind, count in (("input", 1000), ("output", 400)):
        made.metric("aiobs.engine.tokens", "sum", attributes={**engine, "gen_ai.token.type": kind}, asInt=str(count))
    assert section(text(made), "Engines") == [
        "Engines  waiting and KV cache as 4 kept steps saw them",
        "  engine       steps  mean step  longest  running  most  waiting  most  KV cache    most  tokens in  out",
        "  tiny engine    400    5.00 ms  5.00 ms     2.02     8     1.50     3    37.5 %  75.0 %      1,000  400",
    ]


def test_a_narrow_terminal_gets_whole_columns_first(made: MadeRun) -> None:
    served(made)
    assert all(len(line) <= 100 for line in text(made, 100).splitlines())
    assert "p95" in section(text(made, 100), "Requests")[1]


def test_training_alone_has_no_word_of_serving(made: MadeRun) -> None:
    made.step(0, 0, {"forward": 1.0})
    found = report(made.folder)
    assert found["serving"] == {}
    assert "Requests" not in text(made)


def test_json_has_the_section(aiobs: Run, made: MadeRun) -> None:
    served(made)
    done = aiobs("summary", "--json")
    found = json.loads(done.stdout)["serving"]
    assert found["requests"][0]["count"] == 100
    assert found["slowest"][0]["queued"] == 9.0
    assert set(found) == {"requests", "slow", "slowest", "errors", "calls", "engines"}
