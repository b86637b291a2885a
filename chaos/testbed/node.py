"""A node, as whoever runs programs in it sees it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.safety import is_ours
from aiobs.chaos.testbed.commands import note
from aiobs.chaos.testbed.inside import processes_of
from aiobs.chaos.testbed.record import BED, INTERFACE, MARK, NODE, BedRecord, NodeRecord

_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
_THERE = 'cd "$1" || exit 125; shift; exec "$@"'


@dataclass(frozen=True)
class Node:
    """A node of a testbed that is up.

    Attributes:
        bed, record: what is known of them.
        started: the processes started here, for the testbed to wait for.
    """

    bed: BedRecord
    record: NodeRecord
    started: list[subprocess.Popen[Any]] = field(default_factory=list, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Its name, which is its host name too; the other nodes resolve it."""
        return self.record.name

    @property
    def index(self) -> int:
        """From 0."""
        return self.record.index

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self.record.address

    @property
    def interface(self) -> str:
        """Its network interface."""
        return INTERFACE

    @property
    def namespace(self) -> str:
        """A file that holds its network namespace."""
        return f"/proc/{self.record.keeper}/ns/net"

    @property
    def cgroup(self) -> str:
        """Path of its control group, "" where it has none."""
        return self.record.group

    def processes(self) -> list[ProcessIdentity]:
        """Every process in it now; what carries telemetry or a fault is left out: it is nobody's program."""
        return [it for it in processes_of(self.bed, [self.record]) if not is_ours(it)]

    def variables(self) -> dict[str, str]:
        """What each process in it finds in its environment."""
        return {MARK: self.bed.id, BED: self.bed.name, NODE: self.name, "HOSTNAME": self.name}

    def command(self, argv: Sequence[str], folder: str = "") -> list[str]:
        """The command line that runs `argv` in it, in the working directory `folder` (by default ours)."""
        ours = f"/proc/{self.record.keeper}/ns"
        enter = ["nsenter", f"--net={ours}/net", f"--uts={ours}/uts", f"--mount={ours}/mnt"]
        if self.bed.own_user:
            enter += [f"--user={ours}/user", "--preserve-credentials"]
        there = ["sh", "-c", _THERE, "sh", folder or os.getcwd(), *argv]
        return ["sh", "-c", _JOIN, "sh", *self.record.folders, "--", *enter, *there]

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in it; ends with the testbed. It is noted, so that a node that was lost can start it again.

        Args:
            argv: program and arguments.
            env: its environment, by default ours; the node's own variables come on top.
            options: of :class:`subprocess.Popen`.
        """
        folder = os.fspath(options.pop("cwd", None) or os.getcwd())
        variables = {**(os.environ if env is None else env), **self.variables()}
        options.setdefault("start_new_session", True)
        process = subprocess.Popen(self.command(argv, folder), env=variables, **options)
        self.started.append(process)
        note(self.bed, self.name, process.pid, argv, folder, variables)
        return process

    def run(
        self, argv: Sequence[str], *, timeout: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program in it to its end; what it says is captured as text.

        Raises:
            subprocess.TimeoutExpired: it took longer; it has been killed.
        """
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        with self.start(argv, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)
