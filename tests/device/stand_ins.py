"""Stand-ins for what no machine of ours has: a fake NVML, AMD's library as its documentation describes it, Intel's
files."""

from __future__ import annotations

import atexit
import ctypes
import enum
import functools
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from aiobs.device.fake.build import build

NOT_SUPPORTED, TIMEOUT, NO_PERM, DRM_ERROR, NOT_FOUND = 2, 8, 10, 6, 31


@functools.cache
def loaded_fake() -> Path:
    """The fake NVML, compiled and loaded into this process, where pynvml finds it by its name from now on."""
    folder = Path(tempfile.mkdtemp(prefix="aiobs-fake-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = build(folder)
    ctypes.CDLL(str(path))
    return path


def fake_is_loaded() -> bool:
    """Whether :func:`loaded_fake` was called in this process, which then has no other NVML any more."""
    return loaded_fake.cache_info().currsize > 0


class AmdSmiException(Exception):  # noqa: N818 - the name it has in amdsmi
    """Root of amdsmi's exceptions."""


class AmdSmiLibraryException(AmdSmiException):
    """With the status of the C library, as in amdsmi 7."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = abs(err_code)

    def __str__(self) -> str:
        return f"Error code:\n\t{self.err_code} | AMDSMI_STATUS"


class AmdSmiTemperatureType(enum.IntEnum):
    EDGE, HOTSPOT, VRAM = 0, 1, 2


class AmdSmiTemperatureMetric(enum.IntEnum):
    CURRENT = 0


class AmdSmiClkType(enum.IntEnum):
    GFX, MEM = 0, 4


class AmdSmiEvtNotificationType(enum.IntEnum):
    VMFAULT, THERMAL_THROTTLE, GPU_PRE_RESET, GPU_POST_RESET = 1, 2, 3, 4


@dataclass
class AmdGpu:
    """What one GPU of the stand-in answers."""

    number: int
    gfx_activity: Any = 50
    power: Any = 300
    energy: int = 1_000_000
    vram_used: int = 1024
    failing: dict[str, int] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)


class Amd(ModuleType):
    """The module ``amdsmi``, with `count` GPUs."""

    def __init__(self, count: int = 2) -> None:
        super().__init__("amdsmi")
        self.gpus = [AmdGpu(number) for number in range(count)]
        self.handles = [ctypes.c_void_p(0x1000 + number) for number in range(count)]
        self.opened = 0
        self.shut = 0
        self.refuse_init = 0
        self.news: list[dict[str, Any]] = []
        self.arrived = threading.Event()
        outer = self

        class AmdSmiEventReader:
            def __init__(self, processor_handle: Any, event_types: list[AmdSmiEvtNotificationType]) -> None:
                outer._gpu(processor_handle, "AmdSmiEventReader")
                assert all(isinstance(kind, AmdSmiEvtNotificationType) for kind in event_types)

            def read(self, timestamp: int, num_elem: int = 10) -> list[dict[str, Any]]:
                assert isinstance(timestamp, int)
                if not outer.arrived.wait(timestamp / 1000):
                    raise AmdSmiLibraryException(TIMEOUT)
                outer.arrived.clear()
                taken, outer.news = outer.news[:num_elem], outer.news[num_elem:]
                return taken

            def stop(self) -> None:
                pass

        self.AmdSmiEventReader = AmdSmiEventReader
        for kind in (AmdSmiException, AmdSmiLibraryException, AmdSmiTemperatureType, AmdSmiTemperatureMetric, AmdSmiClkType, AmdSmiEvtNotificationType):  # fmt: skip
            setattr(self, kind.__name__, kind)

    def happen(self, number: int, event: str) -> None:
        """Report an event of GPU `number`."""
        handle = ctypes.c_void_p(self.handles[number].value)
        self.news.append({"processor_handle": handle, "event": event, "message": ""})
        self.arrived.set()

    def _gpu(self, handle: Any, call: str) -> AmdGpu:
        if not isinstance(handle, ctypes.c_void_p):
            raise AmdSmiException("Invalid parameter")
        gpu = self.gpus[handle.value - 0x1000]  # type: ignore[operator]
        gpu.calls.append(call)
        code = gpu.failing.get(call) or gpu.failing.get("", 0)
        if code:
            raise AmdSmiLibraryException(code)
        return gpu

    def amdsmi_init(self) -> None:
        if self.refuse_init:
            raise AmdSmiLibraryException(self.refuse_init)
        self.opened += 1

    def amdsmi_shut_down(self) -> None:
        self.shut += 1

    def amdsmi_get_processor_handles(self) -> list[ctypes.c_void_p]:
        return list(self.handles)

    def amdsmi_get_gpu_device_uuid(self, handle: Any) -> str:
        return f"beef74a1-0000-1000-80{self._gpu(handle, 'uuid').number:02x}-000000000000"

    def amdsmi_get_gpu_asic_info(self, handle: Any) -> dict[str, Any]:
        self._gpu(handle, "asic")
        return {"market_name": "AMD Instinct MI300X", "asic_serial": "0x0123456789ABCDEF"}

    def amdsmi_get_gpu_driver_info(self, handle: Any) -> dict[str, Any]:
        self._gpu(handle, "driver")
        return {"driver_name": "amdgpu", "driver_version": "6.10.5", "driver_date": "N/A"}

    def amdsmi_get_gpu_device_bdf(self, handle: Any) -> str:
        return f"0000:{self._gpu(handle, 'bdf').number:02X}:00.0"

    def amdsmi_get_gpu_activity(self, handle: Any) -> dict[str, Any]:
        gpu = self._gpu(handle, "activity")
        return {"gfx_activity": gpu.gfx_activity, "umc_activity": 20, "mm_activity": "N/A"}

    def amdsmi_get_gpu_vram_usage(self, handle: Any) -> dict[str, Any]:
        return {"vram_total": 196_592, "vram_used": self._gpu(handle, "vram").vram_used}

    def amdsmi_get_power_info(self, handle: Any) -> dict[str, Any]:
        power = self._gpu(handle, "power").power
        return {"socket_power": power, "current_socket_power": power, "average_socket_power": "N/A", "power_limit": 750}

    def amdsmi_get_energy_count(self, handle: Any) -> dict[str, Any]:
        gpu = self._gpu(handle, "energy")
        return {"energy_accumulator": gpu.energy, "counter_resolution": 15.26, "timestamp": time.time_ns()}

    def amdsmi_get_temp_metric(self, handle: Any, sensor: Any, metric: Any) -> int:
        assert isinstance(sensor, AmdSmiTemperatureType) and isinstance(metric, AmdSmiTemperatureMetric)
        self._gpu(handle, f"temperature {sensor.name}")
        return 60 + int(sensor)

    def amdsmi_get_clock_info(self, handle: Any, kind: Any) -> dict[str, Any]:
        assert isinstance(kind, AmdSmiClkType)
        self._gpu(handle, f"clock {kind.name}")
        return {"clk": 2100, "min_clk": 500, "max_clk": 2100, "clk_locked": False, "clk_deep_sleep": "N/A"}

    def amdsmi_get_gpu_total_ecc_count(self, handle: Any) -> dict[str, Any]:
        self._gpu(handle, "ecc")
        return {"correctable_count": 3, "uncorrectable_count": 1, "deferred_count": 0}

    def amdsmi_get_pcie_info(self, handle: Any) -> dict[str, Any]:
        self._gpu(handle, "pcie")
        return {"pcie_static": {}, "pcie_metric": {"pcie_replay_count": 2}}

    def amdsmi_get_gpu_process_list(self, handle: Any) -> list[dict[str, Any]]:
        return self._gpu(handle, "processes").processes


class IntelFiles:
    """The files of one GPU of Intel's under `root`, as the driver xe lays them out."""

    def __init__(self, root: Path) -> None:
        self.device = root / "sys/devices/pci0000:00/0000:03:00.0"
        self.monitor = self.device / "hwmon/hwmon4"
        self.monitor.mkdir(parents=True)
        self.card = root / "sys/class/drm/card1"
        self.card.mkdir(parents=True)
        (root / "sys/class/drm/card1-DP-1").mkdir()
        (self.card / "device").symlink_to(self.device)
        clock = self.device / "tile0/gt0/freq0"
        clock.mkdir(parents=True)
        self.write(self.device / "vendor", "0x8086")
        self.write(self.device / "device", "0x56c0")
        self.write(self.monitor / "name", "xe")
        self.write(self.monitor / "energy1_input", 5_000_000)
        for number, (label, degrees) in enumerate((("pkg", 48_000), ("vram", 52_000)), start=2):
            self.write(self.monitor / f"temp{number}_label", label)
            self.write(self.monitor / f"temp{number}_input", degrees)
        self.write(clock / "act_freq", 2050)

    def write(self, path: Path, value: object) -> None:
        """Let a file say `value`."""
        path.write_text(f"{value}\n")

    def vanish(self) -> None:
        """Take the device away, as the kernel does."""
        (self.card / "device").unlink()
