"""Processes that die at a random moment, in every way there is: each finished span arrives exactly once, each open
one arrives truncated, and the cause of death is named. ``AIOBS_TRIALS`` sets how often each way is tried."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiobs import names
from aiobs.agent.recover import wait_done
from aiobs.agent.selfstats import read_status
from aiobs.agent.start import ensure_agent
from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import load_settings

TRIALS = int(os.environ.get("AIOBS_TRIALS", "5"))

WORK = """
import threading
notes = os.open(os.environ["TEST_FINISHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(what, span):
    os.write(notes, f"{what} {span.context.span_id.hex()}\\n".encode())
def work():
    outer = recorder.start_span("outer", {"thread": threading.get_native_id()})
    note("begun", outer)
    n = 0
    while True:
        n += 1
        span = recorder.start_span("inner", {"n": n, "label": "x" * (n % 400)}, parent=outer.context)
        note("begun", span)
        if n % 3 == 0:
            span.event("tick", {"n": n})
        span.end()
        note("finished", span)
        if n % 20 == 0:
            time.sleep(0.001)  # below what would lap the ring on a busy machine: that loses spans, counted
"""

READY = """
sys.stdin.readline()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
"""

GROW = """
held = []
while True:
    held.append(bytearray(b"x" * (1 << 20)))
    time.sleep(0.002)
"""

WAYS: dict[str, tuple[str, signal.Signals | None, dict[str, Any]]] = {
    "SIGKILL": ("time.sleep(60)", signal.SIGKILL, {"cause": "signal", "signal": "SIGKILL"}),
    "SIGTERM": ("time.sleep(60)", signal.SIGTERM, {"cause": "signal", "signal": "SIGTERM"}),
    "SIGABRT": ("time.sleep(60)", signal.SIGABRT, {"cause": "signal", "signal": "SIGABRT"}),
    "SIGSEGV": ("sys.stdin.readline(); import ctypes; ctypes.string_at(0)", None, {"cause": "signal", "signal": "SIGSEGV"}),
    "_exit": ("sys.stdin.readline(); os._exit(9)", None, {"cause": "exit", "code": 9}),
    "oom_kill": ("sys.stdin.readline()" + GROW, None, {"cause": "oom_kill", "signal": "SIGKILL"}),
}  # fmt: skip


def spans_of(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Exported spans by id; announcements left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in run_dir.glob("traces*.jsonl"):
        for line in file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        if not span["name"].endswith(names.STARTED_SUFFIX):
                            found.setdefault(span["spanId"], []).append(span)
    return found


def is_adopted(runtime_dir: Path, pid: int) -> bool:
    """Whether the agent watches the process."""
    return any(record.startswith(f"{pid}-") for record in read_status(runtime_dir).get("adopted", []))


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values())) for item in span.get("attributes", [])}


@pytest.fixture
def memory_group(request: pytest.FixtureRequest, until: Callable[..., Any]) -> Iterator[Path | None]:
    """A control group of 64 MiB, for the trials that need one."""
    if request.node.callspec.params["way"] != "oom_kill":
        yield None
        return
    from aiobs.agent.cgroup import counter_files

    group = counter_files(os.getpid())[0].parent / f"aiobs-trial-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"needs cgroup v1 with the memory controller, and root: {error}")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(60 + 4 * TRIALS)
@pytest.mark.parametrize("way", WAYS)
def test_a_crash_loses_no_span(
    way: str, tmp_path: Path, recorded: Callable[..., Any], memory_group: Path | None, until: Callable[..., Any]
) -> None:
    ending, number, expected = WAYS[way]
    settings = load_settings({"agent_linger_s": 20})
    runtime_dir = make_runtime_dir(settings)
    ensure_agent(settings, runtime_dir)
    chance = random.Random()  # other moments in every run
    for trial in range(TRIALS):
        notes = tmp_path / f"notes-{trial}"
        variables = {"TEST_FINISHED": str(notes)}
        if memory_group is not None:
            # Before it records, as in a container: a process that changes its group is seen there within a second.
            variables["TEST_GROUP"] = str(memory_group)
        process = recorded(WORK + READY + ending, folder=f"run-{trial}", variables=variables)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        # How a process ended that nobody had seen yet cannot be known.
        until(partial(is_adopted, runtime_dir, process.pid))
        time.sleep(chance.random() * 0.2)
        if number is not None:
            process.send_signal(number)
        else:
            process.stdin.write(b"now\n")
            process.stdin.flush()
        process.wait(30)
        assert wait_done(runtime_dir, "crash", 20)
        check(tmp_path / f"run-{trial}", notes, expected)


def check(run_dir: Path, notes: Path, expected: dict[str, Any]) -> None:
    lines = [line.split() for line in notes.read_text().splitlines()]
    begun = {line[1] for line in lines if line[0] == "begun"}
    finished = {line[1] for line in lines if line[0] == "finished"}
    spans = spans_of(run_dir)
    assert [span for span, copies in spans.items() if len(copies) > 1] == [], "exported twice"
    assert begun - set(spans) == set(), f"lost {len(begun - set(spans))} of {len(begun)}"
    truncated = {span for span, copies in spans.items() if attributes(copies[0]).get(names.TRUNCATED)}
    assert finished & truncated == set(), "a finished span was exported as truncated"
    assert {spans[span][0]["name"] for span in truncated} >= {"outer"}
    for span in truncated:
        found = attributes(spans[span][0])
        assert found[names.EXIT_CAUSE] == expected["cause"]
        assert found.get(names.EXIT_SIGNAL) == expected.get("signal")
        assert found.get(names.PROCESS_EXIT_CODE) == (str(expected["code"]) if "code" in expected else None)
        assert int(spans[span][0]["endTimeUnixNano"]) <= time.time_ns()
