"""Which vendors' devices there are on this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aiobs.device import amd, intel, nvml
from aiobs.device.absence import Absence
from aiobs.device.base import DeviceLibrary
from aiobs.guard import say_once, swallow


@dataclass
class Found:
    """What there is: the libraries, opened, and why the others are not."""

    libraries: list[DeviceLibrary] = field(default_factory=list[DeviceLibrary])
    absent: list[Absence] = field(default_factory=list[Absence])

    def close(self) -> None:
        """Close every library."""
        for library in self.libraries:
            library.close()


def open_libraries(root: Path = Path("/")) -> Found:
    """Open each vendor's library; say once where hardware seems to be there that cannot be read, else nothing.

    May hang for as long as a driver does.

    Args:
        root: where the system's files are looked for.
    """
    found = Found()
    for vendor, opener in (("nvidia", nvml.open_library), ("amd", amd.open_library), ("intel", intel.open_library)):
        try:
            opened = opener(root)
        except Exception as error:
            swallow(f"device.find.{vendor}", error)
            continue
        if isinstance(opened, Absence):
            found.absent.append(opened)
            if opened.worth_saying:
                remedy = f"; {opened.remedy}" if opened.remedy else ""
                say_once(f"device.{vendor}", "aiobs: %s GPUs cannot be read: %s%s", vendor, opened.reason, remedy)
        else:
            found.libraries.append(opened)
    return found
