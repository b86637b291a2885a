"""GPUs of AMD and Intel, against stand-ins for their documented interfaces."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from aiobs.device import amd, intel
from aiobs.device import quantities as q
from aiobs.device.absence import Absence
from aiobs.device.base import FAST, FATAL, LOST, RECOVERED, SLOW
from aiobs.errors import DeviceError, DeviceLostError

from .stand_ins import DRM_ERROR, NO_PERM, NOT_FOUND, NOT_SUPPORTED, TIMEOUT, Amd, IntelFiles


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Amd:
    """AMD's library with two GPUs."""
    module = Amd()
    monkeypatch.setitem(sys.modules, "amdsmi", module)
    return module


def amd_library(root: Path) -> amd.AmdLibrary:
    opened = amd.open_library(root)
    assert isinstance(opened, amd.AmdLibrary)
    return opened


def test_an_amd_gpu_is_read(smi: Amd, tmp_path: Path) -> None:
    library = amd_library(tmp_path)
    first, second = library.devices()
    assert first.identity.name == "AMD Instinct MI300X" and first.identity.pci == "0000:00:00.0"
    assert first.identity.id.startswith("GPU-") and first.identity.id != second.identity.id
    assert first.identity.memory_bytes == 196_592 << 20
    assert first.read(FAST).values == {
        q.UTILIZATION: 0.5, q.MEMORY_BANDWIDTH: 0.2, q.MEMORY_USED: 1 << 30, q.MEMORY_LIMIT: 196_592 << 20,
        q.MEMORY_UTILIZATION: 1024 / 196_592, q.POWER: 300, q.ENERGY: pytest.approx(15.26), q.TEMPERATURE: 61,
        q.TEMPERATURE_MEMORY: 62, q.CLOCK_SM: 2.1e9, q.CLOCK_MEMORY: 2.1e9,
    }  # fmt: skip
    assert first.read(SLOW).values == {q.ECC_CORRECTED: 3, q.ECC_UNCORRECTED: 1, q.PCIE_REPLAYS: 2}
    smi.gpus[0].processes = [{"pid": 77, "mem": 1, "memory_usage": {"vram_mem": 4096}}]
    assert first.processes() == {77: 4096}


def test_what_amd_says_is_not_available_is_left_out(smi: Amd, tmp_path: Path) -> None:
    device = amd_library(tmp_path).devices()[0]
    smi.gpus[0].gfx_activity = smi.gpus[0].power = "N/A"
    smi.gpus[0].failing["ecc"] = NOT_SUPPORTED
    smi.gpus[0].failing["clock GFX"] = NO_PERM
    for _ in range(2):
        values = device.read(FAST).values
        assert not {q.UTILIZATION, q.POWER, q.CLOCK_SM} & set(values)
        assert q.ECC_CORRECTED not in device.read(SLOW).values
    assert smi.gpus[0].calls.count("ecc") == smi.gpus[0].calls.count("clock GFX") == 1


def test_amd_errors_are_told_apart(smi: Amd, tmp_path: Path) -> None:
    device = amd_library(tmp_path).devices()[0]
    smi.gpus[0].failing[""] = TIMEOUT
    with pytest.raises(DeviceError) as caught:
        device.read(FAST)
    assert not isinstance(caught.value, DeviceLostError)
    for code in (NOT_FOUND, DRM_ERROR):
        smi.gpus[0].failing[""] = code
        with pytest.raises(DeviceLostError):
            device.read(FAST)
        with pytest.raises(DeviceLostError):
            device.processes()


def test_amd_events(smi: Amd, tmp_path: Path) -> None:
    library = amd_library(tmp_path)
    names = [device.identity.id for device in library.devices()]
    assert library.wait_events(0.01) == []
    threading.Timer(0.02, smi.happen, (1, "GPU_PRE_RESET")).start()
    (event,) = library.wait_events(5)
    assert (event.device, event.kind, event.severity) == (names[1], LOST, FATAL)
    smi.happen(1, "GPU_POST_RESET")
    assert [event.kind for event in library.wait_events(5)] == [RECOVERED]
    library.close()


def test_amd_without_events_says_so(smi: Amd, tmp_path: Path) -> None:
    library = amd_library(tmp_path)
    smi.gpus[0].failing["AmdSmiEventReader"] = NO_PERM
    assert library.wait_events(0.01) == []
    assert library.problems


def test_no_driver_of_amds(smi: Amd, tmp_path: Path) -> None:
    smi.refuse_init = 51
    absent = amd.open_library(tmp_path)
    assert isinstance(absent, Absence) and not absent.worth_saying
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    absent = amd.open_library(tmp_path)
    assert isinstance(absent, Absence) and absent.worth_saying and absent.remedy
    smi.refuse_init, smi.handles = 0, []
    absent = amd.open_library(tmp_path)
    assert isinstance(absent, Absence) and "/dev/kfd" in absent.remedy
    assert smi.shut == smi.opened == 1


def test_an_intel_gpu_is_read(tmp_path: Path) -> None:
    files = IntelFiles(tmp_path)
    library = intel.open_library(tmp_path)
    assert isinstance(library, intel.IntelLibrary)
    (device,) = library.devices()
    assert device.identity.pci == "0000:03:00.0" and "0x56c0" in device.identity.name
    assert device.read(FAST).values == {
        q.ENERGY: 5.0, q.TEMPERATURE: 48, q.TEMPERATURE_MEMORY: 52, q.CLOCK_SM: 2.05e9,
    }  # fmt: skip
    files.write(files.monitor / "energy1_input", 7_500_000)
    assert device.read(FAST).values[q.ENERGY] == 7.5
    assert device.processes() == {} and library.problems
    files.vanish()
    with pytest.raises(DeviceLostError):
        device.read(FAST)


def test_unreadable_files_of_intels(tmp_path: Path) -> None:
    files = IntelFiles(tmp_path)
    library = intel.open_library(tmp_path)
    assert isinstance(library, intel.IntelLibrary)
    (device,) = library.devices()
    files.write(files.monitor / "energy1_input", "garbage")
    assert q.ENERGY not in device.read(FAST).values
    for path in (*files.monitor.glob("*_input"), *files.device.rglob("act_freq")):
        files.write(path, "")
    with pytest.raises(DeviceError, match="cannot be read"):
        device.read(FAST)


def test_graphics_inside_a_processor_are_no_gpu_of_ours(tmp_path: Path) -> None:
    files = IntelFiles(tmp_path)
    (files.monitor / "energy1_input").unlink()
    absent = intel.open_library(tmp_path)
    assert isinstance(absent, Absence) and not absent.worth_saying
    files.write(files.device / "vendor", "0x1002")
    assert isinstance(intel.open_library(tmp_path), Absence)
