"""Slow and failing disks: a folder is covered by a file system of ours."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aiobs import chaos
from aiobs.chaos.fault import build_fault
from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.mounts import mounted
from aiobs.chaos.operations.worker import MARK
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

LACKING = [
    why
    for there, why in (
        (find_spec("mfusepy"), "mfusepy"), (find_library("fuse3"), "the package fuse3"),
        (os.access("/dev/fuse", os.R_OK | os.W_OK), "/dev/fuse"),
    ) if not there
]  # fmt: skip
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")
root = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces and other users are root's")


def inject(fault: str, target: str, **parameters: Any) -> chaos.Injection:
    """Injected, with the patience that a busy machine asks for."""
    return chaos.inject(fault, target, effect_s=30, **parameters)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    (path / "kept").write_bytes(b"from before")
    return path


@pytest.fixture
def busy(folder: Path) -> Iterator[Callable[[str], None]]:
    """Somebody who does one thing all the time, so that there is something to hit: ``busy("write")``."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def work(what: str) -> None:
        path = folder / "busy.tmp"
        while not over.wait(0.005):
            try:
                if what == "read":
                    (folder / "kept").read_bytes()
                    continue
                with open(path, "wb", 0) as file:
                    file.write(b"x" * 100)
                    if what == "fsync":
                        os.fsync(file)
            except OSError:
                continue

    def start(what: str) -> None:
        threads.append(threading.Thread(target=work, args=(what,)))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


def covers() -> list[ProcessIdentity]:
    return [it for it in all_processes() if it.variables().get(MARK, "").endswith(("-cover-0", "-cover-1"))]


