"""A file that is not what its writer wrote: torn off, or with bits flipped; the original is kept by a second name."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.identity import all_processes
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import PlanError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Damage(Operation):
    """Put a damaged copy in the place of a file.

    The original keeps its inode under the name `keep` on the same file system, so that putting it back is one
    rename, which brings back content, times, owner and mode. What its program has written there meanwhile stays.

    Attributes:
        size: how many bytes are left of it, -1 for all; `bits`: positions of the bits that are flipped.
    """

    kind = "file.damage"
    lasting = True

    path: str
    keep: str
    size: int
    bits: tuple[int, ...]

    @property
    def _fresh(self) -> Path:
        return Path(self.keep + ".new")

    def describe(self) -> str:
        what = f"cut to {self.size} bytes" if self.size >= 0 else f"{len(self.bits)} bits flipped"
        return f"{self.path}: {what}; the original is kept as {self.keep}"

    def describe_undo(self) -> str:
        return f"mv {self.keep} {self.path}"

    def _damaged(self) -> Iterator[bytes]:
        flips: dict[int, list[int]] = {}
        for bit in self.bits:
            flips.setdefault(bit // 8 // _CHUNK, []).append(bit)
        left = self.size if self.size >= 0 else os.stat(self.path).st_size
        with open(self.path, "rb") as file:
            for index in range(left // _CHUNK + 1):
                chunk = bytearray(file.read(min(_CHUNK, left - index * _CHUNK)))
                for bit in flips.get(index, ()):
                    chunk[bit // 8 % _CHUNK] ^= 1 << bit % 8
                yield bytes(chunk)

    def before(self) -> Before:
        if writer := _writer(self.path):
            raise PlanError("target", self.path, f"{writer} has it open for writing; wait until it is written")
        if os.path.lexists(self.keep) or os.path.lexists(self._fresh):
            raise PlanError("target", self.keep, "exists already and is not ours; choose another injection id")
        digest = hashlib.sha256()
        for chunk in self._damaged():
            digest.update(chunk)
        found = os.stat(self.path)
        return {"inode": found.st_ino, "sha256": _digest(self.path), "damaged": digest.hexdigest()}

    def act(self, before: Before) -> None:  # noqa: ARG002
        os.link(self.path, self.keep)
        with open(self._fresh, "xb") as file:
            file.writelines(self._damaged())
        found = os.stat(self.path)
        if os.geteuid() == 0:
            os.chown(self._fresh, found.st_uid, found.st_gid)
        shutil.copystat(self.path, self._fresh)
        self._fresh.replace(self.path)

    def effective(self, before: Before) -> str:
        now = _digest(self.path)
        if now != before["damaged"]:
            return ""
        return f"sha256 of {self.path} is {now[:12]}, it was {before['sha256'][:12]}"

    def undo(self, before: Before) -> None:
        self._fresh.unlink(missing_ok=True)
        if os.path.lexists(self.keep) and os.stat(self.keep).st_ino == before["inode"]:
            if _inode(self.path) != before["inode"] and _digest(self.path) == before["damaged"]:
                os.replace(self.keep, self.path)
            else:  # never replaced, written anew by its program, or removed by it
                os.unlink(self.keep)

    def residue(self, before: Before) -> str:
        for path in (self.keep, str(self._fresh)):
            if os.path.lexists(path):
                return f"{path} is still there"
        return f"{self.path} is still damaged" if _digest(self.path) == before["damaged"] else ""


def newest(folder: str, pattern: str) -> str:
    """The file in `folder` that was written last, among those the pattern names; `folder` itself where it is a file.

    Raises:
        PlanError: there is none.
    """
    if os.path.isfile(folder):
        return folder
    found = [it for it in Path(folder).glob(pattern) if it.is_file() and not it.is_symlink() and it.name[0] != "."]
    if not found:
        raise PlanError("pattern", pattern, f"names no file in {folder}; use for example *.pt or **/*.distcp")
    return str(max(found, key=lambda it: (it.stat().st_mtime_ns, str(it))))


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _writer(path: str) -> str:
    """Who has a file open for writing, "" where nobody has that we can see."""
    wanted = os.stat(path)
    for process in all_processes():
        try:
            entries = list(os.scandir(f"/proc/{process.pid}/fd"))
        except OSError:
            continue
        if any(_writes(process.pid, entry, wanted) for entry in entries):
            return str(process)
    return ""


def _writes(pid: int, entry: os.DirEntry[str], wanted: os.stat_result) -> bool:
    """Whether this descriptor writes to that file; one that has been closed since does not."""
    try:
        found = os.stat(entry.path)
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
            return False
        lines = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text("utf-8").splitlines()
        flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    except (OSError, StopIteration):
        return False
    return flags & os.O_ACCMODE != os.O_RDONLY
