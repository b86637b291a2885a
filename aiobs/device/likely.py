"""Whether it is worth while to look for devices, found out without touching any driver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aiobs.device.fake import VARIABLE

_PLACES = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg", "dev/kfd")
_METERS = "sys/class/drm/card*/device/hwmon/hwmon*/energy1_input"


def likely(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether there seem to be GPUs on this host, or made-up ones in this environment."""
    if environment.get(VARIABLE) or any((root / place).exists() for place in _PLACES):
        return True
    return any(root.glob(_METERS))
