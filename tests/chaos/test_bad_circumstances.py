"""What goes wrong around faults: refused or ended with a message that says what to do, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.audit import verify
from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.journal import Journal, read_journal
from aiobs.chaos.operations.process import Stop
from aiobs.chaos.place import lock
from aiobs.chaos.targets.service import listeners
from aiobs.chaos.testbed import Testbed
from aiobs.errors import ArmError, FaultError, PlanError

from .chaos_scene import eventually, injector_of, state_of, watchdogs_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def small_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The chaos folder on a file system of 256 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(path)], check=True)
    monkeypatch.setenv("AIOBS_CHAOS_DIR", str(path))
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room of a small file system."""
    path = folder / "ballast"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


@root
def test_a_full_disk_under_the_journal_refuses_before_anything_is_touched(
    small_place: Path, victim: subprocess.Popen[bytes]
) -> None:
    ballast = fill(small_place)
    with pytest.raises((ArmError, FaultError), match="No space left on device.*AIOBS_CHAOS_DIR"):
        chaos.inject("process.pause", f"pid:{victim.pid}")
    assert state_of(victim.pid) != "T"
    ballast.unlink()
    assert eventually(lambda: not list((small_place / "sessions").iterdir()))
    with chaos.inject("process.pause", f"pid:{victim.pid}"):
        assert state_of(victim.pid) == "T"


def many(action: Callable[[], object]) -> None:
    """So often that no block that had been begun has room left."""
    for _ in range(60):
        action()


@root
def test_a_disk_that_fills_up_under_a_held_fault_keeps_nothing_in_force(
    small_place: Path, victim: subprocess.Popen[bytes]
) -> None:
    with chaos.Lease() as lease:
        injection = chaos.inject("process.pause", f"pid:{victim.pid}", lease=lease)
        ballast = fill(small_place)
        with pytest.raises(FaultError, match="audit trail cannot be written|journal.jsonl cannot be written"):
            many(lambda: chaos.inject("noop", f"pid:{victim.pid}", lease=lease).undo())
        injection.undo()
        assert injection.residue == []
        assert state_of(victim.pid) != "T"
    ballast.unlink()
    assert chaos.recover() == []


@root
def test_a_full_disk_keeps_the_watchdog_from_nothing(
    small_place: Path, experiment: Start, victim: subprocess.Popen[bytes]
) -> None:
    experiment("process.pause", f"pid:{victim.pid}")
    ballast = fill(small_place)
    injector_of(small_place).send(signal.SIGKILL)
    assert eventually(lambda: state_of(victim.pid) in ("R", "S"), 3)
    ballast.unlink()
    assert eventually(lambda: all(it.residue == () for it in chaos.recover()))


def session_of(place: Path, pid: int) -> Path:
    """A session that nobody holds, whose journal says that a process has been stopped; it has."""
    session = place / "sessions" / "00000000000000000001-abcdef"
    session.mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    session.parent.chmod(0o700)
    identity = ProcessIdentity.of(pid)
    operation = Stop(identity.pid, identity.start)
    journal = Journal(session)
    journal.about_to("one", 0, operation, {"state": "S"})
    journal.close()
    os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: state_of(pid) == "T")
    return session


