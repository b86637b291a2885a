"""Cover a folder with a file system of ours: what the worker does about it is in ``aiobs.chaos.workers.cover``."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass

from aiobs.chaos.mounts import detach_in, find_namespace, mounted
from aiobs.chaos.operation import Before
from aiobs.chaos.operations.worker import Run, reap
from aiobs.errors import FaultError, PlanError

_PATIENCE_S = 2.0
"""How long the worker may take to go, on a busy machine, before it is killed and its mount taken away for it."""


@dataclass(frozen=True, kw_only=True)
class Cover(Run):
    """Mount over `path`, in the mount namespace whose inode is `namespace`.

    Attributes:
        source: name of the mount in the mount table; of this injection alone.
    """

    kind = "cover.folder"

    path: str
    source: str
    namespace: int

    def describe(self) -> str:
        told = json.loads(self.arguments)
        what = f"fail with {told['error']}" if told["error"] else "be slow"
        return f"mount {self.source} over {self.path}: {', '.join(told['on'])} of {told['pattern']} {what}"

    def describe_undo(self) -> str:
        return f"pass everything on; umount --lazy {self.path}"

    def before(self) -> Before:
        holder = find_namespace(self.namespace)
        if not holder:
            raise PlanError("target", self.path, "the mount namespace it is in is gone; choose the target again")
        there = mounted(self.path, holder)
        if there and there[-1].startswith("aiobs-chaos-"):
            raise PlanError("target", self.path, f"is covered by another injection already ({there[-1]})")
        return {"mounts": there}

    def act(self, before: Before) -> None:
        super().act(before)
        if self.source not in mounted(self.path, find_namespace(self.namespace) or "self"):
            raise FaultError("inject", f"{self.path} was not covered")

    def undo(self, before: Before) -> None:  # noqa: ARG002
        """The worker takes its mount away itself; only once it is dead does somebody else. Two who both look, and then
        both unmount, would take away what lies below too."""
        running = self._processes()
        for process in running:
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while any(it.is_alive() for it in running) and not self._lets_go() and time.monotonic() < deadline:
            time.sleep(0.002)
        if self._lets_go():
            return
        for process in running:
            process.send(signal.SIGKILL)
        while any(it.is_alive() for it in running) and time.monotonic() < deadline + _PATIENCE_S:
            time.sleep(0.002)
        if any(it.is_alive() for it in running):
            raise FaultError("undo", f"{running[0]} cannot be killed")
        holder = find_namespace(self.namespace)
        if holder:
            detach_in(holder, self.path, self.source)

    def _lets_go(self) -> bool:
        """Whether the worker has taken its mount away; it may live on for who still has files open."""
        return bool(self.status().get("over"))

    def residue(self, before: Before) -> str:
        if self.source in mounted(self.path, find_namespace(self.namespace) or "self"):
            return f"{self.source} is still mounted at {self.path}"
        if self._lets_go():
            reap(int(self.status()["pid"]))
            return ""
        return super().residue(before)
