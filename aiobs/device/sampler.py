"""``python -m aiobs.device.sampler``: reads all devices of the host, and tells the agent through a pipe.

A process of its own, because a driver may hang for ever or take its caller with it. It ends when the agent does, or
when there is no device.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence

from aiobs.clock import monotonic_ns
from aiobs.device import wire
from aiobs.device.base import FAST, FATAL, LOST, OTHER, PERIODS, RECOVERED, WARNING, Device, DeviceEvent, DeviceLibrary
from aiobs.device.pace import Pace
from aiobs.errors import DeviceError, DeviceLostError
from aiobs.recorder.flight import start_ticks

ALIVE_S = 2.0
"""Something is said at least so often, be it nothing."""
LIST_S, LIST_AGAIN_S = 60.0, 5.0
"""The devices are listed anew so often; after one failed or was lost."""
EVENTS_S = 1.0
"""A wait for events takes so long, where none come."""

Say = Callable[[str, object], None]


class Sampler:
    """The devices of some libraries, each group of each read at its own pace."""

    def __init__(self, libraries: Sequence[DeviceLibrary], period_s: float, say: Say) -> None:
        """`period_s`: of the fast group; the others' periods keep their ratio to it."""
        self._libraries, self._say = libraries, say
        self._factor = period_s / PERIODS[FAST]
        self._listed: list[Sequence[Device]] = [[] for _ in libraries]
        self._devices: dict[str, Device] = {}
        self._paces: dict[tuple[str, str], Pace] = {}
        self._lost: set[str] = set()
        self._noted: set[str] = set()
        self._wanted = [threading.Event() for _ in libraries]
        self._list_at = self._said_at = 0.0
        self.changed = threading.Event()
        """A library's devices were listed anew."""

    def list_devices(self, number: int) -> None:
        """List the devices of one library anew."""
        self._wanted[number].clear()
        try:
            self._listed[number] = self._libraries[number].devices()
        except DeviceError as error:
            self._note(str(error))
            self._list_at = min(self._list_at, time.monotonic() + LIST_AGAIN_S)
            return
        self.changed.set()

    def take_list(self) -> int:
        """Go on with the devices as they were listed last; returns how many there are."""
        self.changed.clear()
        now = time.monotonic()
        self._list_at = now + LIST_S
        found = {device.identity.id: device for listed in self._listed for device in listed}
        back = {name for name in self._lost & found.keys() if self._answers(found[name])}
        found = {name: device for name, device in found.items() if name not in self._lost or name in back}
        before = [device.identity for device in self._devices.values()]
        identities = [device.identity for device in found.values()]
        self._devices = found
        self._paces = {
            (name, group): self._paces.get((name, group)) or Pace(period * self._factor, now)
            for name, device in found.items()
            for group, period in device.groups.items()
        }
        if identities != before or not self._said_at:
            self._tell(wire.DEVICES, wire.pack_devices(identities))
        for name in back:
            self._lost.discard(name)
            self._event(name, RECOVERED, "The device answers again.", WARNING)
        if self._lost:
            self._list_at = now + LIST_AGAIN_S
        return len(found)

    def _answers(self, device: Device) -> bool:
        try:
            device.read(next(iter(device.groups)))
        except DeviceError:
            return False
        return True

    def tick(self, *, at_once: bool = False) -> float:
        """Read what is due, or the fast groups `at_once`; returns when to come again (monotonic seconds)."""
        now = time.monotonic()
        readings: list[object] = []
        for (name, group), pace in self._paces.items():
            if pace.due(now) or (at_once and group == FAST):
                self._read(name, group, pace, readings)
        if readings or now - self._said_at >= ALIVE_S:
            self._tell(wire.READINGS, readings)
        if now >= self._list_at:
            self._list_at = now + LIST_S
            for wanted in self._wanted:
                wanted.set()
        if self.changed.is_set():
            self.take_list()
        return min([self._list_at, now + ALIVE_S, *(pace.due_s for pace in self._paces.values())])

    def _read(self, name: str, group: str, pace: Pace, readings: list[object]) -> None:
        if name in self._lost:
            return
        began = time.monotonic()
        try:
            readings.append(wire.pack_reading(name, self._devices[name].read(group)))
        except DeviceLostError as error:
            self._lose(name, str(error))
        except DeviceError as error:
            self._note(str(error))
            self._list_at = min(self._list_at, began + LIST_AGAIN_S)
        ended = time.monotonic()
        if pace.took(ended - began, ended):
            self._say(wire.SLOW, [name, group, ended - began, pace.period_s])

    def _lose(self, name: str, reason: str) -> None:
        self._lost.add(name)
        self._list_at = min(self._list_at, time.monotonic() + LIST_AGAIN_S)
        self._event(name, LOST, f"The device is not there any more ({reason}).", FATAL)

    def _event(self, name: str, kind: str, text: str, severity: str) -> None:
        self._say(wire.EVENTS, wire.pack_events([DeviceEvent(name, monotonic_ns(), kind, 0, text, severity)]))

    def who(self) -> None:
        """Say which processes the driver sees on each device."""
        found: dict[str, list[int]] = {}
        for name, device in self._devices.items():
            if name not in self._lost:
                try:
                    found[name] = list(device.processes())
                except DeviceError as error:
                    self._note(str(error))
        self._tell(wire.PROCESSES, found)

    def attend(self, number: int) -> None:
        """Pass on what happens to the devices of one library, and list them where that is wanted, for ever.

        For a thread of its own: listing would take away the ground under a wait for events in another one.
        """
        library = self._libraries[number]
        heard = True
        while True:
            if self._wanted[number].is_set():
                self.list_devices(number)
            if not heard:
                time.sleep(EVENTS_S)
                continue
            try:
                events = library.wait_events(EVENTS_S)
            except DeviceError as error:
                self._note(str(error))
                heard = False
                continue
            if events:
                self._say(wire.EVENTS, wire.pack_events(events))
                if any(event.kind == OTHER for event in events):  # the division into instances may have changed
                    self._wanted[number].set()

    def _tell(self, kind: str, content: object) -> None:
        self._said_at = time.monotonic()
        self._say(kind, content)

    def _note(self, text: str) -> None:
        if text not in self._noted and len(self._noted) < 100:
            self._noted.add(text)
            self._say(wire.NOTE, text)