def test_a_line_that_was_cut_short_was_never_acted_upon(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    session = session_of(chaos_place, victim.pid)
    with open(session / "journal.jsonl", "ab") as file:
        file.write(b'{"at": 1, "what": "oper')
    (found,) = chaos.recover()
    assert (len(found.undone), found.residue) == (1, ())
    assert eventually(lambda: state_of(victim.pid) in ("R", "S"))
    assert not session.exists()


@pytest.mark.parametrize("line", [b"\xff\x00rot", b"[]", b'{"what": "operation"}', b'{"what": "begin"}', b"7"])
def test_a_spoiled_line_is_said_and_the_others_are_undone(
    chaos_place: Path, victim: subprocess.Popen[bytes], line: bytes
) -> None:
    session = session_of(chaos_place, victim.pid)
    path = session / "journal.jsonl"
    begin, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(begin + b"\n" + line + b"\n" + rest)
    (found,) = chaos.recover()
    assert eventually(lambda: state_of(victim.pid) in ("R", "S"))
    (said,) = found.residue
    assert f"line 2 of {path}" in said
    assert f"undo that by hand, and delete {session}" in said
    shutil.rmtree(session)
    assert chaos.recover() == []


def test_a_journal_that_cannot_be_read_is_said(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    session = session_of(chaos_place, victim.pid)
    os.kill(victim.pid, signal.SIGCONT)
    (session / "journal.jsonl").unlink()
    (session / "journal.jsonl").mkdir()
    (found,) = chaos.recover()
    assert "Is a directory" in found.residue[0]
    assert session.exists()
    assert read_journal(session).standing == []


def test_a_spoiled_audit_trail_goes_on_and_is_found_out(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    with chaos.inject("noop", f"pid:{victim.pid}"):
        pass
    path = chaos_place / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b"\xff no line of ours\n")
    with chaos.inject("noop", f"pid:{victim.pid}"):
        pass
    assert verify(path) == 3
    assert json.loads(path.read_bytes().splitlines()[-1])["what"] == "undone"


def test_without_an_audit_trail_nothing_is_injected(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    chaos_place.mkdir(mode=0o700)
    (chaos_place / "audit.jsonl").mkdir()
    with pytest.raises(FaultError, match="audit trail cannot be written"):
        chaos.inject("process.pause", f"pid:{victim.pid}")
    assert state_of(victim.pid) != "T"


def test_a_pid_that_is_anothers_by_now_is_not_touched(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    session = session_of(chaos_place, victim.pid)
    path = session / "journal.jsonl"
    start = ProcessIdentity.of(victim.pid).start
    path.write_text(path.read_text().replace(f'"start": {start}', f'"start": {start - 1}'))
    (found,) = chaos.recover()
    assert found.residue == ()  # whom it was about is gone
    assert state_of(victim.pid) == "T"
    os.kill(victim.pid, signal.SIGCONT)


def test_two_experiments_that_start_at_once_do_not_share_the_host(victim: subprocess.Popen[bytes]) -> None:
    script = f"""
import sys
from aiobs import chaos
from aiobs.errors import ArmError
sys.stdin.readline()
try:
    with chaos.inject("process.pause", "pid:{victim.pid}", duration_s=20):
        print("held", flush=True)
        sys.stdin.readline()
except ArmError as error:
    print(error, flush=True)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for it in both:
        assert it.stdin is not None
        it.stdin.write("go\n")
        it.stdin.flush()
    said = sorted(it.stdout.readline() for it in both if it.stdout is not None)
    for it in both:
        it.communicate("end\n")
    assert said[1] == "held\n"
    assert "another experiment holds this host" in said[0]
    assert eventually(lambda: state_of(victim.pid) in ("R", "S"))


def test_a_lock_whose_owner_is_gone_is_taken_over(chaos_place: Path, victim: subprocess.Popen[bytes]) -> None:
    chaos_place.mkdir(mode=0o700)
    held = lock(chaos_place / "host.lock")
    assert held is not None
    os.pwrite(held, b"a session of a machine that crashed", 0)
    os.close(held)
    with chaos.inject("noop", f"pid:{victim.pid}"):
        pass


@root
def test_a_read_only_cgroup_tree_is_refused_before_anything_is_touched(
    victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    command = (
        "for it in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro \"$it\"; done; "
        f"exec {sys.executable} -m aiobs.cli chaos inject process.freeze pid:{victim.pid} --duration 1"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Read-only file system" in done.stderr or "cannot be written" in done.stderr or "no cgroup" in done.stderr
    assert not list((chaos_place / "sessions").iterdir())


def test_a_wall_clock_that_steps_changes_no_end(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    script = f"""
import time
from aiobs import chaos
with chaos.inject("process.pause", "pid:{victim.pid}", duration_s=1) as injection:
    print(time.time(), flush=True)
    held = time.monotonic()
    injection.wait(20)
    print((injection.undone_ns - injection.effective_ns) / 1e9, time.monotonic() - held, injection.because, time.time(), flush=True)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, **faked(offset)}
    )
    assert running.stdout is not None
    first = float(running.stdout.readline())
    offset.write_text("-7200\n")
    said, seconds, rest = running.stdout.readline().split(" ", 2)
    running.communicate()
    for left in Path("/dev/shm").glob("*faketime_*"):  # of it, and of the injector it started
        left.unlink(missing_ok=True)
    assert "its time is over" in rest
    assert float(rest.split()[-1]) < first - 3600  # the clock did step
    assert 1 <= float(said) < 10  # of one clock, whatever the other did
    assert float(seconds) < 10


def faked(offset: Path) -> dict[str, str]:
    """Environment of a process whose wall clock follows a file."""
    preload = pytest.importorskip("libfaketime", reason="needs pip install libfaketime")
    (library,) = Path(preload.__file__).parent.rglob("libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


def slow_ip(folder: Path, seconds: float) -> Path:
    """A folder with an ``ip`` that is slow to take links down; it says when it has started."""
    (folder / "tools").mkdir()
    tool = folder / "tools/ip"
    slow = f'case "$*" in *down*) touch {folder}/started; sleep {seconds};; esac'
    tool.write_text(f'#!/bin/sh\n{slow}\nexec {shutil.which("ip")} "$@"\n')
    tool.chmod(0o755)
    return folder / "tools"


@root
@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip (package iproute2)")
@pytest.mark.parametrize("both", [False, True], ids=["watchdog", "recovery"])
def test_a_tool_the_injector_was_running_when_it_was_killed_does_nothing_any_more(
    tmp_path: Path, chaos_place: Path, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    tools, started = slow_ip(tmp_path, 1), tmp_path / "started"
    script = 'from aiobs import chaos; chaos.inject("node.loss", "node:b", kill=False)'
    with Testbed(2) as bed:
        bed["b"].start(["sleep", "60"])
        with monkeypatch.context() as slowly:
            slowly.setenv("PATH", f"{tools}:{os.environ['PATH']}")
            running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        assert eventually(started.exists, 20)
        injector = injector_of(chaos_place)
        hit = [*(watchdogs_of(injector) if both else ()), injector]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in hit:
                process.send(number)
        running.wait(20)
        chaos.recover()
        time.sleep(1.2)  # longer than the tool would have taken
        (link,) = json.loads(bed["b"].run(["ip", "-j", "link", "show", "eth0"]).stdout)
        assert "UP" in link["flags"]


@root
@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip (package iproute2)")
def test_an_injector_that_is_busy_acting_is_not_taken_for_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Testbed(2) as bed:
        bed["b"].start(["sleep", "60"])
        with monkeypatch.context() as slowly:
            slowly.setenv("PATH", f"{slow_ip(tmp_path, 2.5)}:{os.environ['PATH']}")
            with chaos.Lease(lease_s=1) as lease:
                injection = chaos.inject("node.loss", "node:b", kill=False, lease=lease)
                assert injection.active
        assert injection.because in ("the experiment ended", "the experiment asked for it")


def test_names_that_do_not_exist_are_refused_with_those_that_do(
    victim: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    for fault, target, said in (
        ("process.poase", f"pid:{victim.pid}", "there are .*process.pause"),
        ("process.pause", "pidd:1", "pidd"),
        ("process.pause", "pid:none", "pid:none"),
        ("network.bandwidth", f"pid:{victim.pid}", "needs interface"),
        ("process.pause", f"path:{tmp_path}", "needs processes"),
    ):
        with pytest.raises(PlanError, match=said):
            chaos.inject(fault, target)


def test_who_listens_is_found_though_it_opens_and_closes_files_all_the_time() -> None:
    script = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    for it in [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]:
        os.close(it)
"""
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        found = [listeners("127.0.0.1", port) for _ in range(50)]
        assert {it.pid for some in found for it in some} == {server.pid}
        assert all(found)
    finally:
        server.kill()
        server.communicate()
