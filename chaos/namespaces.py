"""Network namespaces: which one, and how to run the kernel's own tools inside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobs.errors import FaultError, PlanError

from . import kernel

OWN = "/proc/self/ns/net"
_NAMED = Path("/run/netns")


@dataclass(frozen=True)
class Namespace:
    """A network namespace by its inode; `path` is where it was found first.

    A path may go (its process ends) while the namespace lives on: it is looked for again by its inode.
    """

    path: str
    inode: int

    @classmethod
    def of(cls, path: str) -> Namespace:
        """The namespace that the file `path` holds, ours for "".

        Raises:
            PlanError: there is no such file.
        """
        try:
            return cls(path or OWN, os.stat(path or OWN).st_ino)
        except OSError as error:
            raise PlanError("namespace", path, f"cannot be found: {error.strerror}") from error

    @property
    def is_own(self) -> bool:
        """Whether it is the one this process is in."""
        return self.inode == os.stat(OWN).st_ino

    def find(self) -> str:
        """A path that holds it now, "" where nothing does: then it is gone, with everything in it."""
        if self.is_own:
            return OWN
        for path in (self.path, *_holders()):
            try:
                if os.stat(path).st_ino == self.inode:
                    return path
            except OSError:
                continue
        return ""

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` inside it. Raises FaultError where it is gone."""
        path = self.find()
        if not path:
            raise FaultError("inject", f"network namespace {self.path} is gone")
        if self.is_own:
            return list(words)
        if user := user_of(path):
            return ["nsenter", f"--user={user}", f"--net={path}", "--preserve-credentials", *words]
        return ["nsenter", f"--net={path}", *words]

    def run(self, *words: str, told: str = "") -> str:
        """Run a tool inside it and give back what it says.

        Raises:
            FaultError: it failed; the message holds what it said.
        """
        done = subprocess.run(self.command(*words), input=told, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise FaultError("inject", f"{' '.join(words)}: {said[0] if said else f'exit code {done.returncode}'}")
        return done.stdout

    def inside(self, work: Callable[[], None]) -> bool:
        """Do something short inside it, in a fork of this process; false where it raised OSError, or cannot be
        entered."""
        path = self.find()
        if not path:
            return False
        pid = os.fork()
        if pid == 0:
            try:
                enter_network(path)
                work()
                os._exit(0)
            finally:  # whatever it was: a fork must end here
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    def ask(self, *words: str) -> Any:
        """What a tool says as JSON; an empty answer is an empty list. Raises FaultError."""
        return json.loads(self.run(*words) or "[]")


def user_of(path: str) -> str:
    """The user namespace to enter before the network namespace at `path`, where we have rights there and none here;
    "" where there is none."""
    parts = path.split("/")
    if os.geteuid() == 0 or parts[1:2] != ["proc"]:
        return ""
    user = f"/proc/{parts[2]}/ns/user"
    try:
        return user if os.stat(user).st_ino != os.stat("/proc/self/ns/user").st_ino else ""
    except OSError:  # of another user, or gone
        return ""


def enter_network(path: str) -> None:
    """Leave our network namespace for another, by way of the user namespace in which we may. Raises OSError."""
    network = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # as the user we are still: that one cannot be undone
    try:
        if user := user_of(path):
            kernel.enter(user, kernel.NEWUSER)
        kernel.enter_open(network, kernel.NEWNET, path)
    finally:
        os.close(network)


def _holders() -> Iterator[str]:
    for name in os.listdir(_NAMED) if _NAMED.is_dir() else ():
        yield str(_NAMED / name)
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield f"/proc/{name}/ns/net"


def missing_tools(*names: str) -> list[str]:
    """What must be installed, one sentence each."""
    packages = {"nft": "nftables", "tc": "iproute2", "ip": "iproute2", "nsenter": "util-linux"}
    return [f"{it} is not installed: install the package {packages[it]}" for it in names if not shutil.which(it)]


def default_interface() -> str:
    """The interface of our own default route, "" where there is none."""
    try:
        lines = Path("/proc/net/route").read_text("utf-8").splitlines()[1:]
    except OSError:
        return ""
    return next((line.split()[0] for line in lines if line.split()[1] == "00000000"), "")
