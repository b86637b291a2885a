"""``aiobs summary`` says what happened in a run, rightly and without noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiobs.cli.report import report
from aiobs.cli.report_text import render
from aiobs.errors import RecordError

from .conftest import Run
from .made_runs import RUN_SPAN, MadeRun


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    return MadeRun(tmp_path / "aiobs-runs" / "20240101-000000-made")


def text(run: MadeRun) -> str:
    return "\n".join(render(report(run.folder), width=160))


def launched(run: MadeRun, **attributes: Any) -> None:
    how = {"aiobs__exit__cause": "exit", "process__exit__code": 0, **attributes}
    run.span(
        "run",
        0,
        5000,
        span=RUN_SPAN,
        parent="",
        rank=None,
        resource={"aiobs.process.role": "launcher"},
        process__command_args=["python", "train.py", "a b"],
        **how,
    )
    run.span("process", 100, 4900, **how)


def trained(run: MadeRun) -> None:
    """100 steps of 10 ms, of which every tenth and the slow step 55 are kept."""
    steps = []
    for number in range(100):
        slow = number == 55
        phases = {"data.wait": 1.0, "forward": 3.0, "backward": 25.0 if slow else 5.0, "optimizer": 0.9}
        steps.append(phases)
        if number % 10 == 0 or slow:
            run.step(number, 200 + number * 10, phases, kept="slow" if slow else "every")
    run.histogram("aiobs.train.step.duration", [0.01] * 10, time=1)  # an earlier export of the same series
    run.histogram("aiobs.train.step.duration", [(sum(p.values()) + 0.1) / 1000 for p in steps], time=2)
    for phase in steps[0]:
        run.histogram("aiobs.train.phase.duration", [p[phase] / 1000 for p in steps], aiobs__phase=phase)


def test_the_whole_page(made: MadeRun) -> None:
    launched(made)
    trained(made)
    made.span("checkpoint save", 4000, 4050, aiobs__checkpoint__size=3 << 20)
    made.span("evaluate", 3000, 3100, aiobs__evaluate__batches=7)
    made.metric("aiobs.train.loss", "gauge", asDouble=0.25, time=3)
    lines = text(made).splitlines()
    assert lines[0].startswith("made  exit 0, 5.00 s, began ")
    assert lines[1:3] == ["  python train.py 'a b'", "  run run-1, trace " + "aa" * 16]
    body = "\n".join(lines[3:])
    assert (
        body
        == """
Processes
  rank   pid   lasted   spans   ended
     0   100   4.80 s      58   exit 0

Steps
  100 steps, 98.0 a second, p50 10.0 ms, p95 10.0 ms, p99 10.0 ms, longest 30.0 ms
  11 traces kept (10 by number, 1 slow); from these the percentiles are estimated

Phases
                total    share       p50       p95       p99   longest
  backward     520 ms   51.0 %   5.00 ms   5.00 ms   5.00 ms   25.0 ms
  forward      300 ms   29.4 %   3.00 ms   3.00 ms   3.00 ms   3.00 ms
  data.wait    100 ms    9.8 %   1.00 ms   1.00 ms   1.00 ms   1.00 ms
  optimizer   90.0 ms    8.8 %    900 µs    900 µs    900 µs    900 µs

Slowest steps
  step      took   median   why
    55   30.0 ms   3.00 ×   backward took 25.0 ms, usually 5.00 ms

Beside the steps
                    times     total
  evaluate              1    100 ms   7 batches
  checkpoint save       1   50.0 ms   3.00 MiB

