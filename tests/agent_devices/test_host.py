"""What the kernel says of processes, their control groups and the host, and what becomes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiobs.device import cgroups, disk, host, network, pressure, process_stats

STAT = "4321 (a (strange) name) S 1 2 3 4 5 6 700 0 8 0 150 50 0 0 20 0 9 0 99 1048576 256 0\n"
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0: 5000 50 1 0 0 0 0 0 7000 70 2 0 0 0 0 0
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    """`root`, with these files in it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_process_is_read_from_proc(tmp_path: Path) -> None:
    proc = tree(tmp_path, {
        "4321/stat": STAT,
        "4321/status": "Name:\tx\nVmHWM:\t  2048 kB\nvoluntary_ctxt_switches:\t11\nnonvoluntary_ctxt_switches:\t22\n",
        "4321/io": "rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n",
        "4321/fd/0": "", "4321/fd/1": "",
    })  # fmt: skip
    found = process_stats.read_process(4321, proc)
    assert found is not None
    assert (found.user_s, found.system_s) == (150 * process_stats.TICK_S, 50 * process_stats.TICK_S)
    assert (found.threads, found.minor_faults, found.major_faults) == (9, 700, 8)
    assert (found.memory_bytes, found.virtual_bytes) == (256 * process_stats.PAGE_BYTES, 1048576)
    assert (found.voluntary, found.involuntary, found.descriptors) == (11, 22, 2)
    assert (found.read_bytes, found.write_bytes) == (4096, 8192)
    assert process_stats.memory_peak_bytes(4321, proc) == 2048 * 1024
    assert process_stats.read_process(1, proc) is None


def test_what_a_process_does_not_show_is_left_out(tmp_path: Path) -> None:
    found = process_stats.read_process(4321, tree(tmp_path, {"4321/stat": STAT}))
    assert found is not None
    assert (found.read_bytes, found.descriptors, found.voluntary) == (None, None, None)
    assert process_stats.read_process(1, tree(tmp_path, {"1/stat": "1 (cut) S 1"})) is None