def took_s(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def within(least_s: float, most_s: float, act: Callable[[], object]) -> bool:
    """Whether it never takes less, and, undisturbed, no more: how late a busy machine wakes somebody is not our doing."""
    seen: list[float] = []

    def again() -> bool:
        seen.append(took_s(act))
        return seen[-1] <= most_s

    return eventually(again, 20) and min(seen) >= least_s


def test_each_write_and_read_waits_as_long_as_was_said(folder: Path, busy: Callable[[str], None]) -> None:
    busy("write")
    with inject("disk.slow", f"path:{folder}", delay_s=0.04, duration_s=60) as injection:
        assert "waited" in injection.evidence[0]
        assert within(0.04, 0.042, lambda: (folder / "new").write_bytes(b"x" * 1000))
        assert within(0.04, 0.042, lambda: (folder / "kept").read_bytes())
    assert (folder / "new").read_bytes() == b"x" * 1000
    assert within(0, 0.02, lambda: (folder / "kept").read_bytes())


def test_so_many_bytes_a_second_go_through(folder: Path, busy: Callable[[str], None]) -> None:
    busy("read")
    with inject("disk.slow", f"path:{folder}", rate_bytes=8e6, duration_s=60):
        assert within(0.2375, 0.2625, lambda: (folder / "big").write_bytes(bytes(2_000_000)))
        assert within(0.2375, 0.2625, lambda: (folder / "big").read_bytes())


def test_only_what_was_chosen_is_hit(folder: Path, busy: Callable[[str], None]) -> None:
    busy("fsync")
    with inject("disk.slow", f"path:{folder}", delay_s=0.1, on="fsync", pattern="*.tmp", duration_s=60):
        with open(folder / "a.tmp", "wb", 0) as file:
            assert within(0, 0.05, lambda: file.write(b"x"))
            assert took_s(lambda: os.fsync(file)) >= 0.1
        with open(folder / "a.pt", "wb", 0) as file:
            assert within(0, 0.05, lambda: os.fsync(file))


def test_a_disk_that_hangs_lets_go_at_the_end_and_nothing_is_lost(folder: Path, busy: Callable[[str], None]) -> None:
    busy("write")
    done: list[int] = []
    writer = threading.Thread(target=lambda: done.append((folder / "held").write_bytes(b"all of it")))
    with inject("disk.slow", f"path:{folder}", delay_s=600):
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
    writer.join(5)
    assert done == [9]
    assert (folder / "held").read_bytes() == b"all of it"


def test_an_fsync_fails_and_writes_do_not(folder: Path, busy: Callable[[str], None]) -> None:
    busy("fsync")
    with inject("disk.fail", f"path:{folder}", on="fsync", error="EIO"):
        with open(folder / "log", "wb", 0) as file:
            file.write(b"line")
            with pytest.raises(OSError) as caught:
                os.fsync(file)
    assert caught.value.errno == errno.EIO
    assert (folder / "log").read_bytes() == b"line"


def test_a_disk_fills_up_in_the_middle_of_a_write(folder: Path) -> None:
    written: list[int] = []

    def fill() -> None:
        while True:
            with open(folder / "checkpoint", "wb", 0) as file:
                try:
                    written.extend(file.write(bytes(100_000)) for _ in range(5))
                except OSError as error:
                    written.append(-(error.errno or 0))
                    return

    filling = threading.Thread(target=fill)
    filling.start()
    with inject("disk.fail", f"path:{folder}", error="ENOSPC", on="write", after_bytes=250_000):
        filling.join()
    assert written[-3:] == [100_000, 50_000, -errno.ENOSPC]


def test_what_still_fits_is_written(folder: Path) -> None:
    from aiobs.chaos.workers.strain import Strain

    told = {
        "on": ["write"], "pattern": "*", "share": 1, "seed": 1, "after_bytes": 250, "after_count": 0, "times": 0,
        "delay_s": 0, "jitter_s": 0, "rate_bytes": 0, "error": "ENOSPC",
    }  # fmt: skip
    strain = Strain(told, threading.Event())
    assert [strain.on("write", "a", 100) for _ in range(3)] == [100, 100, 50]
    with pytest.raises(OSError, match="No space"):
        strain.on("write", "a", 100)
    assert strain.on("read", "a", 100) == 100


def test_a_folder_became_read_only(folder: Path, busy: Callable[[str], None]) -> None:
    busy("write")
    with inject("disk.fail", f"path:{folder}", on="write,change", error="EROFS"):
        assert (folder / "kept").read_bytes() == b"from before"
        for act in (
            lambda: (folder / "kept").write_bytes(b""), lambda: (folder / "kept").unlink(),
            lambda: (folder / "sub").mkdir(), lambda: (folder / "kept").rename(folder / "gone"),
        ):  # fmt: skip
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == errno.EROFS
    assert (folder / "kept").read_bytes() == b"from before"


def test_an_error_that_goes_away(folder: Path, busy: Callable[[str], None]) -> None:
    busy("write")
    with inject("disk.fail", f"path:{folder}", on="write", times=1):
        assert (folder / "retried").write_bytes(b"x") == 1


def test_the_same_seed_hits_the_same_operations() -> None:
    from aiobs.chaos.workers.strain import Strain

    def hits(seed: float) -> list[bool]:
        told = {
            "on": ["read"], "pattern": "*.pt", "share": 0.3, "seed": seed, "after_bytes": 0, "after_count": 10,
            "times": 0, "delay_s": 0, "jitter_s": 0, "rate_bytes": 0, "error": "EIO",
        }  # fmt: skip
        strain, found = Strain(told, threading.Event()), []
        for _ in range(1010):
            try:
                found.append(strain.on("read", "deep/in/a.pt", 8) < 0)
            except OSError:
                found.append(True)
        return found

    assert hits(0.5) == hits(0.5) != hits(0.6)
    assert not any(hits(0.5)[:10])
    assert 240 < sum(hits(0.5)) < 360


def _play(folder: Path) -> list[object]:
    """What programs do with files; what they see of it."""
    seen: list[object] = []
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    first = deep / "first"
    first.write_bytes(b"0123456789" * 1000)
    with open(first, "r+b") as file:
        file.seek(5000)
        file.write(b"patched")
        file.truncate(7000)
    with open(first, "ab", 0) as one, open(first, "ab", 0) as other:
        one.write(b"appended")
        other.write(b"by two")
    os.link(first, folder / "linked")
    os.symlink("linked", folder / "soft")
    first.chmod(0o640)
    os.utime(first, ns=(10**18, 10**18 + 7))
    first.rename(folder / "moved")
    (folder / "gone").write_bytes(b"x")
    with open(folder / "gone", "r+b", 0) as file:
        (folder / "gone").unlink()
        file.write(b"still there")
        file.seek(0)
        seen += [
            file.read(),
            os.fstat(file.fileno()).st_nlink,
            os.ftruncate(file.fileno(), 3),
            os.fstat(file.fileno()).st_size,
        ]
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"nameless")
        file.seek(0)
        seen.append(file.read())
    (folder / "latest").write_bytes(b"old")
    (folder / "latest.tmp").write_bytes(b"new")
    with open(folder / "latest", "rb", 0) as file:
        (folder / "latest.tmp").replace(folder / "latest")
        seen += [file.read(), (folder / "latest").read_bytes(), os.listdir(folder / "a")]
    with open(folder / "sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    descriptor = os.open(folder / "room", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.posix_fallocate(descriptor, 0, 8192)
    os.fsync(descriptor)
    os.close(descriptor)
    (folder / "name with spaces and ümlaut").touch()
    (folder / "a" / "empty").mkdir()
    (folder / "a" / "empty").rmdir()
    for act in (
        lambda: os.rmdir(folder / "a"),
        lambda: os.open(folder / "room", os.O_CREAT | os.O_EXCL),
        lambda: os.stat(folder / "none"),
    ):
        try:
            act()
        except OSError as error:
            seen.append(error.errno)
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        content = path.read_bytes() if path.is_file() else os.listdir(path)
        seen.append(
            (
                path.relative_to(folder).as_posix(),
                found.st_mode,
                found.st_nlink,
                path.is_file() and found.st_size,
                content,
            )
        )
    seen.append((folder / "moved").stat().st_mtime_ns)
    seen.append(os.readlink(folder / "soft"))
    return seen


def test_what_is_not_hit_is_as_on_the_disk_below(folder: Path, tmp_path: Path, busy: Callable[[str], None]) -> None:
    (tmp_path / "plain").mkdir()
    busy("read")
    (folder / "covered").mkdir()
    with inject("disk.slow", f"path:{folder}", delay_s=0.001, on="read", pattern="kept"):
        seen = _play(folder / "covered")
        inodes = {path: path.lstat().st_ino for path in folder.rglob("*")}
    assert seen == _play(tmp_path / "plain")
    assert inodes.items() <= {path: path.lstat().st_ino for path in folder.rglob("*")}.items()
    assert not list(folder.rglob(".fuse_hidden*"))


def test_a_file_open_beyond_the_end_stays_usable(folder: Path, busy: Callable[[str], None]) -> None:
    busy("write")
    with inject("disk.fail", f"path:{folder}", pattern="busy.tmp"):
        log = open(folder / "log", "w+b", 0)  # noqa: SIM115 - to be open beyond the fault
        log.write(b"under the fault, ")
    assert mounted(str(folder)) == []
    with log:
        log.write(b"and after it")
        os.fsync(log)
        log.seek(0)
        assert log.read() == b"under the fault, and after it"
        assert len(covers()) == 1
    assert eventually(lambda: not covers())
    assert (folder / "log").read_bytes() == b"under the fault, and after it"


@pytest.mark.parametrize("who", ["the cover", "a stopped cover", "injector and watchdog", "all of them"])
def test_the_folder_comes_back_whoever_dies(
    folder: Path, busy: Callable[[str], None], chaos_place: Path, who: str
) -> None:
    busy("write")
    lease = chaos.Lease()
    inject("disk.slow", f"path:{folder}", delay_s=0.02, lease=lease)
    injector = injector_of(chaos_place)
    (cover,) = covers()
    hit = {"the cover": [cover], "a stopped cover": [], "all of them": [cover]}.get(who, [])
    if who == "a stopped cover":
        cover.send(signal.SIGSTOP)
    if who in ("injector and watchdog", "all of them"):
        hit = [*hit, *watchdogs_of(injector), injector]
    for it in hit:
        it.send(signal.SIGSTOP)
    for it in hit:
        it.send(signal.SIGKILL)
    try:
        lease.close()
    except FaultError:
        assert len(hit) > 1  # an injector that is gone cannot say that it has undone
    if len(hit) > 1:
        assert eventually(lambda: not injector.is_alive())
        assert all(not it.residue for it in chaos.recover())
    assert eventually(lambda: not covers())
    assert mounted(str(folder)) == []
    assert (folder / "kept").read_bytes() == b"from before"


@root
def test_a_process_sees_it_in_its_own_mount_namespace_and_nobody_else(folder: Path) -> None:
    script = (
        f"import sys, time\nwhile True:\n began = time.perf_counter()\n open({str(folder / 'its')!r}, 'wb').write(b'x')\n"
        " print(time.perf_counter() - began, flush=True)"
    )
    program = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        program.stdout.readline()
        with inject("disk.slow", f"pid:{program.pid}", folder=str(folder), delay_s=0.1, duration_s=60):
            assert mounted(str(folder)) == []
            assert within(0, 0.05, lambda: (folder / "mine").write_bytes(b"x"))
            assert eventually(lambda: float(program.stdout.readline()) >= 0.1)  # type: ignore[union-attr]
            (cover,) = covers()
            cover.send(signal.SIGKILL)
        assert mounted(str(folder), str(program.pid)) == []
    finally:
        program.kill()
        program.communicate()


@root
def test_what_another_user_makes_is_that_user_s() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # which that user can reach
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "ours").write_bytes(b"from before")
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        reading = subprocess.Popen(
            ["sh", "-c", f"while cat {folder}/ours; do sleep 0.01; done"], stdout=subprocess.DEVNULL
        )
        try:
            with inject("disk.slow", f"path:{folder}", on="read", delay_s=0.001):
                subprocess.run([*as_nobody, "mkdir", str(folder / "theirs")], check=True)
                write = [*as_nobody, "sh", "-c", f"echo x > {folder}/ours"]
                assert subprocess.run(write, check=False, capture_output=True).returncode != 0
        finally:
            reading.kill()
            reading.wait()
        found = (folder / "theirs").stat()
        assert (found.st_uid, found.st_gid) == (65534, 65534)
        assert (folder / "ours").read_bytes() == b"from before"


