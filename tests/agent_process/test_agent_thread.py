"""The agent as a thread of the user's process: same telemetry, short stretches, a last drain at the end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aiobs.agent.recover import recover, wait_done
from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import load_settings

Recorded = Callable[..., "subprocess.Popen[bytes]"]

THREAD = """
from aiobs.agent.start import ensure_agent, stop_thread
ensure_agent(settings, folder)
"""
END = """
recorder.stop(0)
print(json.dumps([stop_thread(10), sorted(os.listdir(folder / "records")), sys.getswitchinterval()]), flush=True)
"""
AS_THREAD = {"AIOBS_AGENT": "thread"}


def count(tmp_path: Path, text: str) -> int:
    return sum(file.read_text().count(text) for file in (tmp_path / "run").glob("traces*.jsonl"))


def test_all_is_exported_when_the_process_ends_in_order(recorded: Recorded, tmp_path: Path) -> None:
    code = "for n in range(3000):\n    done(recorder.start_span('work', {'n': n}))\n"
    process = recorded(THREAD + code + END, variables=AS_THREAD)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(said)[:2] == [True, []]
    assert count(tmp_path, '"name":"work"') == 3000


def test_what_a_killed_process_left_is_recovered(recorded: Recorded, tmp_path: Path, runtime_dir: Path) -> None:
    code = "for n in range(3000):\n    done(recorder.start_span('work', {'n': n}))\n    n % 100 or time.sleep(0.01)\n"
    process = recorded(THREAD + code + "os.kill(os.getpid(), 9)\n", variables=AS_THREAD)
    assert process.wait(20) == -9
    settings = load_settings()
    assert recover(make_runtime_dir(settings), settings).left == 0
    assert count(tmp_path, '"name":"work"') == 3000


def test_a_forked_child_is_drained_by_its_parents_thread(recorded: Recorded, tmp_path: Path) -> None:
    code = """
child = os.fork()
if not child:
    recorder.start(settings, {"service.name": "child"}, route, folder / "records")
    ensure_agent(settings, folder)
    done(recorder.start_span("work of the child"))
    recorder.stop(0)
    os._exit(0)
os.waitpid(child, 0)
done(recorder.start_span("work"))
"""
    process = recorded(THREAD + code + END, variables=AS_THREAD)
    said, _ = process.communicate(timeout=20)
    assert json.loads(said)[:2] == [True, []]
    assert count(tmp_path, '"name":"work of the child"') == 1
    assert count(tmp_path, '"name":"work"') == 1


def test_a_forked_child_that_outlives_its_parent_drains_itself(
    recorded: Recorded, tmp_path: Path, runtime_dir: Path
) -> None:
    code = """
child = os.fork()
if not child:
    recorder.start(settings, {"service.name": "child"}, route, folder / "records")
    ensure_agent(settings, folder)
    done(recorder.start_span("work of the child"))
    os.read(0, 1)
    recorder.stop(0)
    stop_thread(10)
    os._exit(0)
"""
    process = recorded(THREAD + code + END, variables=AS_THREAD)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())[0] is True
    process.communicate(b"go\n", timeout=20)
    assert wait_done(make_runtime_dir(load_settings()), "crash", 10)
    assert count(tmp_path, '"name":"work of the child"') == 1


STALLS = """
# In CPU time of this process, so that other processes do not matter: a gap is what the agent's thread took at once.
time.sleep(1)
gaps = []
last = time.process_time()
start = time.monotonic()
end = start + 3.0
n = 0
while (now := time.monotonic()) < end:
    if (now - start) * 5000 > n:
        n += 1
        recorder.start_span("work", {"n": n, "text": "some text"}).end()
    cpu = time.process_time()
    gaps.append(cpu - last)
    last = cpu
gaps.sort()
print(json.dumps([n, gaps[-1], sum(gap > 0.003 for gap in gaps)]), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_the_thread_lets_go_of_the_interpreter(recorded: Recorded) -> None:
    process = recorded(THREAD + STALLS, variables=AS_THREAD)
    said, _ = process.communicate(timeout=30)
    spans, _, long = json.loads(said)
    # Without pauses of its own a thread is interrupted only after the interpreter's switch interval of 5 ms.
    assert spans > 5000
    assert long <= 5, said
