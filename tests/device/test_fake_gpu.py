"""The fake library itself: what tests and demonstrations rely on."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiobs.device.fake import with_library
from aiobs.device.fake.build import build
from aiobs.device.fake.layout import FUNCTIONS, STRUCTURES
from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary
from aiobs.errors import SettingError

ROOT = Path(__file__).parents[2]


def elsewhere(gpus: FakeGpus, code: str) -> subprocess.Popen[str]:
    """Run `code` in a process that finds the fake library by its path, with pynvml as ``nvml``."""
    folder = gpus.path.parent
    environment = with_library({**os.environ, "AIOBS_FAKE_GPU": str(gpus.path), "PYTHONPATH": str(ROOT)})
    assert environment["LD_LIBRARY_PATH"].startswith(str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", f"import pynvml as nvml\n{code}"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def apart(gpus: FakeGpus, fake_library: Path) -> FakeGpus:
    """The two GPUs, with the library beside their state."""
    (gpus.path.parent / fake_library.name).write_bytes(fake_library.read_bytes())
    return gpus


def test_the_library_exports_what_the_table_lists(fake_library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", fake_library], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no nm")
    assert set(re.findall(r" T (\w+)", listed.stdout)) == set(FUNCTIONS)


def test_calls_are_counted_by_function_and_process(apart: FakeGpus) -> None:
    process = elsewhere(apart, "nvml.nvmlInit()\nfor _ in range(3): nvml.nvmlDeviceGetCount()\nprint('done')")
    said, problem = process.communicate(timeout=30)
    assert said == "done\n", problem
    assert apart.calls(process.pid) == {"nvmlInitWithFlags": 1, "nvmlDeviceGetCount_v2": 3}
    assert apart.calls(os.getpid()) == {}
    assert apart.callers() == {process.pid}


def test_a_process_without_the_path_makes_no_call(apart: FakeGpus) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert with_library({"A": "b"}) == {"A": "b"}
    code = "import pynvml\ntry: pynvml.nvmlInit()\nexcept pynvml.NVMLError as e: print(e.value)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if done.stdout == "":
        pytest.skip("this machine has a real NVML")
    assert apart.callers() == set()


def test_a_hanging_call_hangs_until_released(gpus: FakeGpus, library: NvmlLibrary) -> None:
    device = library.devices()[0]
    gpus.hang("nvmlDeviceGetUtilizationRates", gpus.gpus[0])
    threading.Timer(0.1, gpus.mend).start()
    begin = time.monotonic()
    assert library.devices()[1].read("fast").values
    assert time.monotonic() - begin < 0.09
    device.read("fast")
    assert 0.09 < time.monotonic() - begin < 5


def test_a_process_hanging_in_the_driver_can_be_killed(apart: FakeGpus) -> None:
    apart.hang("nvmlDeviceGetCount_v2")
    process = elsewhere(apart, "nvml.nvmlInit()\nprint('in', flush=True)\nnvml.nvmlDeviceGetCount()")
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("code", [*range(1, 31), 999])
def test_every_error_of_nvml_can_be_had(gpus: FakeGpus, library: NvmlLibrary, code: int) -> None:
    import pynvml

    gpus.fail("nvmlDeviceGetCount_v2", code)
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlDeviceGetCount()
    assert caught.value.value == code
    gpus.mend()
    assert pynvml.nvmlDeviceGetCount() == 2


def test_energy_stays_whole_while_power_changes(gpus: FakeGpus, library: NvmlLibrary) -> None:
    """A reader in another thread sees power and energy of one moment: the counter never goes back or leaps."""
    import pynvml

    gpu, handle = gpus.gpus[0], pynvml.nvmlDeviceGetHandleByIndex(0)
    stop = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not stop.is_set():
            seen.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, energy = time.monotonic(), gpu.energy_joules
    turn = 0
    while len(seen) < 200 and time.monotonic() < begin + 10:
        turn += 1
        gpu.power_watts = 100 if turn % 2 else 700
    stop.set()
    watcher.join()
    took = time.monotonic() - begin
    assert seen == sorted(seen) and len(seen) >= 200
    assert 70 * took <= gpu.energy_joules - energy + 1 and gpu.energy_joules - energy <= 700 * took + 1


def test_a_power_limit_holds_power_and_clocks_down_and_says_so(gpus: FakeGpus, library: NvmlLibrary) -> None:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    gpu = gpus.gpus[0]
    gpu.power_watts = 600
    gpu.set(clock_sm_mhz=1800, reasons=0)
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [200_000, 700_000]
    pynvml.nvmlDeviceSetPowerManagementLimit(handle, 300_000)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == 300_000
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 300_000
    assert pynvml.nvmlDeviceGetClockInfo(handle, 1) == 900
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, 1) == 1800
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 4
    pynvml.nvmlDeviceSetPowerManagementLimit(handle, 700_000)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 600_000
    assert pynvml.nvmlDeviceGetClockInfo(handle, 1) == 1800
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before >= 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 100_000)


def test_a_new_state_is_taken_up_at_the_next_init(apart: FakeGpus) -> None:
    import pynvml

    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    FakeGpus.create(apart.path.parent, 5)
    assert pynvml.nvmlDeviceGetCount() == 2
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 5
    pynvml.nvmlShutdown()


def test_mistakes_are_named(gpus: FakeGpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no function nvmlFly"):
        gpus.fail("nvmlFly", 1)
    with pytest.raises(ValueError, match="16 fake GPUs, not 17"):
        FakeGpus.create(tmp_path, 17)
    with pytest.raises(AttributeError):
        gpus.gpus[0].set(mood=1)
    with pytest.raises(ValueError, match="16 processes at most"):
        gpus.gpus[0].set_processes(dict.fromkeys(range(1, 18), 0))
    (tmp_path / "junk").write_bytes(b"x" * ctypes.sizeof(STRUCTURES["State"]))
    for wrong in ("junk", "missing"):
        with pytest.raises(SettingError, match="AIOBS_FAKE_GPU"):
            FakeGpus(tmp_path / wrong)


def test_a_state_of_another_version_is_refused_by_the_library(gpus: FakeGpus) -> None:
    import pynvml

    gpus.state.version += 1
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlInit()
    assert caught.value.value == 18


@pytest.mark.parametrize(
    ("compiler", "says"), [("no-such-cc", "install gcc or clang"), ("false", "cannot be compiled")]
)
def test_without_a_compiler_the_remedy_is_named(tmp_path: Path, monkeypatch: Any, compiler: str, says: str) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(SettingError, match=says):
        build(tmp_path)
    assert not list(tmp_path.iterdir())
