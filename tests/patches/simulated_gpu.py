"""A GPU that is simulated: streams are queues with a clock, events are reached when the queue before them is done."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from aiobs.patches.torch.cuda_events import Place

US, MS, S = 1_000, 1_000_000, 1_000_000_000


class NotReadyError(RuntimeError):
    """What CUDA says when an event is asked for a time it does not have yet."""


class Stream:
    """Work queued one after the other; `free_ns`: when all of it is done."""

    def __init__(self) -> None:
        self.free_ns = 0


class SimulatedEvent:
    """As a timing event of CUDA behaves."""

    def __init__(self, machine: SimulatedGpus) -> None:
        self._machine = machine
        self.device = -1
        self.reached_ns: int | None = None
        self.records = 0

    def record(self, stream: Stream) -> None:
        machine = self._machine
        if machine.graph:
            raise AssertionError("an event was recorded into a graph")
        device = machine.device_of(stream)
        if self.device not in (-1, device):
            raise RuntimeError("an event belongs to the device it was first recorded on")
        self.device = device
        self.records += 1
        machine.spend(machine.record_ns)
        self.reached_ns = max(stream.free_ns, machine.now()) + machine.latency_ns
        stream.free_ns = max(stream.free_ns, self.reached_ns)

    def query(self) -> bool:
        machine = self._machine
        if machine.graph or machine.elsewhere:
            raise RuntimeError("operation would make the legacy stream depend on a capturing blocking stream")
        machine.queries += 1
        machine.spend(machine.query_ns)
        assert self.reached_ns is not None
        return machine.now() >= self.reached_ns

    def elapsed_time(self, end_event: SimulatedEvent) -> float:
        for event in (self, end_event):
            if event.reached_ns is None or self._machine.now() < event.reached_ns:
                raise NotReadyError("device not ready")
        if self.device != end_event.device:
            raise RuntimeError("invalid resource handle")
        assert self.reached_ns is not None
        assert end_event.reached_ns is not None
        device_ns = (end_event.reached_ns - self.reached_ns) * (1 + self._machine.drift)
        return float(struct.unpack("<f", struct.pack("<f", device_ns / 1e6))[0])  # CUDA's are 32 bits wide

    def synchronize(self) -> None:
        assert self.reached_ns is not None
        self._machine.synchronised += 1
        self._machine.wait_until(self.reached_ns)


class SimulatedGpus:
    """GPUs with streams, one of each current. Time is `clock`'s, by default one that stands still but for `spend`."""

    def __init__(self, devices: int = 1, clock: Callable[[], int] | None = None, drift: float = 0.0) -> None:
        self._now = 1_000 * S
        self._clock = clock
        self.drift = drift
        self.streams = [[Stream()] for _ in range(devices)]
        self.device, self.stream = 0, 0
        self.graph = self.elsewhere = False
        self.record_ns = self.query_ns = 0
        self.latency_ns = 0
        self.queries = self.synchronised = 0
        self.events: list[SimulatedEvent] = []
        self._places: dict[int, Place] = {}

    # -- time --------------------------------------------------------------------------------------------
    def now(self) -> int:
        return self._now if self._clock is None else self._clock()

    def spend(self, ns: int) -> None:
        """The program is busy for that long."""
        if self._clock is None:
            self._now += ns
        elif ns:
            self.wait_until(self.now() + ns)

    def wait_until(self, ns: int) -> None:
        if self._clock is None:
            self._now = max(self._now, ns)
        while self.now() < ns:
            pass

    # -- what the program does ---------------------------------------------------------------------------
    def device_of(self, stream: Stream) -> int:
        return next(number for number, found in enumerate(self.streams) if stream in found)

    @property
    def current(self) -> Stream:
        return self.streams[self.device][self.stream]

    def launch(self, work_ns: int, launching_ns: int = 0) -> None:
        """Queue a kernel that runs for `work_ns`; queueing it takes the program `launching_ns`."""
        self.spend(launching_ns)
        if not self.graph:
            self.current.free_ns = max(self.current.free_ns, self.now()) + work_ns

    def wait(self) -> None:
        """The program waits for the GPU, as ``loss.item()`` does."""
        self.wait_until(self.current.free_ns)

    # -- what timing sees --------------------------------------------------------------------------------
    def here(self) -> Place | None:
        if self.capturing():
            return None
        stream = self.current
        return self._places.setdefault(id(stream), Place(self.device, stream))

    def event(self) -> Any:
        self.events.append(SimulatedEvent(self))
        return self.events[-1]

    def capturing(self) -> bool:
        return self.graph or self.elsewhere