class _Pipe:
    """The agent's ends: what we say, what it asks, and whether it is still there."""

    def __init__(self, out: int, control: int, agent: int) -> None:
        self.asked = threading.Event()
        self.wishes: set[bytes] = set()
        self._out, self._control = out, control
        self._lock = threading.Lock()
        self._watched = [control]
        try:
            # A child forked by the agent's process holds the pipe too: its end alone does not tell.
            self._watched.append(os.pidfd_open(agent))
        except (OSError, AttributeError):
            pass

    def say(self, kind: str, content: object) -> None:
        raw = wire.line(kind, content)
        with self._lock:
            while raw:
                raw = raw[os.write(self._out, raw) :]

    def listen(self) -> None:
        """Take wishes; ends this process when the agent is gone, even while the driver hangs."""
        poll = select.poll()
        for descriptor in self._watched:
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            wishes = os.read(self._control, 64) if self._control in ready else b""
            if not wishes:
                os._exit(0)
            self.wishes |= {wishes[i : i + 1] for i in range(len(wishes))}
            self.asked.set()


def run(
    find: Callable[[], Sequence[DeviceLibrary]], *, period_s: float, out: int = 1, control: int = 0, agent: int = 0
) -> int:
    """Be the sampler; returns 0 where there is nothing to sample.

    Args:
        find: opens the libraries there are.
        period_s: between two readings of the fast group.
        out, control: descriptors that messages are written to, and wishes come from.
        agent: pid of who is told.
    """
    pipe = _Pipe(out, control, agent)
    pipe.say(wire.HELLO, [os.getpid(), start_ticks()])
    threading.Thread(target=pipe.listen, daemon=True).start()
    libraries = find()
    sampler = Sampler(libraries, period_s, pipe.say)
    for number in range(len(libraries)):
        sampler.list_devices(number)
    there = sampler.take_list()
    for library in libraries:
        for problem in library.problems:
            pipe.say(wire.NOTE, f"{library.vendor}: {problem}")
    if not there:
        return 0
    for number in range(len(libraries)):
        threading.Thread(target=sampler.attend, args=(number,), daemon=True).start()
    at_once = False
    while True:
        due_s = sampler.tick(at_once=at_once)
        pipe.asked.wait(max(0.0, due_s - time.monotonic()))
        pipe.asked.clear()
        wishes, pipe.wishes = pipe.wishes, set()
        at_once = wire.NOW in wishes
        if wire.WHO in wishes:
            sampler.who()


def main(arguments: list[str] | None = None) -> int:
    """The command line, used by the agent."""
    from aiobs.device.find import open_libraries

    parser = argparse.ArgumentParser(prog="python -m aiobs.device.sampler", description=__doc__)
    parser.add_argument("--period", type=float, default=PERIODS[FAST], help="seconds between two readings")
    parser.add_argument("--out", type=int, default=1, help="descriptor that is written to")
    parser.add_argument("--control", type=int, default=0, help="descriptor that wishes are read from")
    parser.add_argument("--agent", type=int, default=os.getppid(), help="pid of the process to end with")
    given = parser.parse_args(arguments)
    return run(
        lambda: open_libraries().libraries,
        period_s=given.period,
        out=given.out,
        control=given.control,
        agent=given.agent,
    )


if __name__ == "__main__":
    try:
        code = main()
    except BrokenPipeError:
        code = 0
    # Threads may hang in the driver: ending the usual way would wait for its clean-up.
    sys.stdout.flush()
    os._exit(code)
