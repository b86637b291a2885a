"""The kernel kills a training process for lack of memory: its last step says so, and which limit it was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.cgroup import OomCounter, counter_files
from aiobs.agent.recover import wait_done
from aiobs.agent.selfstats import read_status
from aiobs.agent.start import ensure_agent
from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import load_settings

LIMIT = 64 << 20
TRAINING = """
steps = recorder.steps()
for number in range(4):
    token = steps.enter(recorder.phase_id("forward"))
    if number == 3:
        sys.stdin.readline()
        print("ready", flush=True)
        sys.stdin.readline()
        held = [bytearray(1 << 20) for _ in range(200)]
    steps.leave(token)
    steps.mark_end()
    steps.close()
"""


@pytest.fixture
def memory_group(until: Callable[..., Any]) -> Iterator[Path]:
    """A control group of 64 MiB."""
    group = counter_files(os.getpid())[0].parent / f"aiobs-kill-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"needs cgroup v1 with the memory controller, and root: {error}")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def exported(folder: Path) -> list[dict[str, Any]]:
    """The spans of a run folder, attributes and events as dictionaries."""
    found = []
    for line in (folder / "traces.jsonl").read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                found += scope["spans"]
    return found


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {it["key"]: next(iter(it["value"].values())) for it in attributes}


def test_the_step_that_was_killed_tells_the_limit(
    recorded: Callable[..., Any], memory_group: Path, until: Callable[..., Any], tmp_path: Path
) -> None:
    settings = load_settings({"agent_linger_s": 5})
    runtime_dir = make_runtime_dir(settings)
    ensure_agent(settings, runtime_dir)
    process = recorded(TRAINING, variables={"TEST_GROUP": str(memory_group)})
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    until(lambda: any(it.startswith(f"{process.pid}-") for it in read_status(runtime_dir).get("adopted", [])))
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.wait(30) == -signal.SIGKILL
    assert wait_done(runtime_dir, "crash", 20)
    steps = {
        plain(it["attributes"])["aiobs.step"]: it for it in exported(tmp_path / "run") if it["name"] == "train step"
    }
    last = plain(steps["3"]["attributes"])
    assert last["aiobs.exit.cause"] == "oom_kill"
    assert last["aiobs.step.kept"] == "failed"
    (told,) = [plain(it["attributes"]) for it in steps["3"]["events"] if it["name"] == "aiobs.out_of_memory"]
    assert told["aiobs.out_of_memory.kind"] == "cgroup"
    assert told["aiobs.out_of_memory.limit.name"] == "cgroup"
    assert int(told["aiobs.out_of_memory.limit"]) == LIMIT
    assert LIMIT * 0.9 < int(told["aiobs.out_of_memory.used"]) <= LIMIT
    assert not [it for number in "012" for it in steps[number].get("events", [])]


def test_the_limit_is_that_of_the_nearest_group_that_has_one(tmp_path: Path) -> None:
    inner = tmp_path / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "memory.events").write_text("oom_kill 1\n")
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("1000\n")
    (inner.parent / "memory.peak").write_text("990\n")
    assert OomCounter([inner / "memory.events"]).limit() == (1000, 990)
    (inner / "memory.max").write_text("500\n")
    assert OomCounter([inner / "memory.events"]).limit() == (500, 500), "a kernel that keeps no peak: it was all of it"


def test_a_machine_without_memory_has_no_limit_to_tell() -> None:
    assert OomCounter([Path("/proc/vmstat")]).limit() == (0, 0)
