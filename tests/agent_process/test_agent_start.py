"""Starting the agent from the user's process: one for all, unnoticed, and gone when its work is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent import start as start_module
from aiobs.agent.election import Leadership, is_led, lock_path
from aiobs.agent.recover import wait_done
from aiobs.agent.start import ensure_agent, start_thread, stop_thread
from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import Settings, load_settings

Until = Callable[..., Any]


@pytest.fixture
def settings() -> Settings:
    """With an agent that leaves quickly."""
    return load_settings({"agent_linger_s": 0.3})


@pytest.fixture
def folder(settings: Settings) -> Path:
    return make_runtime_dir(settings)


def agent_pid(folder: Path) -> int:
    try:
        return int(json.loads(lock_path(folder).read_text())["pid"])
    except ValueError:
        return 0


PROGRAM = """
import json, os, signal, sys, threading
caught = []
signal.signal(signal.SIGCHLD, lambda *_: caught.append(1))
umask = os.umask(0o027)
from aiobs.agent.start import ensure_agent
from aiobs.recorder.location import runtime_dir
from aiobs.settings import load_settings
settings = load_settings()
folder = runtime_dir(settings)
def world():
    numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "handlers": [repr(signal.getsignal(number)) for number in sorted(numbers)],
        "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "threads": threading.active_count(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }
before = world()
ensure_agent(settings, folder)
after = world()
try:
    child = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    child = None
print(json.dumps({"same": before == after, "caught": caught, "child": child, "umask": os.umask(0o022)}))
sys.stdout.flush()
"""


def test_the_users_process_does_not_notice(folder: Path, until: Until) -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(answer.stdout) == {"same": True, "caught": [], "child": None, "umask": 0o027}
    assert answer.stderr == ""
    pid = until(lambda: agent_pid(folder))
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    assert is_led(folder)


def test_a_child_of_the_user_that_ends_meanwhile_is_still_announced(folder: Path) -> None:
    program = PROGRAM.replace("before = world()", "child = os.fork() or os._exit(0)\nimport time; time.sleep(0.05)").replace(
        "after = world()", "before = after = caught.clear()"
    )  # fmt: skip
    program = program.replace("ensure_agent(settings, folder)\n", """
caught.clear()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
if not os.fork(): os._exit(0)
import time; time.sleep(0.05)
ensure_agent(settings, folder)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
seen = len(caught)
""").replace('"caught": caught', '"seen": seen')  # fmt: skip
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(answer.stdout)["seen"] == 1


def test_a_pipe_of_the_user_ends_with_the_user_though_the_agent_lives(folder: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=write, stderr=write, pass_fds=(write,))
    os.close(write)
    with open(read, "rb") as end:
        end.read()
    assert process.wait(10) == 0
    assert is_led(folder)


def test_many_processes_at_once_start_one_agent(folder: Path, until: Until) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.DEVNULL, env={**os.environ, "AIOBS_AGENT_LINGER": "5"})
        for _ in range(6)
    ]  # fmt: skip
    for process in processes:
        assert process.wait(20) == 0
    until(lambda: agent_pid(folder))
    agents = [
        entry
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder).encode() in entry.read_bytes() and b"aiobs.agent" in entry.read_bytes()
    ]
    assert len(agents) == 1
    assert (folder / "agent" / "log").read_text() == ""


def test_the_agent_leaves_when_there_is_nothing_left_to_do(settings: Settings, folder: Path, until: Until) -> None:
    before = time.monotonic()
    ensure_agent(settings, folder)
    assert is_led(folder)
    until(lambda: not is_led(folder))
    assert time.monotonic() - before >= settings.agent_linger_s


def test_no_record_is_left_between_one_agent_and_the_next(
    folder: Path, recorded: Callable[..., Any], tmp_path: Path
) -> None:
    code = """
from aiobs.agent.start import ensure_agent
for n in range(12):
    recorder.start(settings, {}, route, folder / "records")
    ensure_agent(settings, folder)
    with recorder.span("work", n=n):
        time.sleep(n % 4 * 0.02)
    recorder.stop(0)
    time.sleep(n % 3 * 0.03)
"""
    process = recorded(code, variables={"AIOBS_AGENT_LINGER": "0.02"})
    assert process.wait(60) == 0
    assert wait_done(folder, "crash", 15)
    text = "".join(file.read_text() for file in (tmp_path / "run").glob("traces*.jsonl"))
    assert text.count('"name":"work"') == 12


def test_an_agent_whose_folder_was_removed_leaves(folder: Path, until: Until) -> None:
    ensure_agent(load_settings({"agent_linger_s": 60}), folder)
    pid = until(lambda: agent_pid(folder))

    def removed() -> bool:  # the agent may write a file while its folder is being removed
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(removed)
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_without_a_shell_the_agent_is_started_all_the_same(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(start_module, "_SHELL", "/nowhere/sh")
    ensure_agent(settings, folder)
    assert until(lambda: agent_pid(folder)) != os.getpid()


def test_where_no_process_can_be_started_a_thread_does_it(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    ensure_agent(settings, folder)
    ensure_agent(settings, folder)
    assert until(lambda: agent_pid(folder)) == os.getpid()
    assert len([record for record in caplog.records if "cannot be started" in record.getMessage()]) == 1
    assert stop_thread(5)
    assert not is_led(folder)


def test_off_starts_nothing(folder: Path) -> None:
    ensure_agent(load_settings({"agent": "off"}), folder)
    assert not lock_path(folder).exists()


def test_a_second_agent_gives_way(folder: Path) -> None:
    first = Leadership.take(folder)
    assert first is not None
    second = subprocess.run(
        [sys.executable, "-m", "aiobs.agent", "--runtime-dir", str(folder), "--foreground"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    first.release()
    assert second.returncode == 0
    assert "there is an agent" in second.stderr


def test_a_forked_child_does_not_hold_its_parents_lock(folder: Path, until: Until) -> None:
    leadership = Leadership.take(folder)
    assert leadership is not None
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    leadership.release()
    until(lambda: not is_led(folder), 5)
    os.write(write, b".")
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


def test_the_agent_takes_over_when_the_thread_of_another_process_ends(
    settings: Settings, folder: Path, until: Until
) -> None:
    blocking = Leadership.take(folder)
    assert blocking is not None
    start_thread(settings, folder)
    time.sleep(0.1)
    assert agent_pid(folder) == 0
    blocking.release()
    until(lambda: is_led(folder))
    assert stop_thread(5)


def test_the_agent_is_cheap_to_start() -> None:
    code = "import sys, aiobs.agent.__main__; print('\\n'.join(sys.modules))"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {name for name in modules if name.startswith(("opentelemetry", "torch", "numpy", "google"))}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_told_to_stop_drains_first(
    number: int, folder: Path, recorded: Callable[..., Any], tmp_path: Path, until: Until
) -> None:
    ensure_agent(load_settings({"agent_linger_s": 60}), folder)
    pid = until(lambda: agent_pid(folder))
    process = recorded("done(recorder.start_span('work'))\nprint('ready', flush=True)\nsys.stdin.read()\n")
    process.stdout.readline()
    os.kill(pid, number)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert '"work"' in (tmp_path / "run" / "traces.jsonl").read_text()
    assert len(list((folder / "records").glob("*.fr"))) == 1, "its process lives"
