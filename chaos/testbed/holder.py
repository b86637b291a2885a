"""The holder: a process of its own that makes a testbed, and takes it down when its owner asks or dies.

Its guard, a fork, takes it down should the holder die; both hold the testbed's lock, so nobody else does.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

from aiobs.chaos import kernel
from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.place import lock
from aiobs.chaos.testbed.groups import make_groups
from aiobs.chaos.testbed.keeper import Keeper, be_node, be_switch, wait_for_death
from aiobs.chaos.testbed.record import BedRecord, read_bed
from aiobs.chaos.testbed.teardown import take_down
from aiobs.chaos.wire import Wire
from aiobs.errors import AiobsError


def build(bed: BedRecord, guard: int) -> BedRecord:
    """Make everything; returns the record with its keepers. Raises AiobsError or OSError; the caller takes it down."""
    if bed.own_user:
        _become_root_of_a_namespace()
    for it in bed.nodes:
        make_groups(it.folders)
    looking = (os.getpid(), guard)
    keepers = [Keeper(it, functools.partial(be_node, bed, it), looking) for it in bed.nodes]
    for keeper in keepers:
        keeper.answer()
    nodes = tuple(keeper.record() for keeper in keepers)
    # Written down as soon as they are there: whoever takes the testbed down must know its keepers.
    replace(bed, nodes=nodes).write()
    switch = Keeper(bed.switch, functools.partial(be_switch, nodes), looking)
    switch.answer()
    for keeper in keepers:
        keeper.go_on()
    for keeper in keepers:
        keeper.answer()
    built = replace(bed, nodes=nodes, switch=switch.record())
    built.write()
    return built


def _become_root_of_a_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def start_guard(folder: Path, keep: int) -> tuple[int, int]:
    """Fork the guard of this process; returns its pid and the descriptor on which to tell it goodbye."""
    holder = os.getpid()
    heard, goodbye = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(heard)
        return pid, goodbye
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, min(heard, keep))
        os.closerange(min(heard, keep) + 1, max(heard, keep))
        os.closerange(max(heard, keep) + 1, 1 << 16)
        wait_for_death([holder])
        if not os.read(heard, 1) and (bed := read_bed(folder)) is not None:
            take_down(bed)
    finally:
        os._exit(0)


class Holder:
    """See the module's text."""

    def __init__(self, wire: Wire, folder: Path, owner: ProcessIdentity) -> None:
        self._wire, self._folder, self._owner = wire, folder, owner
        held = lock(folder / "lock")
        assert held is not None
        self._lock = held
        self._over = False
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        self._guard()

    def _guard(self) -> None:
        self._guard_pid, self._goodbye = start_guard(self._folder, self._lock)
        self._guard_death = os.pidfd_open(self._guard_pid)

    def _end(self, *_: object) -> None:
        self._over = True

    def run(self) -> int:
        """Build, wait for the end, take down."""
        bed = read_bed(self._folder)
        assert bed is not None
        try:
            build(bed, self._guard_pid)
            self._wire.say({"is": "ready"})
        except (AiobsError, OSError) as error:
            left = take_down(read_bed(self._folder) or bed)
            self._wire.say({"is": "refused", "message": str(error), "residue": left})
            self._leave(left)
            return 1
        self._wait()
        left = take_down(read_bed(self._folder) or bed)
        self._leave(left)
        self._wire.say({"is": "ended", "residue": left})
        return 0

    def _wait(self) -> None:
        try:
            death = os.pidfd_open(self._owner.pid)
        except ProcessLookupError:
            return
        while not self._over and self._owner.is_alive():
            watched: list[Wire | int] = [self._wire, death, self._guard_death]
            ready, _, _ = select.select(watched, [], [], 1.0)
            if self._guard_death in ready:
                os.waitpid(self._guard_pid, 0)
                os.close(self._guard_death)
                os.close(self._goodbye)
                self._guard()
            if self._wire in ready and (messages := self._wire.hear()) != []:
                self._over = messages is None or any(it.get("do") == "end" for it in messages)

    def _leave(self, left: list[str]) -> None:
        if not left:
            os.write(self._goodbye, b"q")
        # Keepers are our children: taken in here, they are gone when the owner hears that all has ended.
        os.kill(self._guard_pid, signal.SIGKILL)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def main() -> int:
    """``python -m aiobs.chaos.testbed.holder <descriptor> <folder> <owner's pid> <owner's start>``."""
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    owner = ProcessIdentity(int(sys.argv[3]), int(sys.argv[4]))
    return Holder(wire, Path(sys.argv[2]), owner).run()


if __name__ == "__main__":
    sys.exit(main())
