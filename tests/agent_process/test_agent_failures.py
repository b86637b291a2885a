"""What can go wrong around the agent: full and read-only disks, damaged records, exporters that cannot be made."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.recover import recover, wait_done
from aiobs.agent.selfstats import read_status
from aiobs.agent.start import ensure_agent
from aiobs.errors import RecordError
from aiobs.recorder.location import runtime_dir as make_runtime_dir
from aiobs.settings import Settings, load_settings

Until = Callable[..., Any]
Recorded = Callable[..., "subprocess.Popen[bytes]"]

SOME = """
for n in range(200):
    done(recorder.start_span("work", {"n": n}))
recorder.start_span("open")
"""
DIE = "\nos.kill(os.getpid(), 9)\n"


@pytest.fixture
def settings() -> Settings:
    return load_settings({"agent_linger_s": 0.3})


@pytest.fixture
def folder(settings: Settings) -> Path:
    return make_runtime_dir(settings)


def mount(path: Path, size: str) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.strip()}")


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, str], None]]:
    """Mounts small file systems; they are gone after the test."""
    made: list[Path] = []

    def do(path: Path, size: str) -> None:
        mount(path, size)
        made.append(path)

    yield do
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


def traces(tmp_path: Path, folder: str = "run") -> str:
    return "".join(file.read_text() for file in (tmp_path / folder).glob("traces*.jsonl"))


def log(folder: Path) -> str:
    return (folder / "agent" / "log").read_text()


def dead(recorded: Recorded, code: str = SOME, **more: Any) -> None:
    """A process that recorded something and was killed."""
    process = recorded(code + DIE, **more)
    assert process.wait(20) == -signal.SIGKILL


# -- records left behind -----------------------------------------------------------------------------------
def test_recover_drains_what_was_left_behind(
    settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path
) -> None:
    dead(recorded)
    dead(recorded)
    report = recover(folder, settings)
    assert (report.records, report.left, report.waiting, report.problems) == (2, 0, 0, ())
    text = traces(tmp_path)
    assert (text.count('"name":"work"'), text.count('"name":"open"')) == (400, 2)
    assert list((folder / "records").glob("*.fr")) == []
    assert recover(folder, settings).records == 0


def test_recover_leaves_the_living_alone_and_ends(settings: Settings, folder: Path, recorded: Recorded) -> None:
    process = recorded(SOME + "print('ready', flush=True)\nsys.stdin.read()")
    assert process.stdout is not None
    process.stdout.readline()
    report = recover(folder, settings, timeout_s=1.0)
    assert (report.records, report.left) == (1, 1)


def test_a_record_from_before_a_reboot_is_drained(
    settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path
) -> None:
    dead(recorded)
    (record,) = (folder / "records").glob("*.fr")
    record.rename(record.with_name(f"{os.getpid()}-1-0.fr"))  # its pid is somebody else's by now
    assert recover(folder, settings).left == 0
    assert traces(tmp_path).count('"name":"work"') == 200


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "foreign", "text"])
def test_a_damaged_record_is_set_aside_said_once_and_stops_nobody(
    damage: str, settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead(recorded, folder="damaged-run")
    (record,) = (folder / "records").glob("*.fr")
    if damage == "cut":
        os.truncate(record, 5000)
    elif damage == "garbage":
        with record.open("r+b") as file:
            file.write(os.urandom(4096))
    elif damage == "empty":
        os.truncate(record, 0)
    elif damage == "text":
        record.write_text("hello\n")
    elif damage == "foreign":
        os.chown(record, 12345, 12345)
    dead(recorded)
    report = recover(folder, settings)
    assert report.damaged == (record.name,)
    assert traces(tmp_path).count('"name":"work"') == 200
    assert (folder / "records" / "damaged" / record.name).exists()
    said = [entry.getMessage() for entry in caplog.records if record.name in entry.getMessage()]
    assert len(said) == 1
    assert recover(folder, settings).damaged == ()


def test_a_record_cut_short_while_it_is_read_is_set_aside(
    settings: Settings, folder: Path, recorded: Recorded, until: Until
) -> None:
    ensure_agent(load_settings({"agent_linger_s": 30}), folder)
    process = recorded(SOME + "print('ready', flush=True)\nsys.stdin.readline()\nos._exit(0)\n")
    assert process.stdout is not None
    process.stdout.readline()
    until(lambda: read_status(folder).get("adopted"))
    (record,) = (folder / "records").glob("*.fr")
    process.send_signal(signal.SIGSTOP)
    os.truncate(record, 5000)
    until(lambda: (folder / "records" / "damaged" / record.name).exists())
    until(lambda: record.name in log(folder))
    assert len(log(folder).splitlines()) == 1
    assert "Traceback" not in log(folder)
    process.kill()


# -- exporters ---------------------------------------------------------------------------------------------
def test_an_exporter_that_does_not_exist_falls_back_to_the_run_folder(
    settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path
) -> None:
    dead(recorded, exporters=("jagger",))
    report = recover(folder, settings)
    assert report.left == 0
    assert "jagger" in report.problems[0]
    assert traces(tmp_path).count('"name":"work"') == 200


def test_without_any_exporter_that_works_the_record_is_kept(
    settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path
) -> None:
    dead(recorded, exporters=("jagger",), folder="")
    report = recover(folder, settings, timeout_s=5)
    assert report.left == 1
    assert "jagger" in report.problems[0]


def test_a_dead_endpoint_costs_nothing_and_the_next_agent_delivers(
    settings: Settings, folder: Path, recorded: Recorded, sink: Any
) -> None:
    sink.stop()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    dead(recorded, exporters=("otlp",), environment=environment)
    report = recover(folder, settings, timeout_s=2)
    assert report.left == 0
    assert report.waiting == 201
    assert "cannot be reached" in report.problems[0]
    sink.start()
    report = recover(folder, settings)
    assert (report.waiting, report.problems) == (0, ())
    assert (sink.names["work"], sink.names["open"]) == (200, 1)
    assert set(sink.accepted.values()) == {1}
    assert list((folder / "spool").iterdir()) == []


def test_an_endpoint_that_comes_back_is_found_without_help(
    folder: Path, recorded: Recorded, sink: Any, until: Until, tmp_path: Path
) -> None:
    sink.stop()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    ensure_agent(load_settings({"agent_linger_s": 0.1}), folder)
    dead(recorded, exporters=("otlp", "jsonl"), environment=environment)
    assert wait_done(folder, "crash", 20), "a dead endpoint must not keep the launcher"
    assert traces(tmp_path).count('"name":"work"') == 200
    until(lambda: log(folder))
    sink.start()
    until(lambda: sink.names["work"] == 200, 30)
    assert log(folder).count("cannot be reached") == 1


def test_the_agents_own_metrics_are_exported(settings: Settings, folder: Path, recorded: Recorded, sink: Any) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_METRICS_EXPORTER": "otlp"}
    dead(recorded, exporters=("otlp",), environment=environment)
    recover(folder, settings)
    assert {
        "otel.sdk.processor.span.processed",
        "otel.sdk.exporter.span.exported",
        "aiobs.agent.faults",
    } <= sink.metrics


# -- disks -------------------------------------------------------------------------------------------------
def test_a_full_run_folder_is_said_once_and_filled_when_there_is_room(
    folder: Path, recorded: Recorded, tmp_path: Path, mounted: Any, until: Until
) -> None:
    mounted(tmp_path / "run", "64k")
    filler = tmp_path / "run" / "filler"
    filler.write_bytes(bytes(60_000))
    ensure_agent(load_settings({"agent_linger_s": 0.1}), folder)
    dead(recorded)
    until(lambda: "cannot write" in log(folder))
    assert list((folder / "records").glob("*.fr"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(tmp_path / "run")], check=True)
    assert wait_done(folder, "crash", 20)
    assert traces(tmp_path).count('"name":"work"') == 200
    assert log(folder).count("cannot write") == 1


def test_a_run_folder_nobody_can_write_does_not_keep_spans_from_the_endpoint(
    settings: Settings, folder: Path, recorded: Recorded, tmp_path: Path, mounted: Any, monkeypatch: pytest.MonkeyPatch,
    sink: Any, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("aiobs.agent.outlets.HELD_S", 0.3)
    mounted(tmp_path / "run", "64k")
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "run")], check=True)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    dead(recorded, exporters=("otlp", "jsonl"), environment=environment)
    report = recover(folder, settings, timeout_s=3)
    assert (sink.names["work"], sink.names["open"]) == (200, 1)
    assert report.left == 0
    assert any("Read-only" in problem for problem in report.problems)
    said = [entry.getMessage() for entry in caplog.records]
    assert sum("cannot write" in text for text in said) == 1
    assert sum("could not be written" in text for text in said) == 1


def test_a_runtime_directory_that_fills_up_loses_nothing(
    recorded: Recorded, tmp_path: Path, mounted: Any, until: Until, monkeypatch: pytest.MonkeyPatch, sink: Any
) -> None:
    mounted(tmp_path / "small", "10m")
    monkeypatch.setenv("AIOBS_RUNTIME_DIR", str(tmp_path / "small" / "aiobs"))
    settings = load_settings({"agent_linger_s": 0.1})
    folder = make_runtime_dir(settings)
    ensure_agent(settings, folder)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    code = SOME + "sys.stdin.readline()\n" + SOME + DIE
    process = recorded(code, exporters=("otlp", "jsonl"), environment=environment)
    until(lambda: sink.names["work"] == 200)
    filler = tmp_path / "small" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    process.communicate(b"go\n")
    until(lambda: sink.names["work"] == 400, what="what cannot be spooled is sent from memory")
    assert log(folder).count("wait in memory") == 1 or not log(folder)  # the log is on that disk as well
    filler.unlink()
    assert wait_done(folder, "crash", 20)
    for text in ('"name":"work"', '"name":"open"'):
        assert traces(tmp_path).count(text) == (400 if "work" in text else 2)
    assert set(sink.accepted.values()) == {1}


def test_a_read_only_runtime_directory_is_said_and_harms_nobody(tmp_path: Path, mounted: Any) -> None:
    mounted(tmp_path / "disk", "16m")
    settings = load_settings({"runtime_dir": str(tmp_path / "disk" / "aiobs")})
    folder = make_runtime_dir(settings)
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
    answer = subprocess.run(
        [sys.executable, "-m", "aiobs.agent", "--runtime-dir", str(folder), "--foreground"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert "Read-only file system" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_foreign_runtime_directory_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, 12345)
    answer = subprocess.run(
        [sys.executable, "-m", "aiobs.agent", "--runtime-dir", str(folder)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    os.chown(folder, os.geteuid(), os.getegid())
    assert answer.returncode == 2
    assert "belongs to user 12345" in answer.stderr
    os.chmod(folder, 0o755)
    with pytest.raises(RecordError):
        make_runtime_dir(load_settings())


@pytest.mark.parametrize("content", [b"", b"\x00\xff garbage\n", b'{"v":1'])
def test_a_lost_journal_loses_no_span(
    content: bytes, settings: Settings, folder: Path, recorded: Recorded, sink: Any
) -> None:
    sink.stop()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
    dead(recorded, exporters=("otlp",), environment=environment)
    assert recover(folder, settings, timeout_s=1).waiting == 201
    (folder / "agent" / "journal.jsonl").write_bytes(content)
    dead(recorded, exporters=("otlp",), environment=environment)
    sink.start()
    recover(folder, settings)
    assert (sink.names["work"], sink.names["open"]) == (400, 2)


# -- other ways to leave a record --------------------------------------------------------------------------
def test_a_process_that_becomes_another_program_ends_its_record(
    folder: Path, recorded: Recorded, tmp_path: Path, until: Until
) -> None:
    ensure_agent(load_settings({"agent_linger_s": 0.3}), folder)
    process = recorded(SOME + "ring(folder)\ntime.sleep(0.5)\nos.execv('/bin/sleep', ['sleep', '60'])\n")
    until(lambda: '"name":"open"' in traces(tmp_path))
    assert process.poll() is None
    assert wait_done(folder, "crash", 5)
    assert traces(tmp_path).count('"name":"open"') == 1


def test_a_process_in_another_pid_namespace_is_seen_to_live_and_to_die(
    folder: Path, recorded: Recorded, tmp_path: Path, until: Until
) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("needs the right to make a pid namespace")
    ensure_agent(load_settings({"agent_linger_s": 0.3}), folder)
    program = recorded(
        "import subprocess\nrecorder.stop(0)\n"
        "subprocess.run(['unshare', '--pid', '--fork', sys.executable, '-c', os.environ['TEST_INNER']])",
        variables={"TEST_INNER": _inner(SOME + "ring(folder)\ntime.sleep(1.0)\nos._exit(3)\n")},
    )
    until(lambda: '"name":"work"' in traces(tmp_path))
    assert '"name":"open"' not in traces(tmp_path)
    assert program.wait(20) == 0
    assert wait_done(folder, "crash", 20)
    assert traces(tmp_path).count('"name":"open"') == 1
    assert '"stringValue":"unknown"' in traces(tmp_path)


def _inner(code: str) -> str:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("agent_process_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return str(module.PROGRAM) + code
