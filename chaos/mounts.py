"""Mounts of ours: which there are in a mount namespace, and taking one away.

A mount namespace is known by its inode: the process it was found through may be gone while others live in it. One
that nobody lives in any more is gone, with its mounts.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from aiobs.errors import FaultError

KIND = "aiobs"
"""What follows ``fuse.`` in the type of our mounts."""
_DETACH, _NO_FOLLOW = 2, 8
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000


def namespace_of(pid: int | str = "self") -> int:
    """Inode of the mount namespace of a process. Raises OSError: it is gone, or somebody else's."""
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino


def find_namespace(inode: int) -> str:
    """Pid of a process in it, ``self`` where it is ours, "" where nobody is."""
    for pid in ("self", *(name for name in os.listdir("/proc") if name.isdigit())):
        try:
            if namespace_of(pid) == inode:
                return pid
        except OSError:
            continue
    return ""


def mounted(path: str, pid: str = "self") -> list[str]:
    """Sources of what is mounted at exactly that path, the uppermost last."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        left, _, right = line.partition(" - ")
        if _plain(left.split()[4]) == path:
            found.append(_plain(right.split()[1]))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda it: chr(int(it[1], 8)), text)


def enter(pid: str) -> None:
    """Enter the mount namespace of a process, and the user namespace it belongs to. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = [("user", _NEW_USERS), ("mnt", _NEW_MOUNTS)]
    if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
        wanted = wanted[1:]
    # All are opened first: in the new user namespace the others' files may be out of reach.
    opened = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in wanted]
    for descriptor, flag in opened:
        if libc.setns(descriptor, flag) != 0:
            raise OSError(ctypes.get_errno(), f"namespace of pid {pid}: {os.strerror(ctypes.get_errno())}")
        os.close(descriptor)


def detach(path: str, source: str) -> None:
    """Take our mount away from `path`, in our own mount namespace; files that are open on it stay usable as long as
    somebody answers for it. Does nothing where it is gone.

    Raises:
        FaultError: another mount lies over it, or it cannot be taken away.
    """
    there = mounted(path)
    if source not in there:
        return
    if there[-1] != source:
        raise FaultError("undo", f"{there[-1]} has been mounted over {source} at {path}: unmount that first")
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(path), _DETACH | _NO_FOLLOW) != 0:
            raise FaultError("undo", f"umount {path}: {os.strerror(ctypes.get_errno())}")
        return
    program = shutil.which("fusermount3") or "fusermount3"
    done = subprocess.run([program, "-u", "-z", "--", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FaultError("undo", f"fusermount3 -u {path}: {done.stderr.strip()}")


def detach_in(pid: str, path: str, source: str) -> None:
    """The same in the mount namespace of a process. Raises FaultError."""
    if pid == "self":
        detach(path, source)
        return
    # A process of its own: what enters a mount namespace has its files from there, for good.
    command = [sys.executable, "-m", __name__, pid, path, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise FaultError("undo", said[-1] if said else f"umount {path} failed")


if __name__ == "__main__":
    enter(sys.argv[1])
    try:
        detach(*sys.argv[2:4])
    except FaultError as failed:
        sys.exit(str(failed))
