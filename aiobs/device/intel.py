"""Intel GPUs through the kernel's files: the drivers i915 and xe publish energy, temperatures and clocks.

Documented in the kernel's ABI (sysfs-driver-intel-i915-hwmon, sysfs-driver-intel-xe-hwmon). Utilisation and
memory are not there. A discrete GPU of Intel's was never at hand.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiobs.clock import monotonic_ns
from aiobs.device import quantities as q
from aiobs.device.absence import Absence
from aiobs.device.base import FAST, PERIODS, Device, DeviceEvent, Identity, Reading
from aiobs.errors import DeviceError, DeviceLostError

VENDOR = "intel"
_PCI_VENDOR = "0x8086"
_DRIVERS = ("i915", "xe")
_MICRO, _MILLI, _MHZ = 1e-6, 1e-3, 1e6
_CLOCKS = ("device/tile0/gt0/freq0/act_freq", "gt/gt0/rps_act_freq_mhz", "gt_act_freq_mhz")
_SENSORS: Mapping[str, str] = {"pkg": q.TEMPERATURE, "vram": q.TEMPERATURE_MEMORY}
"""What the label of a temperature sensor stands for."""


def open_library(root: Path = Path("/")) -> IntelLibrary | Absence:
    """Intel's GPUs that publish energy, or why there are none; nothing about graphics inside a CPU is news."""
    library = IntelLibrary(root)
    if not library.devices():
        return Absence(VENDOR, "no GPU of Intel's publishes its energy here")
    return library


class IntelDevice:
    """See :class:`aiobs.device.base.Device`.

    Args:
        card: its folder in /sys/class/drm.
        sources: the files to read with key and factor, the best first where several have one key.
    """

    groups: Mapping[str, float] = {FAST: PERIODS[FAST]}

    def __init__(self, card: Path, identity: Identity, sources: Sequence[tuple[str, Path, float]]) -> None:
        self._card, self.identity, self._sources = card, identity, sources

    def read(self, group: str) -> Reading:
        """See :meth:`aiobs.device.base.Device.read`."""
        if group not in self.groups:
            raise KeyError(f"{self.identity.id} has no group {group!r}; there are {', '.join(self.groups)}")
        begin = monotonic_ns()
        values: dict[str, float] = {}
        refused: OSError | ValueError | None = None
        for key, path, factor in self._sources:
            try:
                values[key] = int(path.read_text("ascii")) * factor
            except (OSError, ValueError) as error:
                refused = error
        if refused is not None:
            if not (self._card / "device" / "vendor").exists():
                raise DeviceLostError(self.identity.id, f"{self._card} is gone") from refused
            if not values:
                raise DeviceError(self.identity.id, f"cannot be read: {refused}") from refused
        end = monotonic_ns()
        return Reading(group, begin + (end - begin) // 2, values, end - begin)

    def processes(self) -> Mapping[int, int]:
        """See :meth:`aiobs.device.base.Device.processes`: the kernel has no such list."""
        return {}


class IntelLibrary:
    """See :class:`aiobs.device.base.DeviceLibrary`."""

    vendor = VENDOR

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def problems(self) -> Sequence[str]:
        """See :attr:`aiobs.device.base.DeviceLibrary.problems`."""
        return ["no events, utilisation, memory and processes: the kernel does not publish them"]

    def devices(self) -> list[Device]:
        """See :meth:`aiobs.device.base.DeviceLibrary.devices`."""
        cards = [
            path for path in (self._root / "sys/class/drm").glob("card*") if re.fullmatch(r"card\d+", path.name)
        ]  # fmt: skip
        found: list[Device] = []
        for card in sorted(cards, key=lambda path: int(path.name[4:])):
            device = self._device(card, len(found))
            if device is not None:
                found.append(device)
        return found

    def wait_events(self, timeout_s: float) -> list[DeviceEvent]:
        """See :meth:`aiobs.device.base.DeviceLibrary.wait_events`: there are none."""
        time.sleep(timeout_s)
        return []

    def close(self) -> None:
        """See :meth:`aiobs.device.base.DeviceLibrary.close`: nothing is held."""

    def _device(self, card: Path, index: int) -> IntelDevice | None:
        if _text(card / "device/vendor") != _PCI_VENDOR:
            return None
        sources: list[tuple[str, Path, float]] = []
        for monitor in sorted((card / "device/hwmon").glob("hwmon*")):
            if _text(monitor / "name").startswith(_DRIVERS):
                sources += _monitor(monitor)
        if q.ENERGY not in {key for key, _, _ in sources}:
            return None
        clock = next((card / name for name in _CLOCKS if (card / name).exists()), None)
        if clock is not None:
            sources.append((q.CLOCK_SM, clock, _MHZ))
        pci = (card / "device").resolve().name
        number = _text(card / "device/device")
        driver = _text(self._root / "proc/sys/kernel/osrelease")
        name = f"Intel GPU {number}"
        # Without a serial number the place on the bus is what stays the same.
        return IntelDevice(card, Identity(f"GPU-{VENDOR}-{pci}", index, name, VENDOR, driver=driver, pci=pci), sources)


def _monitor(monitor: Path) -> list[tuple[str, Path, float]]:
    """Energy of the whole card (else of the package), power where it is published, temperatures by their labels."""
    found: list[tuple[str, Path, float]] = []
    for key, stem, factor in ((q.ENERGY, "energy", _MICRO), (q.POWER, "power", _MICRO)):
        path = next((p for p in (monitor / f"{stem}1_input", monitor / f"{stem}2_input") if p.exists()), None)
        if path is not None:
            found.append((key, path, factor))
    for label in sorted(monitor.glob("temp*_label")):
        key = _SENSORS.get(_text(label), "")
        if key:
            found.append((key, label.with_name(label.name.replace("_label", "_input")), _MILLI))
    if not any(key == q.TEMPERATURE for key, _, _ in found) and (monitor / "temp1_input").exists():
        found.append((q.TEMPERATURE, monitor / "temp1_input", _MILLI))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
