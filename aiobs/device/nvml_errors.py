"""NVML's error numbers: what each means for who reads a device."""

from __future__ import annotations

from collections.abc import Mapping

from aiobs.errors import DeviceError, DeviceLostError

SUCCESS, TIMEOUT, GPU_IS_LOST = 0, 10, 15
LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, NO_PERMISSION, MISMATCH = 12, 9, 4, 18

ABSENT, PASSING, LOST, REFUSED = "absent", "passing", "lost", "refused"
"""The device or driver has no such thing; not this time, it may work the next; the device is gone; the library
as a whole cannot be used."""

CODES: Mapping[int, tuple[str, str]] = {
    1: (REFUSED, "NVML is not initialised"),
    2: (ABSENT, "an argument was not accepted"),
    3: (ABSENT, "not supported by this device"),
    4: (ABSENT, "no permission"),
    6: (ABSENT, "not found"),
    7: (PASSING, "the answer had no room"),
    8: (PASSING, "the external power cables are not attached properly"),
    9: (REFUSED, "the driver is not loaded"),
    10: (PASSING, "the driver did not answer in time"),
    11: (PASSING, "the kernel has a problem with the device's interrupts"),
    12: (REFUSED, "libnvidia-ml.so.1 was not found"),
    13: (ABSENT, "this driver does not have the function"),
    14: (ABSENT, "the device's infoROM is corrupted"),
    15: (LOST, "it has fallen off the bus or cannot be reached"),
    16: (LOST, "it must be reset before it can be used again"),
    17: (PASSING, "the operating system blocked the request"),
    18: (REFUSED, "the NVML library and the loaded driver are of different versions"),
    19: (PASSING, "it is in use"),
    20: (PASSING, "the driver has no memory left"),
    21: (PASSING, "there is no data yet"),
    22: (ABSENT, "vGPU's ECC is not supported"),
    23: (PASSING, "the driver lacks resources"),
    24: (ABSENT, "the frequency is not supported"),
    25: (ABSENT, "this driver does not know the structure's version"),
    26: (ABSENT, "the function is deprecated"),
    27: (PASSING, "it is not ready"),
    28: (LOST, "there is no such GPU any more"),
    29: (PASSING, "it is in the wrong state"),
    30: (ABSENT, "this kind of reset is not supported"),
    999: (PASSING, "the driver reports an internal error"),
}
"""Outcome and meaning by number; a number that is not here passes."""


def outcome(code: int) -> str:
    """ABSENT, PASSING, LOST or REFUSED."""
    return CODES.get(code, (PASSING, ""))[0]


def meaning(code: int) -> str:
    """One clause for people."""
    return CODES.get(code, ("", f"NVML's error {code}"))[1]


def error(device: str, code: int) -> DeviceError:
    """What to raise for `code`."""
    kind = DeviceLostError if outcome(code) == LOST else DeviceError
    return kind(device, f"{meaning(code)} (NVML error {code})", code)
