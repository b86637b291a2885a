"""The recorder in its process: start and stop, fork, unusable surroundings, the environment's context."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import aiobs
from aiobs import guard, recorder
from aiobs.errors import SettingError
from aiobs.testing import Captured, capture


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "AIOBS_AGENT": "off", **environment},
    )  # fmt: skip


def test_a_forked_child_writes_a_record_of_its_own_below_the_parents_span() -> None:
    with capture() as captured:
        with aiobs.span("parent"):
            pid = os.fork()
            if pid == 0:
                with aiobs.span("child"):
                    pass
                os._exit(0)
            os.waitpid(pid, 0)
    parent, child = captured.span("parent"), captured.span("child")
    assert (child.trace_id, child.parent_id) == (parent.trace_id, parent.span_id)
    assert child.resource["process.pid"] == pid != parent.resource["process.pid"]
    assert len(captured.named("parent")) == 1


def _in_worker(count: int) -> None:
    for number in range(count):
        with aiobs.span("in worker", number=number):
            pass


def test_multiprocessing_workers_lose_nothing_though_they_never_run_atexit() -> None:
    with capture() as captured:
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_in_worker, args=(20,)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    spans = captured.named("in worker")
    assert len(spans) == 60
    assert len({span.span_id for span in spans}) == 60
    assert len({span.resource["process.pid"] for span in spans}) == 3


def test_equally_seeded_processes_draw_different_ids() -> None:
    script = """
        import random, aiobs, os
        random.seed(1)
        aiobs.init()
        with aiobs.span("x") as span:
            print(span.context.span_id.hex(), random.random())
    """
    first, second = run(script).stdout.split(), run(script).stdout.split()
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_traceparent_of_the_environment_is_continued(tmp_path: Path) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    ended = run(
        "import aiobs; aiobs.init(); print(aiobs.current().trace_id.hex())", TRACEPARENT=f"00-{trace}-{span}-01"
    )
    assert ended.stdout.strip() == trace, ended.stderr


def test_init_twice_and_shutdown_twice_are_harmless() -> None:
    with capture() as captured:
        aiobs.init()
        with aiobs.span("work"):
            pass
    aiobs.shutdown()
    aiobs.shutdown()
    assert captured.span("work")
    assert not recorder.is_recording()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"keep_evry": 1}, "keep_evry"), ({"keep_every": -1}, "keep_every"), ({"agent": "maybe"}, "agent")],
)
def test_bad_arguments_name_the_field_and_the_remedy(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(SettingError, match="use|no such setting") as caught:
        aiobs.init(**arguments)
    assert caught.value.field == field
    assert not recorder.is_recording()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(guard, "_said", set())
    caplog.set_level(logging.WARNING, "aiobs")
    return caplog


def test_a_bad_variable_is_said_once_and_the_default_stands(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOBS_KEEP_EVERY", "often")
    for _ in range(2):
        with capture(keep_every=None) as captured, aiobs.span("work"):
            pass
    assert captured.span("work")
    assert len(said.records) == 1
    assert "AIOBS_KEEP_EVERY='often'" in said.text


@pytest.mark.parametrize("kind", ["open", "link", "file", "foreign"])
def test_an_unusable_runtime_directory_is_said_once_and_the_program_goes_on(
    kind: str, tmp_path: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "runtime"
    if kind == "open":
        place.mkdir(mode=0o755)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "real")
    elif kind == "file":
        place.write_text("")
    else:
        if os.geteuid() != 0:
            pytest.skip("needs root to make a folder of somebody else")
        place.mkdir(mode=0o700)
        os.chown(place, 12345, 12345)
    monkeypatch.setenv("AIOBS_RUNTIME_DIR", str(place))
    for _ in range(2):
        aiobs.init()
        with aiobs.span("work"):
            pass
    assert len(said.records) == 1
    assert str(place) in said.text
    assert "AIOBS_RUNTIME_DIR" in said.text or "chmod" in said.text


def test_switched_off_by_the_environment() -> None:
    for variable in ({"AIOBS_ENABLED": "0"}, {"OTEL_SDK_DISABLED": "true"}):
        ended = run("import aiobs; aiobs.init(); print(aiobs.span('x'), type(aiobs.span('x')).__name__)", **variable)
        assert "_Nothing" in ended.stdout or "Nothing" in ended.stdout, ended


def test_the_file_is_private_and_locked_while_its_writer_lives(runtime_dir: Path) -> None:
    script = """
        import aiobs, sys
        aiobs.init()
        print("ready", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "AIOBS_AGENT": "off"},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        (record,) = (runtime_dir / "records").glob("*.fr")
        assert record.stat().st_mode & 0o777 == 0o600
        assert runtime_dir.stat().st_mode & 0o777 == 0o700
        assert _locked(record)
        child.kill()
    assert not _locked(record)


def _locked(path: Path) -> bool:
    import fcntl

    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def test_closing_every_descriptor_or_forking_hard_does_not_disturb_the_program() -> None:
    ended = run("""
        import aiobs, os
        aiobs.init()
        os.closerange(3, 200)
        mine = os.open("/dev/null", os.O_RDONLY)
        for _ in range(100):
            with aiobs.span("x"):
                pass
        aiobs.shutdown()
        os.fstat(mine)
        print("alive")
    """)
    assert ended.stdout == "alive\n", ended.stderr
    assert ended.returncode == 0


def test_a_program_that_execs_keeps_what_it_recorded_before(runtime_dir: Path) -> None:
    again = "import aiobs; aiobs.init(); aiobs.span('after').start().end()"
    ended = run(f"""
        import aiobs, os, sys
        aiobs.init()
        aiobs.span("before").start().end()
        os.execv(sys.executable, [sys.executable, "-c", {again!r}])
    """)
    assert ended.returncode == 0, ended.stderr
    captured = Captured()
    captured.read(runtime_dir / "records")
    assert captured.span("before")
    assert captured.span("after")
