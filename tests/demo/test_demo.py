"""The demo, as whoever tries it first: as root and without, to its end and ended in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.as_user import USER, why_not
from tests.as_user import words as as_user

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are injected on Linux only")


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "aiobs.cli", "demo", "--keep", str(folder / "kept"), *words]


def environment(folder: Path) -> dict[str, str]:
    """Nothing of ours is set but where chaos keeps its journal; the demo arms itself."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIOBS_", "OTEL_"))}
    return {**ours, "PYTHONPATH": str(ROOT), "HOME": str(folder), "AIOBS_CHAOS_DIR": str(folder / "chaos")}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that another user can reach: pytest's own are root's, and each start of pytest closes them again."""
    with tempfile.TemporaryDirectory(prefix="aiobs-demo-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def left(folder: Path) -> list[str]:
    """What is still there of a demo that kept its things in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words and int(entry.name) != os.getpid():
            found.append(words)
    beds = folder / "chaos" / "testbeds"
    found += [str(it) for it in beds.iterdir()] if beds.is_dir() else []
    return found


def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_dry_run_says_every_step_and_does_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*command(tmp_path), "--dry-run"], env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("node.loss on node-1", "network.partition on node-2", "memory.oom on replica-0", "does not certify"):
        assert word in done.stdout
    assert done.stdout.count("expected: contained") == 3
    assert done.stdout.count("expected: breached") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--longer", "0"], "--longer=0.0: use 0.2 to 10"),
        (["--rate", "1e9"], "--rate=1000000000.0: use 5 to 200 requests a second"),
        (["--jaeger", "localhost"], "--jaeger='localhost': name the address of its user interface"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    done = subprocess.run(
        [*command(tmp_path), *words], env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("x")
    done = subprocess.run(command(tmp_path), env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "kept" / "mine").read_text() == "x"


def test_production_is_refused(tmp_path: Path) -> None:
    told = environment(tmp_path) | {"AIOBS_ENVIRONMENT": "production"}
    done = subprocess.run(command(tmp_path), env=told, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "AIOBS_ENVIRONMENT is 'production'" in done.stderr
    assert not left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_can_be_ended_while_it_sets_up(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        command(tmp_path), env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    pids = tmp_path / "kept" / "contained" / "scene" / "pids"
    assert eventually(lambda: pids.is_dir() and len(list(pids.glob("*.pid"))) > 3, 60)
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 128 + number
    assert eventually(lambda: not left(tmp_path), 5), left(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_can_be_ended_under_a_fault(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*command(tmp_path), "--scenario", "breached"], env=environment(tmp_path), cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if "is in state T" in line:
            break
    rank = int((tmp_path / "kept" / "breached" / "scene" / "pids" / "rank-2.pid").read_text())
    assert Path(f"/proc/{rank}/stat").read_text().rsplit(") ")[1][0] == "T"
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert eventually(lambda: not left(tmp_path), 5), left(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_ordinary_user_sees_what_fails_fail_alone(open_folder: Path) -> None:
    tmp_path = open_folder
    words = command(tmp_path, "--scenario", "contained")
    if os.geteuid() == 0:
        if why_not():
            pytest.skip(why_not())
        os.chown(tmp_path, USER, USER)
        words = as_user(tmp_path, *words)
    done = subprocess.run(words, env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    folder = tmp_path / "kept" / "contained"
    verdicts = json.loads((folder / "verdict.json").read_text("utf-8"))
    assert [it["kind"] for it in verdicts] == ["contained"] * 3
    assert "OOM killer" in done.stdout  # what an ordinary user cannot certify is said
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert not left(tmp_path)