Logged values
          last
  loss   0.250"""
    )


def test_a_run_of_nothing_has_no_empty_sections(made: MadeRun) -> None:
    made.span(
        "run",
        0,
        10,
        span=RUN_SPAN,
        parent="",
        rank=None,
        resource={"aiobs.process.role": "launcher"},
        aiobs__exit__cause="exit",
        process__exit__code=3,
    )
    lines = text(made).splitlines()
    assert len(lines) == 2
    assert "exit 3, 10.0 ms" in lines[0]


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ({"aiobs__exit__cause": "signal", "aiobs__exit__signal": "SIGSEGV"}, "killed by SIGSEGV"),
        ({"aiobs__exit__cause": "oom_kill", "aiobs__exit__signal": "SIGKILL"}, "killed: out of memory"),
        ({"aiobs__exit__cause": "unknown"}, "gone, nobody saw how"),
        ({"aiobs__exit__cause": "exit", "process__exit__code": 17}, "exit 17"),
    ],
)
def test_how_a_process_died(made: MadeRun, attributes: dict[str, Any], shown: str) -> None:
    made.span("process", 0, 100, aiobs__truncated=True, **attributes)
    made.span("work", 0, 100, aiobs__truncated=True)
    assert f"{shown}, 2 spans cut off" in text(made)


def test_of_several_dead_the_first_is_named(made: MadeRun) -> None:
    for rank, end in ((0, 200), (1, 150), (2, 900)):
        how = (
            {"aiobs__exit__cause": "exit", "process__exit__code": 0}
            if rank == 2
            else {"aiobs__exit__cause": "signal", "aiobs__exit__signal": "SIGKILL"}
        )
        made.span("process", 0, end, rank=rank, **how)
    lines = text(made).splitlines()
    assert [line.split()[0] for line in lines if "first to go" in line] == ["1"]


def test_a_terminal_without_greek_letters_gets_the_rest(aiobs: Run, made: MadeRun) -> None:
    made.step(0, 0, {"forward": 0.5})
    done = aiobs("summary", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert b"500 ?s" in done.stdout


def test_a_process_that_still_runs_says_so(made: MadeRun) -> None:
    made.span("work", 0, 100)
    assert "still open" in text(made)


def test_the_rank_that_made_the_others_wait_is_named(made: MadeRun) -> None:
    for number in range(40):
        late = number == 20
        made.step(number, number * 20, {"forward": 2.0, "backward": 30.0 if late else 3.0}, rank=0)
        made.step(number, number * 20, {"data.wait": 26.0 if late else 1.0, "forward": 2.0, "backward": 3.0}, rank=1)
    for rank in (0, 1):
        made.histogram("aiobs.train.step.duration", [0.006] * 40, rank=rank)
    page = text(made)
    assert "40 steps on each of 2 ranks" in page
    assert "Step time by rank" in page
    (line,) = [line for line in page.splitlines() if "usually" in line and line.split()[0] == "20"]
    assert line.split()[1] == "1"
    assert "data.wait took 26.0 ms, usually 1.00 ms" in line


def test_percentiles_are_not_bent_by_the_slow_steps_that_are_all_kept(made: MadeRun) -> None:
    durations = []
    for number in range(1000):
        slow = number % 50 == 7
        phases = {"forward": 40.0 if slow else 9.9}
        durations.append((sum(phases.values()) + 0.1) / 1000)
        if slow or number < 10 or number % 10 == 0:
            made.step(number, number * 50, phases, kept="slow" if slow else "first" if number < 10 else "every")
    made.histogram("aiobs.train.step.duration", durations)
    steps = report(made.folder)["steps"]
    assert (steps["p50"], steps["p95"]) == (pytest.approx(0.010), pytest.approx(0.010))
    assert steps["p99"] == pytest.approx(0.0401)
    assert steps["kept_for"] == {"every": 99, "first": 9, "slow": 20}


def test_a_run_killed_before_its_first_metrics_shows_the_kept_steps(made: MadeRun) -> None:
    for number in range(5):
        made.step(number, number * 20, {"forward": 2.0}, kept="first")
    page = text(made)
    assert "5 steps" in page
    assert "no metrics were written" in page
    assert "forward" in page


def test_exceptions_and_own_spans(made: MadeRun) -> None:
    event = ("exception", {"exception.type": "ValueError", "exception.message": "bad\x1b[31m thing\nsecond line"})
    for _ in range(3):
        made.span("handle", 0, 10, failed=True, events=[event])
    page = text(made)
    assert "3 × ValueError in handle: bad?[31m thing second line" in page
    assert "\x1b" not in page
    (row,) = [line.split() for line in page.splitlines() if line.startswith("  handle ")]
    assert row[1] == "3"
    assert row[-1] == "3"


def test_what_was_lost_is_said(made: MadeRun) -> None:
    made.span("work", 0, 10)
    made.metric(
        "aiobs.agent.spool.dropped", "sum", attributes={"component": "otlp", "error.type": "spool_full"}, asInt="12"
    )
    made.metric("otel.sdk.exporter.span.exported", "sum", attributes={"component": "jsonl"}, asInt="99")
    page = text(made)
    assert "12 items given up (otlp): the endpoint was away for longer than AIOBS_SPOOL_BYTES lasts" in page
    assert "99" not in page


def test_json_holds_everything(aiobs: Run, made: MadeRun) -> None:
    launched(made)
    trained(made)
    found = json.loads(aiobs("summary", "--json").stdout)
    assert found["run"]["exit_code"] == 0
    assert found["steps"]["count"] == 100
    assert [phase["name"] for phase in found["phases"]] == ["backward", "forward", "data.wait", "optimizer"]
    assert found["slowest"][0]["step"] == 55


def test_the_newest_run_is_the_default_and_names_are_found(aiobs: Run, tmp_path: Path, made: MadeRun) -> None:
    made.span("older", 0, 10)
    newer = MadeRun(tmp_path / "aiobs-runs" / "20240102-000000-newer")
    newer.span("newer", 0, 10)
    assert b"newer" in aiobs("summary").stdout
    assert b"older" in aiobs("summary", "20240101-000000-made").stdout
    assert b"older" in aiobs("summary", str(made.folder)).stdout


def test_a_torn_last_line_is_left_out(made: MadeRun) -> None:
    made.span("whole", 0, 10)
    with (made.folder / "traces.jsonl").open("a") as file:
        file.write('{"resourceSpans":[{"resource":{"attributes":[{"key":"serv')
    assert "whole" in text(made)


@pytest.mark.parametrize("content", ["", "not json\n", '{"resourceSpans":[]}\n', '{"resourceSpans":3}\n'])
def test_a_folder_without_spans_is_refused_clearly(made: MadeRun, content: str) -> None:
    (made.folder / "traces.jsonl").write_text(content)
    with pytest.raises(RecordError, match="holds no spans yet"):
        report(made.folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [([], b"holds no runs"), (["nowhere"], b"there is no such run folder"), (["."], b"is no run folder")],
)
def test_no_run_is_said_in_one_line(aiobs: Run, words: list[str], said: bytes) -> None:
    done = aiobs("summary", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
