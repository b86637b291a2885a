"""What NVIDIA's driver reports by itself: XIDs, uncorrectable memory errors, GPUs that fall off the bus."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiobs.clock import monotonic_ns
from aiobs.device import xid
from aiobs.device.base import ECC, FATAL, LOST, OTHER, RECOVERED, WARNING, XID, DeviceEvent
from aiobs.device.nvml_device import NvmlDevice
from aiobs.device.nvml_errors import LOST as IS_LOST
from aiobs.device.nvml_errors import SUCCESS, TIMEOUT, error, meaning, outcome
from aiobs.names import GPU_RECOVERY_ACTION

_XID = 0x8
_KINDS: Mapping[int, tuple[str, str, str, str]] = {
    0x2: (ECC, "An uncorrectable memory error happened on the GPU.", FATAL, "Restart the job; reset the GPU."),
    0x100: (OTHER, "The division of the GPU into instances (MIG) changed.", WARNING, ""),
    0x200: (ECC, "Correctable memory errors come in great numbers.", WARNING, "Watch the GPU; run its diagnostics."),
    0x400: (ECC, "A part of the GPU's memory was taken out of use.", WARNING, "Reset the GPU when it is idle."),
    0x800: (ECC, "A part of the GPU's memory could not be taken out of use.", FATAL, "Have the GPU replaced."),
    0x1000: (ECC, "Bad memory was read; the error was contained.", WARNING, "Restart the job if it failed."),
    0x2000: (ECC, "Bad memory was read; the error was not contained.", FATAL, "Restart the job; reset the GPU."),
    0x4000: (LOST, "The GPU became unavailable.", FATAL, "Reset the GPU or reboot the node."),
    0x8000: (OTHER, "The driver asks for the GPU to be recovered.", WARNING, f"See the metric {GPU_RECOVERY_ACTION}."),
}  # fmt: skip
"""What NVML's event types are, by bit, without XIDs."""
WANTED = _XID | sum(_KINDS)
_WHOLE_GPU = 0xFFFFFFFF
_MOST_AT_ONCE = 64
_LOOK_AGAIN_S = 5.0
"""How often a lost GPU is looked for."""


class NvmlEvents:
    """An event set over some devices, made anew when one is lost or comes back.

    Raises:
        DeviceError: the driver has no event sets for us.
    """

    def __init__(self, nvml: Any, devices: Sequence[NvmlDevice]) -> None:
        self._nvml = nvml
        self._whole = {device.identity.id: device for device in devices if device.instance is None}
        self._instances = {
            (device.identity.parent, device.instance): device.identity.id
            for device in devices
            if device.instance is not None
        }
        self._lost: dict[str, float] = {}
        self._set: Any = None
        self.refused: dict[str, str] = {}
        """Devices whose events cannot be had, and why."""
        self._listen()

    def wait(self, timeout_s: float) -> list[DeviceEvent]:
        """See :meth:`aiobs.device.base.DeviceLibrary.wait_events`."""
        until = time.monotonic() + timeout_s
        found = self._come_back()
        row = self._nvml.c_nvmlEventData_t()
        wait = self._nvml.nvmlLib.nvmlEventSetWait_v2
        while len(found) < _MOST_AT_ONCE:
            left_s = 0.0 if found else max(0.0, until - time.monotonic())
            code = wait(self._set, ctypes.byref(row), ctypes.c_uint(round(left_s * 1000)))
            if code == SUCCESS:
                found.append(self._event(row))
            elif code == TIMEOUT:
                break
            elif outcome(code) == IS_LOST:
                gone = self._find_lost(code)
                if not gone:
                    # The driver does not say which: do not ask it again and again.
                    time.sleep(max(0.0, until - time.monotonic()))
                    break
                found += gone
            else:
                raise error("", code)
        return found

    def close(self) -> None:
        """Free the set."""
        if self._set is not None:
            self._nvml.nvmlLib.nvmlEventSetFree(self._set)
            self._set = None

    def _listen(self) -> None:
        self.close()
        try:
            self._set = self._nvml.nvmlEventSetCreate()
        except self._nvml.NVMLError as refused:
            raise error("", refused.value) from refused
        for name, device in self._whole.items():
            if name in self._lost:
                continue
            try:
                supported = self._nvml.nvmlDeviceGetSupportedEventTypes(device.handle)
                self._nvml.nvmlDeviceRegisterEvents(device.handle, supported & WANTED, self._set)
                self.refused.pop(name, None)
            except self._nvml.NVMLError as refused:
                if outcome(refused.value) == IS_LOST:
                    self._lost[name] = time.monotonic()
                self.refused[name] = meaning(refused.value)

    def _event(self, row: Any) -> DeviceEvent:
        device = self._device(row)
        if row.eventType == _XID:
            known = xid.describe(row.eventData)
            return DeviceEvent(
                device, monotonic_ns(), XID, row.eventData, known.text, known.severity, known.action
            )  # fmt: skip
        kind, text, severity, action = _KINDS.get(
            row.eventType, (OTHER, f"The driver reported an event of type {row.eventType:#x}.", WARNING, "")
        )
        return DeviceEvent(device, monotonic_ns(), kind, row.eventType, text, severity, action)

    def _device(self, row: Any) -> str:
        address = ctypes.cast(row.device, ctypes.c_void_p).value
        for name, device in self._whole.items():
            if ctypes.cast(device.handle, ctypes.c_void_p).value == address:
                instance = (row.gpuInstanceId, row.computeInstanceId)
                return self._instances.get((name, instance), name) if instance[0] != _WHOLE_GPU else name
        return ""

    def _find_lost(self, code: int) -> list[DeviceEvent]:
        """The devices that have gone since we last looked; the others go on being listened to."""
        gone: list[DeviceEvent] = []
        for name, device in self._whole.items():
            if name not in self._lost and outcome(self._answers(device)) == IS_LOST:
                self._lost[name] = time.monotonic()
                gone.append(
                    DeviceEvent(name, monotonic_ns(), LOST, code, f"The GPU is lost: {meaning(code)}.", FATAL, "Reset the GPU or reboot the node; drain it if this comes again.")
                )  # fmt: skip
        if gone:
            self._listen()
        return gone

    def _answers(self, device: NvmlDevice) -> int:
        memory = self._nvml.c_nvmlMemory_t()
        return int(self._nvml.nvmlLib.nvmlDeviceGetMemoryInfo(device.handle, ctypes.byref(memory)))

    def _come_back(self) -> list[DeviceEvent]:
        back: list[DeviceEvent] = []
        now = time.monotonic()
        for name in [name for name, looked in self._lost.items() if now - looked >= _LOOK_AGAIN_S]:
            self._lost[name] = now
            if self._answers(self._whole[name]) == SUCCESS:
                del self._lost[name]
                back.append(DeviceEvent(name, monotonic_ns(), RECOVERED, 0, "The GPU answers again.", WARNING))
        if back:
            self._listen()
        return back
