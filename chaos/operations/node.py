"""A testbed's node: all that runs in it killed at once, and what was started in it started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.operation import Before, Operation
from aiobs.chaos.testbed.commands import INSTEAD_OF, Command, commands, running, start_again, successor
from aiobs.chaos.testbed.node import Node
from aiobs.chaos.testbed.record import read_bed
from aiobs.chaos.testbed.teardown import PATIENCE_S
from aiobs.errors import FaultError, PlanError


@dataclass(frozen=True)
class _OnNode(Operation):
    """
    Attributes:
        folder: the testbed's.
        node: its name.
    """

    folder: str
    node: str

    def _node(self) -> Node | None:
        """None where the testbed is gone."""
        bed = read_bed(Path(self.folder))
        record = bed.node(self.node) if bed is not None else None
        return Node(bed, record) if bed is not None and record is not None else None

    def _there(self) -> Node:
        node = self._node()
        if node is None:
            raise PlanError("target", f"node:{self.node}", "that node is gone; choose the target again")
        return node


@dataclass(frozen=True)
class KillAll(_OnNode):
    """SIGKILL to every process of the node, until there is none."""

    kind = "node.kill"

    def describe(self) -> str:
        return f"kill -KILL every process of node {self.node}, with what they start meanwhile"

    def describe_undo(self) -> str:
        return "nothing: the dead stay dead"

    def before(self) -> Before:
        return {"count": len(self._there().processes())}

    def act(self, before: Before) -> None:  # noqa: ARG002
        node, deadline = self._node(), time.monotonic() + PATIENCE_S
        while node is not None and (found := node.processes()):
            if time.monotonic() > deadline:
                raise FaultError("inject", f"{found[0]} of node {self.node} does not die: is it frozen?")
            # All are stopped before any dies: none gets to see that another is gone.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in found:
                    process.send(number)

    def effective(self, before: Before) -> str:
        node = self._node()
        if node is not None and node.processes():
            return ""
        return f"{before['count']} processes of node {self.node} are gone"

    def undo(self, before: Before) -> None:
        pass

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return ""


@dataclass(frozen=True)
class Again(_OnNode):
    """Nothing now; undone, the commands that run now are started again, those that have ended by then.

    Attributes:
        log: file for what went into a pipe, whose reader cannot be found again.
    """

    kind = "node.again"

    log: str

    def describe(self) -> str:
        node = self._node()
        words = [" ".join(it.argv) for it in running(node.bed, self.node)] if node is not None else []
        return f"remember what runs in node {self.node}: {'; '.join(words) or 'nothing'}"

    def describe_undo(self) -> str:
        return f"start again in node {self.node} what ran there"

    def before(self) -> Before:
        found = running(self._there().bed, self.node)
        if not found:
            raise PlanError(
                "rejoin", True, f"nothing runs in node {self.node} that could be started again: start it with  "
                "aiobs chaos testbed exec  or Node.start",
            )  # fmt: skip
        return {"lost": [{"key": it.key, "outputs": [self._output(it, number) for number in (1, 2)]} for it in found]}

    def _output(self, command: Command, number: int) -> str:
        try:
            path = os.readlink(f"/proc/{command.pid}/fd/{number}")
        except OSError:
            return self.log
        return path if path.startswith("/") and os.path.exists(path) else self.log

    def act(self, before: Before) -> None:
        pass

    def effective(self, before: Before) -> str:
        return f"{len(before['lost'])} commands of node {self.node} will be started again"

    def _missing(self, node: Node, before: Before) -> Iterator[tuple[Command, list[str]]]:
        """What has ended and has no successor yet, with its outputs."""
        noted = {it.key: it for it in commands(node.bed, self.node)}
        for lost in before["lost"]:
            command = noted.get(lost["key"])
            if command is None or command.process().is_alive() or successor(node.bed, self.node, command.key):
                continue
            yield command, lost["outputs"]

    def undo(self, before: Before) -> None:
        node = self._node()
        if node is None:
            return
        # One that was started, by somebody who died before it was noted, has its mark.
        marked = {it.variables().get(INSTEAD_OF) for it in node.processes()}
        for command, outputs in self._missing(node, before):
            if command.key not in marked:
                start_again(node.bed, self.node, command, node.command(command.argv, command.folder), outputs)

    def residue(self, before: Before) -> str:
        node = self._node()
        if node is None:
            return ""
        marked = {it.variables().get(INSTEAD_OF) for it in node.processes()}
        left = [" ".join(it.argv) for it, _ in self._missing(node, before) if it.key not in marked]
        return f"not started again in node {self.node}: {'; '.join(left)}" if left else ""
