"""A testbed, as whoever makes it sees it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.namespaces import missing_tools
from aiobs.chaos.place import Place, open_place
from aiobs.chaos.testbed.groups import group_of_node
from aiobs.chaos.testbed.node import Node
from aiobs.chaos.testbed.record import NODE_NAME, BedRecord, NodeRecord, beds_folder, living_beds, read_bed
from aiobs.chaos.testbed.teardown import sweep
from aiobs.chaos.wire import Wire
from aiobs.errors import ArmError, FaultError, PlanError
from aiobs.settings import load_settings

START_S = 15.0
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MOST = 200


class Testbed:
    """Nodes that are up from here until :meth:`close`, the end of ``with``, or the end of this process.

    Without root they live in a user namespace of ours, in which we are root; control groups are then to be had only
    where somebody has delegated some to us.

    Attributes:
        name: of the testbed; `nodes`: in order.

    Args:
        nodes: how many (named a, b, c …), or their names.
        name: by default one that is free.
        settings: by default those of the environment.

    Raises:
        PlanError: a name or a number that cannot be used.
        ArmError: this machine or user cannot make one; the message says what lacks.
    """

    __test__ = False  # no test class, whatever its name looks like to pytest

    def __init__(
        self, nodes: int | Sequence[str] = 3, *, name: str = "", settings: Mapping[str, Any] | None = None
    ) -> None:
        names = _names(nodes)
        if name and not NODE_NAME.fullmatch(name):
            raise PlanError("testbed", name, "use small letters, digits and -, beginning with a letter")
        if missing := [*missing_tools("ip", "nsenter"), *_missing_rights()]:
            raise ArmError("no testbed can be made here: " + "; ".join(missing))
        place = open_place(load_settings(settings))
        sweep(place)
        record = _planned(place, names, name)
        self.name = record.name
        self._owner = os.getpid()
        self._ended = False
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        own = ProcessIdentity.of(os.getpid())
        with theirs, open(place.path / "testbed.log", "ab") as log:
            self._holder = subprocess.Popen(
                [
                    sys.executable, "-m", "aiobs.chaos.testbed.holder", str(theirs.fileno()), record.folder,
                    str(own.pid), str(own.start),
                ],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        said = self._heard()
        if said.get("is") != "ready":
            self._finish()
            shutil.rmtree(record.folder, ignore_errors=True)
            raise ArmError(f"the testbed could not be made: {said.get('message') or f'see {place.path}/testbed.log'}")
        built = read_bed(Path(record.folder))
        assert built is not None
        self.record = built
        self.nodes = [Node(built, it) for it in built.nodes]

    def __getitem__(self, name: str) -> Node:
        return next(it for it in self.nodes if it.name == name)

    @property
    def is_up(self) -> bool:
        """Whether it is still there: somebody else may have taken it down."""
        return not self._ended and self._holder.poll() is None

    def close(self) -> None:
        """Take it down, and wait until that is done; again: nothing.

        Raises:
            FaultError: something is left; its attribute `residue` says what.
        """
        if self._ended or os.getpid() != self._owner:
            return
        self._wire.say({"do": "end"})
        said = self._heard()
        self._finish()
        for node in self.nodes:
            for process in node.started:
                process.wait(START_S)
        if residue := said.get("residue", ()):
            raise FaultError("undo", "left behind: " + "; ".join(residue), tuple(residue))

    def _heard(self) -> dict[str, Any]:
        timer = threading.Timer(START_S, self._holder.terminate)
        timer.daemon = True
        timer.start()
        try:
            while (messages := self._wire.hear()) is not None:
                if messages:
                    return messages[0]
            return {}
        finally:
            timer.cancel()

    def _finish(self) -> None:
        self._ended = True
        self._holder.wait(START_S)
        self._wire.close()

    def __enter__(self) -> Testbed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_bed(place: Place, name: str) -> BedRecord:
    """The testbed of that name that is up, or the only one for "". Raises PlanError."""
    beds = list(living_beds(place))
    found = [it for it in beds if it.name == name or not name]
    if len(found) != 1:
        there = ", ".join(it.name for it in beds) or "none"
        raise PlanError("testbed", name, f"there are {there}; start one with  aiobs chaos testbed up")
    return found[0]


def _names(nodes: int | Sequence[str]) -> list[str]:
    if isinstance(nodes, int):
        if not 1 <= nodes <= len(_LETTERS):
            raise PlanError("nodes", nodes, f"use 1 to {len(_LETTERS)}, or names")
        return list(_LETTERS[:nodes])
    names = list(nodes)
    if not 1 <= len(names) <= _MOST or len(set(names)) != len(names):
        raise PlanError("nodes", names, f"use 1 to {_MOST} different names")
    for it in names:
        if not NODE_NAME.fullmatch(it) or it == "localhost":
            raise PlanError("nodes", it, "a node's name has small letters, digits and -, beginning with a letter")
    return names


def _missing_rights() -> list[str]:
    if os.geteuid() == 0:
        return []
    for path, wanted, remedy in (
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=1000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
         "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ):  # fmt: skip
        try:
            found = Path(path).read_text("utf-8").strip()
        except OSError:
            continue
        if (found == wanted) if wanted == "1" else found == "0":
            return [f"user namespaces are switched off for users: become root, or  {remedy}"]
    return []


def _planned(place: Place, names: list[str], name: str) -> BedRecord:
    """The record of a testbed to be made, on disk, with the hosts files."""
    living = list(living_beds(place))
    identity = uuid.uuid4().hex[:12]
    chosen = name or f"bed-{identity[:6]}"
    folder = beds_folder(place) / chosen
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise PlanError("testbed", name, "a testbed of that name is up; choose another name") from None
    network = _free_network([it.nodes[0].address for it in living])
    nodes = []
    for index, node_name in enumerate(names):
        group, folders = group_of_node(f"{chosen}-{identity}", node_name)
        nodes.append(NodeRecord(node_name, index, f"{network}.{index + 1}", group, folders))
    lines = [f"{it.address}\t{it.name}" for it in nodes]
    for it in nodes:
        hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost", *lines]
        (folder / f"hosts-{it.name}").write_text("\n".join(hosts) + "\n", "utf-8")
        (folder / f"hosts-{it.name}").chmod(0o644)
    (folder / "cgroup").mkdir()
    own = ProcessIdentity.of(os.getpid())
    record = BedRecord(
        chosen, identity, str(folder), own.pid, own.start, os.geteuid() != 0, tuple(nodes), NodeRecord("switch", 0, "")
    )
    record.write()
    return record


def _free_network(taken: list[str]) -> str:
    """First three numbers of a network that neither this machine nor another testbed uses."""
    used = {".".join(it.split(".")[:2]) for it in taken}
    for line in Path("/proc/net/route").read_text("utf-8").splitlines()[1:]:
        number = int(line.split()[1], 16)
        used.add(f"{number & 255}.{number >> 8 & 255}")
    for second in range(66, 256):
        if f"10.{second}" not in used:
            return f"10.{second}.0"
    raise ArmError("no network 10.66.0.0 to 10.255.0.0 is free")
