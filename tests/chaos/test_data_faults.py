"""Faults of disks, checkpoints, services and clocks."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.fault import build_fault
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, state_of, watchdogs_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and packets are root's")

SERVICE = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        there, _ = server.accept()
        there.sendall(b"here")
        there.close()
"""

CLIENT = """
import socket, sys, time
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 0.05).close()
    except OSError:
        pass
    time.sleep(0.02)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def service() -> Iterator[tuple[int, int]]:
    """Pid and port of something that listens."""
    process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.kill()
    process.communicate()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number in (1, 2):
        path = folder / f"step{number}.pt"
        path.write_bytes(os.urandom(3 << 20))
        os.utime(path, (1000 + number, 1000 + number))
    (folder / "step2.pt").chmod(0o640)
    return folder


def asked(port: int, timeout_s: float = 0.3) -> str:
    """What a client of the service gets."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as there:
            return there.recv(10).decode()
    except TimeoutError:
        return "silence"
    except ConnectionError:
        return "refused"


def seen(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mode, found.st_mtime_ns, found.st_ino


@root
def test_a_full_disk_refuses_writes_until_the_end(disk: Path) -> None:
    with chaos.inject("disk.full", f"path:{disk}") as injection:
        with pytest.raises(OSError, match="No space") as caught:
            (disk / "checkpoint").write_bytes(b"x" * 65536)
        assert caught.value.errno == errno.ENOSPC
        assert "bytes free" in injection.evidence[0]
    (disk / "checkpoint").write_bytes(b"x" * 65536)
    assert [it.name for it in disk.iterdir()] == ["checkpoint"]


@root
def test_so_much_stays_free_as_was_said(disk: Path) -> None:
    with chaos.inject("disk.full", f"path:{disk}", spare_bytes=1 << 20):
        found = os.statvfs(disk)
        assert abs(found.f_bavail * found.f_frsize - (1 << 20)) <= 8192


@root
def test_a_ballast_too_big_is_refused(disk: Path) -> None:
    with pytest.raises(PlanError, match="most_bytes"):
        chaos.inject("disk.full", f"path:{disk}", most_bytes=1 << 20)
    assert not list(disk.iterdir())


def test_a_disk_that_others_need_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="allow_shared"):
        chaos.inject("disk.full", f"path:{tmp_path}")


