"""One fake GPU, or an instance of one: what it reads and what happens to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiobs.clock import monotonic_ns
from aiobs.device.fake import PREFIX
from aiobs.device.fake.layout import FIELDS, PROCESSES

if TYPE_CHECKING:
    from aiobs.device.fake.state import FakeGpus

ALL_LINKS = 0xFFFFFFFF
"""Scope of a field that stands for all NVLinks together."""
NOT_SUPPORTED = 3
ECC_DOUBLE_BIT, XID = 2, 8
WHOLE, INSTANCE = 1, 2
_EVENT_TYPES = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100
_UNSIGNED_LONG_LONG = 3
_GIB = 1 << 30


class FakeGpu:
    """One device; a change is seen by the next call of any process."""

    def __init__(self, row: Any, index: int, gpus: FakeGpus) -> None:
        self._row = row
        self._gpus = gpus
        self.index = index
        """Its number in the file; for a whole GPU also NVML's."""

    @property
    def uuid(self) -> str:
        """``GPU-...`` or ``MIG-...``."""
        return str(self._row.uuid.decode())

    def set(self, **values: float) -> None:
        """Set readings by their names in the layout: utilization (%), memory_used (bytes), temperature (Cel), ...

        Raises:
            AttributeError: there is no such reading.
        """
        for name, value in values.items():
            getattr(self._row, name)
            if name == "power_limit_mw" and self._demand_mw() > min(value, self._row.power_limit_mw):
                self._load(self._row.power_mw, self._row.wave_mw, self._row.wave_ns, limit_mw=int(value))
            else:
                setattr(self._row, name, int(value))

    def _demand_mw(self) -> float:
        """What it would draw at most, were there no limit."""
        return float(self._row.power_mw + (self._row.wave_mw if self._row.wave_ns else 0))

    @property
    def energy_joules(self) -> float:
        """What the energy counter stands at now."""
        return self._energy_mj(monotonic_ns()) / 1e3

    @property
    def power_watts(self) -> float:
        """What it draws, without the wave, within its power limit."""
        return min(float(self._row.power_mw), float(self._row.power_limit_mw)) / 1e3

    @power_watts.setter
    def power_watts(self, value: float) -> None:
        self._load(value * 1e3, self._row.wave_mw, self._row.wave_ns)

    def wave(self, watts: float, period_s: float) -> None:
        """Draw up to `watts` more, up and down once in `period_s`, utilisation likewise between 0 and what is set.

        A period of 0 ends it.
        """
        self._load(self._row.power_mw, watts * 1e3, int(period_s * 1e9))

    def set_energy(self, joules: float, *, power_watts: float | None = None) -> None:
        """Put the energy counter to `joules`, from where it goes on with the power."""
        power = self._row.power_mw if power_watts is None else power_watts * 1e3
        self._load(power, self._row.wave_mw, self._row.wave_ns, joules * 1e3)

    def _energy_mj(self, at_ns: int) -> float:
        row = self._row
        time_s = (at_ns - row.since_ns) / 1e9
        power_mw = min(row.power_mw, row.power_limit_mw)
        energy = float(row.energy_base_mj) + power_mw * time_s
        if row.wave_ns:
            turn = 2 * math.pi / (row.wave_ns / 1e9)
            energy += min(row.wave_mw, row.power_limit_mw - power_mw) * (
                0.5 * time_s - math.sin(turn * time_s) / (2 * turn)
            )
        return float(energy)

    def _load(
        self, power_mw: float, wave_mw: float, wave_ns: int, energy_mj: float | None = None, limit_mw: int | None = None
    ) -> None:
        row = self._row
        row.sequence += 1
        at = monotonic_ns()
        row.energy_base_mj = self._energy_mj(at) if energy_mj is None else energy_mj
        row.since_ns, row.power_mw, row.wave_mw, row.wave_ns = at, power_mw, wave_mw, wave_ns
        row.power_limit_mw = row.power_limit_mw if limit_mw is None else limit_mw
        row.sequence += 1

    def set_field(self, number: int, value: int = 0, *, scope: int = 0, code: int = 0) -> None:
        """What field `number` answers: a value, or an error.

        Raises:
            ValueError: the fields are all taken.
        """
        row = self._row
        for position in range(row.field_count):
            if (row.fields[position].number, row.fields[position].scope) == (number, scope):
                break
        else:
            position = row.field_count
            if position == FIELDS:
                raise ValueError(f"a fake GPU has {FIELDS} fields; number {number} is one too many")
        field = row.fields[position]
        field.code, field.number, field.scope = code, number, scope
        field.type, field.value = _UNSIGNED_LONG_LONG, value
        row.field_count = max(row.field_count, position + 1)

    def remove_field(self, number: int, *, scope: int = 0) -> None:
        """Let the GPU have no field `number` any more."""
        row = self._row
        kept = [
            (it.number, it.scope, it.type, it.code, it.value)
            for it in row.fields[: row.field_count]
            if (it.number, it.scope) != (number, scope)
        ]
        rest = [(0, 0, 0, 0, 0)] * (row.field_count - len(kept))
        for field, values in zip(row.fields, [*kept, *rest], strict=False):
            field.number, field.scope, field.type, field.code, field.value = values
        row.field_count = len(kept)

    def set_processes(self, processes: Mapping[int, int]) -> None:
        """Who uses it: memory in bytes by pid.

        Raises:
            ValueError: more than there is room for.
        """
        if len(processes) > PROCESSES:
            raise ValueError(f"a fake GPU lists {PROCESSES} processes at most, not {len(processes)}")
        for position, (pid, size) in enumerate(processes.items()):
            self._row.processes[position].pid = pid
            self._row.processes[position].bytes = size
        self._row.process_count = len(processes)

    def lose(self) -> None:
        """Let it fall off the bus: every call about it, and waiting for its events, fails."""
        self._row.lost = 1

    def recover(self) -> None:
        """Have it back."""
        self._row.lost = 0

    def xid(self, number: int) -> None:
        """Report an XID to whoever waits for events."""
        self.event(XID, number)

    def event(self, kind: int, number: int = 0) -> None:
        """Report an event of NVML's type `kind`."""
        self._gpus.post(self.index, kind, number)

    def add_instance(self, memory_bytes: int = 10 * _GIB, profile: str = "1g.10gb") -> FakeGpu:
        """Divide it further: turns MIG on and adds an instance.

        Raises:
            ValueError: the file has no room for more devices.
        """
        return self._gpus.add_instance(self, memory_bytes, profile)

    def remove(self) -> None:
        """Take an instance away."""
        self._row.kind = 0


def fake_uuid(index: int) -> str:
    """The id of the fake GPU number `index`."""
    return f"GPU-fa4e0000-0000-4000-8000-{index:012x}"


def idle(row: Any, index: int, memory_bytes: int) -> None:
    """Make the row of GPU number `index` that of an idle GPU."""
    row.kind, row.mig_supported, row.performance_state = WHOLE, 1, 8
    row.name = f"{PREFIX} {index}".encode()
    row.uuid = fake_uuid(index).encode()
    row.pci = f"0000:{index + 1:02X}:00.0".encode()
    row.memory_total, row.memory_used, row.memory_reserved = memory_bytes, 0, memory_bytes // 100
    row.temperature, row.power_limit_mw = 35, 700_000
    row.clock_sm_mhz, row.clock_memory_mhz = 345, 1593
    row.event_types = _EVENT_TYPES
    row.power_mw, row.since_ns = 70_000, monotonic_ns()
    row.reasons = 1
