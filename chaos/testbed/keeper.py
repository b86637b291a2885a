"""A keeper: a fork of the holder that holds a node's namespaces until it is killed or nobody looks after it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aiobs.chaos import kernel
from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.testbed.record import INTERFACE, BedRecord, NodeRecord
from aiobs.errors import FaultError

_MASK = "255.255.255.0"


class Keeper:
    """The holder's side of one: what it was asked and what it answered."""

    def __init__(self, node: NodeRecord, work: Callable[[socket.socket], None], guards: Sequence[int]) -> None:
        self.node = node
        self._asked, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            # Neither the lock nor the guard's pipe: a keeper must not seem to look after the testbed.
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 1 << 16)
            try:
                work(theirs)
                theirs.close()
                wait_for_death(guards)
            except BaseException as error:  # noqa: BLE001 - a fork must end here, whatever happens
                try:
                    theirs.sendall(f"{type(error).__name__}: {error}".encode())
                except OSError:
                    pass
            finally:
                os._exit(1)
        theirs.close()
        self.process = ProcessIdentity.of(pid)

    def answer(self) -> None:
        """Wait until it has done the next step. Raises FaultError with what it said."""
        said = self._asked.recv(4096)
        if said != b".":
            raise FaultError("testbed", f"{self.node.name}: {said.decode('utf-8', 'replace') or 'ended'}")

    def go_on(self) -> None:
        """Let it do the next step."""
        self._asked.sendall(b".")

    def record(self) -> NodeRecord:
        """The node's record, with this keeper; it must have answered once."""
        inode = os.stat(f"/proc/{self.process.pid}/ns/net").st_ino
        return replace(self.node, keeper=self.process.pid, keeper_start=self.process.start, namespace=inode)


def wait_for_death(pids: Sequence[int]) -> None:
    """Wait until all these processes are gone."""
    poll = select.poll()
    waiting = set()
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waiting.add(descriptor)
        poll.register(descriptor, select.POLLIN)
    while waiting:
        for descriptor, _ in poll.poll():
            poll.unregister(descriptor)
            waiting.discard(descriptor)


def be_node(bed: BedRecord, node: NodeRecord, asked: socket.socket) -> None:
    """What a node's keeper does: a host name, a hosts file and a network; then an address once the wire is there."""
    _own_namespaces()
    socket.sethostname(node.name)
    kernel.mount("none", "/", "", kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount(f"{bed.folder}/hosts-{node.name}", "/etc/hosts", "", kernel.BIND)
    _own_sysfs(Path(bed.folder) / "cgroup")
    kernel.set_up("lo", True)
    asked.sendall(b".")
    asked.recv(1)
    kernel.set_address(INTERFACE, node.address, _MASK)
    kernel.set_up(INTERFACE, True)
    asked.sendall(b".")


def be_switch(nodes: Sequence[NodeRecord], asked: socket.socket) -> None:
    """What the switch's keeper does: a bridge with a wire to each node; `nodes` have their keepers."""
    _own_namespaces()
    lines = ["link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0", "link set br0 up"]
    for it in nodes:
        lines += [
            f"link add p{it.index} type veth peer name {INTERFACE} netns {it.keeper}",
            f"link set p{it.index} master br0 up",
        ]
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}")
    asked.sendall(b".")


def _own_namespaces() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    kernel.unshare(kernel.NEWNET | kernel.NEWUTS | kernel.NEWNS)
    try:  # addresses of its own choice, and the questions about them, would be noise on a wire whose packets count
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    except OSError:
        pass  # a kernel without IPv6


def _own_sysfs(aside: Path) -> None:
    """Let ``/sys/class/net`` show the node's interfaces, with the control groups still in their place."""
    try:
        kernel.mount("/sys/fs/cgroup", str(aside), "", kernel.BIND | kernel.RECURSIVE)
        kernel.mount("sysfs", "/sys", "sysfs")
        kernel.mount(str(aside), "/sys/fs/cgroup", "", kernel.MOVE)
    except OSError:
        pass  # without root the kernel may refuse: the node then sees the host's names there