def test_a_folder_that_holds_the_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="undo journal"):
        inject("disk.slow", f"path:{tmp_path}", delay_s=1)


def test_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(PlanError, match="is no folder"):
        inject("disk.fail", f"path:{folder / 'kept'}")


def test_processes_need_a_folder(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(PlanError, match="which folder"):
        inject("disk.fail", f"pid:{victim.pid}")


def test_a_folder_covered_already_is_refused(
    folder: Path, busy: Callable[[str], None], victim: subprocess.Popen[bytes]
) -> None:
    busy("write")
    with chaos.Lease() as lease:
        inject("disk.slow", f"path:{folder}", delay_s=0.01, lease=lease)
        with pytest.raises(PlanError, match="covered by another"):
            inject("disk.fail", f"pid:{victim.pid}", folder=str(folder), lease=lease)


@pytest.mark.parametrize(
    ("kind", "parameters", "named"),
    [
        ("disk.slow", {}, "delay_s"), ("disk.slow", {"delay_s": 1, "on": "melt"}, "on"), ("disk.slow", {"delay_s": 1, "jitter_s": 2}, "jitter_s"),
        ("disk.slow", {"rate_bytes": 1, "on": "fsync"}, "rate_bytes"), ("disk.slow", {"delay_s": 1, "share": 0}, "share"),
        ("disk.fail", {"error": "EWHAT"}, "error"), ("disk.fail", {"after_bytes": -1}, "after_bytes"),
        ("disk.fail", {"folder": "data"}, "folder"), ("disk.fail", {"pattern": ""}, "pattern"),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(kind: str, parameters: dict[str, object], named: str) -> None:
    with pytest.raises(PlanError, match=f"{kind}: {named}"):
        build_fault(kind, parameters)