def test_this_process_is_read_for_real() -> None:
    before = process_stats.cpu_s(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    after = process_stats.cpu_s(os.getpid())
    assert before is not None
    assert after is not None
    assert 0.05 <= after - before <= 5
    found = process_stats.read_process(os.getpid())
    assert found is not None
    assert found.memory_bytes > 1 << 20
    assert found.descriptors is not None
    assert host.read_cpu()["idle"] > 0
    memory = host.read_memory()
    assert 0 < memory["used"] + memory["free"] <= memory["total"]


def test_groups_of_both_versions_are_found_and_read(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {
        "7/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n0::/unified/job\n",
        "self/mountinfo": (
            f"1 0 0:1 / {tmp_path}/v1/memory rw - cgroup cgroup rw,memory\n"
            f"2 0 0:2 / {tmp_path}/v1/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            f"3 0 0:3 /unified {tmp_path}/v2 rw - cgroup2 cgroup2 rw\n"
        ),
    })  # fmt: skip
    tree(tmp_path, {
        "v1/memory/job/memory.usage_in_bytes": "1000\n", "v1/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
        "v1/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        "v1/cpu/job/cpuacct.usage": "2500000000\n", "v1/cpu/job/cpu.cfs_quota_us": "150000\n",
        "v1/cpu/job/cpu.cfs_period_us": "100000\n", "v1/cpu/job/cpu.stat": "nr_periods 1\nthrottled_time 500000000\n",
        "v2/job/memory.current": "77\n", "v2/job/memory.max": "4096\n", "v2/job/memory.events": "oom 1\noom_kill 1\n",
        "v2/job/cpu.stat": "usage_usec 3000000\nthrottled_usec 250000\n", "v2/job/cpu.max": "max 100000\n",
    })  # fmt: skip
    memory, cpu = (cgroups.find_groups(7, name, proc) for name in ("memory", "cpu"))
    assert [group.unified for group in memory] == [False, True]
    assert cgroups.read_limits(memory, cpu) == cgroups.Limits(1000, None, 3, 2.5, 1.5, 0.5)
    assert cgroups.read_limits(memory[1:], cpu[1:]) == cgroups.Limits(77, 4096, 1, 3.0, None, 0.25)
    assert cgroups.read_limits([], []) == cgroups.Limits()
    assert cgroups.find_groups(8, "memory", proc) == []


def test_networks_disks_and_pressure(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {
        "net/dev": NET_DEV,
        "diskstats": "8 0 sda 10 0 100 5 20 0 200 5 0 0 0\n8 1 sda1 1 0 100 5 2 0 200 5 0 0 0\n7 0 loop0 1 0 9 1 1 0 9 1\n",
        "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n",
        "pressure/memory": "some avg10=0 avg60=0 avg300=0 total=10\nfull avg10=0 avg60=0 avg300=0 total=20\n",
    })  # fmt: skip
    counters = "sys/class/infiniband/mlx5_0/ports/1/counters/"
    tree(tmp_path, {
        "sys/block/sda/size": "1", counters + "port_rcv_data": "25", counters + "port_xmit_data": "50",
        counters + "port_rcv_packets": "3", counters + "port_xmit_packets": "4", counters + "port_rcv_errors": "1",
    })  # fmt: skip
    assert network.read_interfaces(proc) == {"eth0": network.Traffic(5000, 7000, 50, 70, 1, 2)}
    assert network.read_infiniband(tmp_path / "sys") == {"mlx5_0/1": network.Traffic(100, 200, 3, 4, 1, 0)}
    assert disk.read_disks(proc, tmp_path / "sys") == {"sda": (51200, 102400)}
    assert pressure.read_pressure(proc) == {("cpu", "some"): 1.5, ("memory", "some"): 1e-5, ("memory", "full"): 2e-5}


@pytest.mark.parametrize(
    "read",
    [
        host.read_cpu,
        host.read_memory,
        pressure.read_pressure,
        network.read_interfaces,
        network.read_infiniband,
        disk.read_disks,
    ],
)
def test_a_kernel_that_does_not_tell_is_no_fault(read: Callable[[Path], Any], tmp_path: Path) -> None:
    assert read(tmp_path) == {}


# -- through the agent --------------------------------------------------------------------------------------

BUSY = """
import sys, time, aiobs
from aiobs import recorder
aiobs.init()
time.sleep(1)  # until the agent is there
with recorder.start_span("request", kind=2, root=True):
    until = time.process_time() + 3
    while time.process_time() < until:
        pass
    time.sleep(0.7)
with recorder.start_span("short", kind=2, root=True):
    pass
print("done", flush=True)
sys.stdin.readline()
"""


def record(code: str, folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": root, "AIOBS_RUN_DIR": str(folder / "run"), "AIOBS_AGENT_LINGER": "0", **variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def finished(runtime_dir: Path) -> None:
    deadline = time.monotonic() + 20
    while any((runtime_dir / "records").glob("*.fr")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_recorded_process_has_its_cpu_time_and_metrics_and_the_host_its_own(
    tmp_path: Path, runtime_dir: Path, read_run: Callable[[Path], Any]
) -> None:
    process = record(BUSY, tmp_path, AIOBS_HOST_PERIOD="1")
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    process.communicate("\n", timeout=20)
    finished(runtime_dir)
    told = read_run(tmp_path / "run")
    request = told.one("request")["attributes"]
    # A reading a second: of the interval in which the work began a quarter of a second may be laid elsewhere.
    assert request["aiobs.process.cpu.duration"] == pytest.approx(3, abs=0.3)
    assert request["aiobs.process.memory.peak"] > 1 << 20
    assert not any(key.startswith("aiobs.process.cpu") for key in told.one("short")["attributes"])
    assert not any("gpu" in key for span in told.spans for key in span["attributes"])
    assert told.last("process.cpu.time", cpu__mode="user") > 0
    assert told.last("process.thread.count") >= 1
    assert told.last("system.memory.limit") > 1 << 20
    assert told.last("system.cpu.time", cpu__mode="idle") > 0
    assert "hw.energy" not in told.points


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup v1 memory group of 64 MiB."""
    groups = [group for group in cgroups.find_groups(os.getpid(), "memory") if not group.unified]
    if not groups:
        pytest.skip("needs cgroup v1 with the memory controller")
    group = groups[0].path / f"aiobs-host-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"needs the right to make control groups: {error}")
    yield group
    deadline = time.monotonic() + 5
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_oom_kill_beside_a_process_is_an_event_of_its_open_span(
    memory_group: Path, tmp_path: Path, runtime_dir: Path, read_run: Callable[[Path], Any]
) -> None:
    """A worker is killed for lack of memory; the process that lives on tells when that was."""
    code = """
        import os, subprocess, sys, time, aiobs
        from pathlib import Path
        aiobs.init()
        with aiobs.span("before"):
            pass
        with aiobs.span("hit"):
            Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
            print("in", flush=True)
            sys.stdin.readline()
            hungry = "held = []\\nwhile True: held.append(bytearray(1 << 20))"
            worker = subprocess.Popen([sys.executable, "-c", hungry], env={})
            Path("/proc", str(worker.pid), "oom_score_adj").write_text("1000")
            worker.wait()
            print("killed", worker.returncode, flush=True)
            sys.stdin.readline()
    """
    process = record(code, tmp_path, str(memory_group), AIOBS_HOST_PERIOD="1")
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "in\n"
    time.sleep(1.2)  # the agent looks once a second, and counts from what it saw first
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "killed -9\n"
    time.sleep(1.3)
    process.communicate("\n", timeout=20)
    finished(runtime_dir)
    told = read_run(tmp_path / "run")

    def kills(name: str) -> list[str]:
        return [event["name"] for event in told.one(name).get("events", []) if event["name"] == "aiobs.oom_kill"]

    assert kills("hit") == kills("process") == ["aiobs.oom_kill"]
    assert kills("before") == []
    assert [log for log in told.logs if log.get("eventName") == "aiobs.oom_kill"]
