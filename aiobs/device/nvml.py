"""NVIDIA GPUs through NVML: the only place that imports pynvml (the package nvidia-ml-py)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiobs.device.absence import Absence
from aiobs.device.base import Device, DeviceEvent, Identity
from aiobs.device.fake import PREFIX
from aiobs.device.nvml_device import NvmlDevice
from aiobs.device.nvml_errors import (
    DRIVER_NOT_LOADED,
    LIBRARY_NOT_FOUND,
    MISMATCH,
    NO_PERMISSION,
    error,
    meaning,
)
from aiobs.device.nvml_events import NvmlEvents
from aiobs.errors import DeviceError, NotEnabledError
from aiobs.guard import say_once

VENDOR = "nvidia"
_REMEDIES = {
    LIBRARY_NOT_FOUND: "in a container, start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's libraries",
    DRIVER_NOT_LOADED: "load the driver (modprobe nvidia), or start the container with its GPUs (--gpus all)",
    MISMATCH: "the driver was updated under a running system: reboot, or reload the nvidia kernel modules; restart the container",
    NO_PERMISSION: "let this user read and write /dev/nvidiactl and /dev/nvidia*",
}


def require() -> Any:
    """The module pynvml.

    Raises:
        NotEnabledError: it is not installed.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise NotEnabledError("nvidia-ml-py", "gpu") from None
    return pynvml


def open_library(root: Path = Path("/")) -> NvmlLibrary | Absence:
    """NVML, opened, or why it cannot be.

    Args:
        root: where the system's files are looked for.
    """
    hardware = (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists()
    try:
        nvml = require()
    except NotEnabledError as missing:
        return Absence(VENDOR, str(missing), "pip install 'aiobs-sdk[gpu]'", worth_saying=hardware)
    if not hasattr(nvml, "c_nvmlFieldValue_t") or not hasattr(nvml, "c_nvmlMemory_v2_t"):
        reason = f"pynvml {getattr(nvml, '__version__', '')} is too old, or another package of that name"
        return Absence(VENDOR, reason, "pip uninstall pynvml nvidia-ml-py3; pip install 'aiobs-sdk[gpu]'", worth_saying=hardware)  # fmt: skip
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as refused:
        # Without hardware, a library without a driver is what CUDA's container images have: no news.
        worth = hardware or refused.value not in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)
        return Absence(VENDOR, meaning(refused.value), _REMEDIES.get(refused.value, ""), worth_saying=worth)
    library = NvmlLibrary(nvml)
    try:
        there = library.devices()
    except DeviceError as refused:
        library.close()
        return Absence(VENDOR, str(refused), _REMEDIES.get(refused.code, ""), worth_saying=True)
    if not there:
        library.close()
        held = any((root / "proc/driver/nvidia/gpus").glob("*"))
        return Absence(VENDOR, "the driver shows no GPU to us", "give the container its GPUs (--gpus all)", worth_saying=held)  # fmt: skip
    return library


class NvmlLibrary:
    """See :class:`aiobs.device.base.DeviceLibrary`; NVML must have been initialised, and is ours to shut down."""

    vendor = VENDOR

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._pid = os.getpid()
        self._closed = False
        self._devices: list[NvmlDevice] = []
        self._events: NvmlEvents | None = None
        self._no_events = ""
        self._unreadable: list[str] = []

    @property
    def problems(self) -> Sequence[str]:
        """See :attr:`aiobs.device.base.DeviceLibrary.problems`."""
        found = list(self._unreadable)
        if self._no_events:
            found.append(f"no events (XIDs, ECC): {self._no_events}")
        if self._events is not None:
            found += [f"no events of {name}: {why}" for name, why in self._events.refused.items()]
        return found

    def devices(self) -> list[Device]:
        """See :meth:`aiobs.device.base.DeviceLibrary.devices`; a GPU that is lost already is left out, and said."""
        nvml = self._nvml
        try:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as refused:
            raise error("", refused.value) from refused
        self._unreadable = []
        whole: list[NvmlDevice] = []
        instances: list[NvmlDevice] = []
        for index in range(count):
            try:
                device = self._device(nvml.nvmlDeviceGetHandleByIndex(index), index, driver)
                whole.append(device)
                instances += self._instances(device, driver)
            except nvml.NVMLError as refused:
                self._unreadable.append(f"GPU {index} cannot be read: {meaning(refused.value)}")
        self._devices = [*whole, *instances]
        self._forget_events()
        return list(self._devices)

    def wait_events(self, timeout_s: float) -> list[DeviceEvent]:
        """See :meth:`aiobs.device.base.DeviceLibrary.wait_events`."""
        if self._events is None and not self._no_events:
            try:
                self._events = NvmlEvents(self._nvml, self._devices)
            except DeviceError as refused:
                self._no_events = str(refused)
                say_once("device.nvml.events", "aiobs: the driver's events (XIDs, ECC) cannot be had: %s", refused)
        if self._events is None:
            time.sleep(timeout_s)
            return []
        return self._events.wait(timeout_s)

    def close(self) -> None:
        """See :meth:`aiobs.device.base.DeviceLibrary.close`; in a forked child nothing is touched."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            self._forget_events()
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return

    def _forget_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        self._no_events = ""

    def _device(self, handle: Any, index: int, driver: str) -> NvmlDevice:
        nvml = self._nvml
        name = _text(nvml.nvmlDeviceGetName(handle))
        identity = Identity(
            id=_text(nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            name=name,
            vendor=VENDOR,
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            driver=driver,
            pci=_text(nvml.nvmlDeviceGetPciInfo(handle).busId).lower(),
            fake=name.startswith(PREFIX),
        )
        return NvmlDevice(nvml, handle, identity)

    def _instances(self, gpu: NvmlDevice, driver: str) -> list[NvmlDevice]:
        nvml, found = self._nvml, list[NvmlDevice]()
        try:
            if not nvml.nvmlDeviceGetMigMode(gpu.handle)[0]:
                return found
            most = nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)
        except nvml.NVMLError:
            return found  # no such thing on this GPU, or with this driver
        for number in range(most):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, number)
                identity = Identity(
                    id=_text(nvml.nvmlDeviceGetUUID(handle)),
                    index=gpu.identity.index,
                    name=_text(nvml.nvmlDeviceGetName(handle)),
                    vendor=VENDOR,
                    memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                    parent=gpu.identity.id,
                    driver=driver,
                    pci=gpu.identity.pci,
                    fake=gpu.identity.fake,
                )
                instance = (nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle))
                found.append(NvmlDevice(nvml, handle, identity, instance))
            except nvml.NVMLError:
                continue  # this place is empty
        return found


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
