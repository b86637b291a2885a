"""The protocol of a device that can be read, whoever made it.

A :class:`DeviceLibrary` is one vendor's library in this process; it has :class:`Device` objects, and tells of
events. Not for several threads at once, except that ``wait_events`` may wait in one while another reads. Any
call may hang for as long as the driver does: call from a process that can be given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

FAST = "fast"
"""Group: utilisation, memory, power, energy, temperature, clocks, throttling."""
SLOW = "slow"
"""Group: ECC, remapped rows, retired pages, PCIe and NVLink counters, fabric state."""
PERIODS: Mapping[str, float] = {FAST: 1.0, SLOW: 10.0}
"""Seconds between two readings of a group where nothing else was asked for."""

XID, ECC, LOST, RECOVERED, OTHER = "xid", "ecc", "lost", "recovered", "other"
WARNING, FATAL = "warning", "fatal"


@dataclass(frozen=True)
class Identity:
    """Which device it is; stays the same as long as the driver is loaded.

    Attributes:
        id: unique in the host and stable: ``GPU-<uuid>``, ``MIG-<uuid>``, or what the vendor has instead.
        index: the vendor's number of it, counted from 0 in each library; an instance has its parent's.
        name, vendor: of the product, and of who made it (nvidia, amd, intel).
        memory_bytes: its whole memory; 0 where unknown.
        parent: id of the GPU that this one is an instance of; "" for a whole GPU.
        driver: version of the driver.
        pci: bus address, ``0000:65:00.0``.
        fake: whether it was made up (:mod:`aiobs.device.fake`).
    """

    id: str
    index: int
    name: str
    vendor: str
    memory_bytes: int = 0
    parent: str = ""
    driver: str = ""
    pci: str = ""
    fake: bool = False


@dataclass(frozen=True)
class Reading:
    """What one group said at one moment.

    Attributes:
        group: its name.
        time_ns: monotonic, in the middle of the reading.
        duration_ns: how long the reading took; a reader that is slow should be called less often.
        values: by keys of :data:`aiobs.device.quantities.QUANTITIES`; only what the device really said.
            Counters are cumulative as the driver has them, so they may wrap, or begin anew with it.
    """

    group: str
    time_ns: int
    values: Mapping[str, float]
    duration_ns: int = 0


@dataclass(frozen=True)
class DeviceEvent:
    """Something that happened to a device.

    Attributes:
        device: its id.
        time_ns: monotonic, when we were told.
        kind: xid, ecc, lost, recovered or other.
        number: the XID; else the driver's number of the kind of event, or its error code.
        text: what it means, one sentence.
        severity: ``fatal`` where the device cannot go on without a reset, else ``warning``: it goes on, though the
            program that caused or met it may not.
        action: what to do about it, one sentence; may be "".
    """

    device: str
    time_ns: int
    kind: str
    number: int
    text: str
    severity: str
    action: str = ""


class Device(Protocol):
    """One GPU, or one instance of a divided one."""

    @property
    def identity(self) -> Identity:
        """Which one it is; asks nobody."""
        ...

    @property
    def groups(self) -> Mapping[str, float]:
        """The groups that can be read, with the period in seconds that suits each."""
        ...

    def read(self, group: str) -> Reading:
        """Read one group.

        Raises:
            DeviceLostError: the device is not there any more.
            DeviceError: the driver refused the reading as a whole.
            KeyError: there is no such group.
        """
        ...

    def processes(self) -> Mapping[int, int]:
        """Memory in bytes by pid (of the host) of what uses the device, 0 where the driver does not say.

        Expensive with some drivers (milliseconds, under a lock that work on the GPU needs): ask rarely.

        Raises:
            DeviceError, DeviceLostError: as :meth:`read`.
        """
        ...


class DeviceLibrary(Protocol):
    """One vendor's library, opened."""

    @property
    def vendor(self) -> str:
        """nvidia, amd, intel."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """What cannot be had from this library and why, a sentence each (``no events: ...``)."""
        ...

    def devices(self) -> list[Device]:
        """The devices that are there now; instances come after their GPU. Ask again after a change of MIG.

        Raises:
            DeviceError: the library can name none.
        """
        ...

    def wait_events(self, timeout_s: float) -> list[DeviceEvent]:
        """What happened since the last call, waiting up to `timeout_s` for something to; [] where nothing did.

        Where the library has no events it says so in ``problems``, and this returns [] after the time.

        Raises:
            DeviceError: events cannot be had any more.
        """
        ...

    def close(self) -> None:
        """Let go of the library; may be called again."""
        ...