def test_a_process_can_be_given_no_room(tmp_path: Path) -> None:
    script = f"""
import time
while True:
    try:
        open({str(tmp_path / "log")!r}, "wb").write(b"x" * 9000)
        said = "written"
    except OSError as error:
        said = str(error.errno)
    open({str(tmp_path / "said")!r}, "w").write(said[:7])
    time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    said = tmp_path / "said"
    try:
        assert eventually(lambda: said.exists() and said.read_text() == "written")
        with chaos.inject("disk.full", f"pid:{process.pid}", how="limit", spare_bytes=4096):
            assert eventually(lambda: said.read_text() == str(errno.EFBIG))
        assert eventually(lambda: said.read_text() == "written")
    finally:
        process.kill()
        process.wait()


def test_the_newest_checkpoint_is_torn_and_comes_back(checkpoints: Path) -> None:
    newest, older = checkpoints / "step2.pt", checkpoints / "step1.pt"
    before = seen(newest), seen(older)
    with chaos.inject("checkpoint.tear", f"path:{checkpoints}", pattern="*.pt", share=0.25):
        assert newest.stat().st_size == (3 << 20) // 4
        assert newest.stat().st_mode == before[0][1]
        assert seen(older) == before[1]
    assert (seen(newest), seen(older)) == before
    assert sorted(it.name for it in checkpoints.iterdir()) == ["step1.pt", "step2.pt"]


def test_so_many_bits_are_flipped_as_was_said_and_the_same_again(checkpoints: Path) -> None:
    newest = checkpoints / "step2.pt"
    before, content = seen(newest), newest.read_bytes()
    found = []
    for _ in range(2):
        with chaos.inject("checkpoint.corrupt", f"path:{checkpoints}", bits=5, seed=7):
            found.append(newest.read_bytes())
        assert seen(newest) == before
    assert found[0] == found[1]
    different = int.from_bytes(content, "little") ^ int.from_bytes(found[0], "little")
    assert f"{different:b}".count("1") == 5


def test_what_the_program_wrote_meanwhile_stays(checkpoints: Path) -> None:
    newest = checkpoints / "step2.pt"
    with chaos.inject("checkpoint.tear", f"path:{checkpoints}"):
        newest.write_bytes(b"a new one")
    assert newest.read_bytes() == b"a new one"


def test_a_checkpoint_that_is_being_written_is_refused(checkpoints: Path) -> None:
    with open(checkpoints / "step2.pt", "ab"):
        with pytest.raises(PlanError, match="open for writing"):
            chaos.inject("checkpoint.tear", f"path:{checkpoints}")


def test_a_torn_checkpoint_comes_back_though_all_die(checkpoints: Path, chaos_place: Path) -> None:
    newest = checkpoints / "step2.pt"
    before = seen(newest)
    with chaos.Lease() as lease:
        chaos.inject("checkpoint.tear", f"path:{checkpoints}", lease=lease)
        injector = injector_of(chaos_place)
        (watchdog,) = watchdogs_of(injector)
        watchdog.send(signal.SIGSTOP)
        injector.send(signal.SIGKILL)
        watchdog.send(signal.SIGKILL)
        assert eventually(lambda: not watchdog.is_alive())
    assert seen(newest) != before
    (found,) = chaos.recover()
    assert found.residue == ()
    assert seen(newest) == before


def test_a_paused_service_does_not_answer(service: tuple[int, int]) -> None:
    pid, port = service
    assert asked(port) == "here"
    with chaos.inject("service.down", f"service:127.0.0.1:{port}"):
        assert state_of(pid) == "T"
        assert asked(port) == "silence"
    assert eventually(lambda: asked(port) == "here")


@root
@pytest.mark.parametrize(("how", "answer"), [("refuse", "refused"), ("drop", "silence")])
def test_a_service_is_cut_off(service: tuple[int, int], how: str, answer: str) -> None:
    _, port = service
    with chaos.Lease() as lease:
        client = subprocess.Popen([sys.executable, "-c", CLIENT, str(port)])
        try:
            chaos.inject("service.down", f"service:localhost:{port}", how=how, lease=lease)
            assert asked(port) == answer
        finally:
            client.kill()
            client.wait()
    assert asked(port) == "here"


@root
def test_the_endpoint_in_a_program_s_environment_is_cut(service: tuple[int, int]) -> None:
    _, port = service
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    program = subprocess.Popen([sys.executable, "-c", CLIENT, str(port)], env=environment)
    try:
        with chaos.inject("telemetry.down", f"pid:{program.pid}"):
            assert asked(port) == "refused"
            assert program.poll() is None
        assert asked(port) == "here"
    finally:
        program.kill()
        program.wait()


def test_a_program_without_an_endpoint_is_refused(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(PlanError):
        chaos.inject("telemetry.down", f"pid:{victim.pid}")


def test_a_service_that_nobody_offers_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(PlanError, match="listens at"):
            chaos.inject("service.down", f"service:127.0.0.1:{bound.getsockname()[1]}")


def library() -> str:
    preload = pytest.importorskip("libfaketime", reason="needs pip install libfaketime")
    found = list(Path(preload.__file__).parent.rglob("libfaketime.so.1"))
    return str(found[0])


def test_a_clock_goes_wrong_and_right_again(tmp_path: Path) -> None:
    offset, said = tmp_path / "offset", tmp_path / "said"
    offset.write_text("+0\n")
    environment = {
        **os.environ, "LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1",
    }  # fmt: skip
    script = (
        "import os, sys, time\nwhile True:\n open(sys.argv[1] + '.new', 'w').write(str(time.time()))\n"
        " os.replace(sys.argv[1] + '.new', sys.argv[1])\n time.sleep(0.01)"
    )
    program = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, str(said)], env=environment)

    def ahead() -> float:
        return float(said.read_text()) - time.time()

    try:
        assert eventually(said.exists)
        with chaos.inject("clock.skew", f"pid:{program.pid}", offset_s=3600):
            assert eventually(lambda: abs(ahead() - 3600) < 1)
        assert eventually(lambda: abs(ahead()) < 1)
        assert offset.read_text() == "+0\n"
    finally:
        program.kill()
        program.wait()
        for left in (
            *Path("/dev/shm").glob(f"faketime_*_{program.pid}"),
            *Path("/dev/shm").glob(f"sem.faketime_*_{program.pid}"),
        ):
            left.unlink(missing_ok=True)


def test_a_process_with_the_host_s_clock_is_refused(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises((PlanError, FaultError), match="libfaketime"):
        chaos.inject("clock.skew", f"pid:{victim.pid}")


@pytest.mark.parametrize(
    ("kind", "parameter", "value"),
    [
        ("disk.full", "how", "melt"), ("disk.full", "spare_bytes", -1), ("checkpoint.tear", "share", 1),
        ("checkpoint.corrupt", "bits", 0), ("checkpoint.tear", "pattern", "../x"), ("service.down", "how", "x"),
        ("telemetry.down", "how", "pause"), ("clock.skew", "offset_s", 0),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(kind: str, parameter: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"{kind}: {parameter}"):
        build_fault(kind, {parameter: value})


RECORDED = """
import sys, time
from pathlib import Path
import aiobs
aiobs.init()
for number in range(100000):
    with aiobs.span(f"work {number}"):
        time.sleep(0.01)
    Path(sys.argv[1]).write_text(str(number + 1))
    if Path(sys.argv[2]).exists():
        break
"""


@root
def test_telemetry_of_a_cut_endpoint_arrives_afterwards_and_the_program_goes_on(tmp_path: Path) -> None:
    from collections import Counter
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    arrived: Counter[str] = Counter()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            if self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                    arrived.update(span.name for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    done, end = tmp_path / "done", tmp_path / "end"
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    program = subprocess.Popen([sys.executable, "-c", RECORDED, str(done), str(end)], env=environment)

    def works() -> int:
        while not (text := done.read_text() if done.exists() else "0"):
            continue  # it is being written at this moment
        return int(text)

    try:
        assert eventually(lambda: arrived["work 0"], 15)
        with chaos.inject("telemetry.down", f"pid:{program.pid}", effect_s=10):
            cut_off, began = arrived.total(), works()
            time.sleep(1)
            assert works() - began > 20  # of a hundred, on a busy machine
            assert arrived.total() == cut_off
        end.touch()
        assert program.wait(15) == 0
        wanted = {f"work {number}" for number in range(works())}
        assert eventually(lambda: wanted <= arrived.keys(), 20), len(wanted - arrived.keys())
        # Only the request that was cut off behind the receiver's back, its answer lost, may have been sent again.
        twice = [int(name.split()[1]) for name in wanted if arrived[name] > 1]
        assert max((arrived[name] for name in wanted), default=0) <= 2
        assert not twice or max(twice) - min(twice) < 150
    finally:
        program.kill()
        program.wait()
        server.shutdown()
        server.server_close()
        thread.join()
