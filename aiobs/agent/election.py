"""One agent for each runtime directory: whoever holds the lock on ``agent/lock`` is it.

The kernel releases the lock when its holder dies, however it dies. The file also names the holder, for
people and for ``aiobs doctor``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

_TRIES = 3
_PAUSE_S = 0.02


def lock_path(runtime_dir: Path) -> Path:
    """The file that is locked."""
    return runtime_dir / "agent" / "lock"


def is_led(runtime_dir: Path) -> bool:
    """Whether an agent holds the lock; cheap. Somebody who tries for it at this moment may be put off briefly."""
    try:
        descriptor = os.open(lock_path(runtime_dir), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, exclusive=False)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_held: set[int] = set()


def _close_in_child() -> None:
    # flock belongs to the open file, which a forked child shares: it would hold the lock beyond its parent.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Leadership:
    """The lock, held.

    Attributes:
        descriptor: of the lock file. Whoever inherits it holds the lock too: that is how a process that starts
            an agent gives it the lock it already has, so that no second one is started meanwhile.
    """

    def __init__(self, runtime_dir: Path, descriptor: int) -> None:
        self._path = lock_path(runtime_dir)
        self.descriptor = descriptor
        _held.add(descriptor)

    @classmethod
    def take(cls, runtime_dir: Path, *, tries: int = _TRIES) -> Leadership | None:
        """Become the agent of `runtime_dir`, or None where there is one.

        Raises:
            OSError: the lock file cannot be made.
        """
        descriptor = os.open(lock_path(runtime_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for attempt in range(tries):
            if _try_lock(descriptor, exclusive=True):
                break
            # Somebody who only asked whether there is an agent holds the lock for a moment, too.
            if attempt == tries - 1:
                os.close(descriptor)
                return None
            time.sleep(_PAUSE_S)
        holder = cls(runtime_dir, descriptor)
        if not holder.stands():  # the file was removed between open and lock
            holder.release()
            return cls.take(runtime_dir, tries=tries)
        return holder

    def sign(self) -> None:
        """Write into the lock file who holds it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps({"pid": os.getpid(), "since": time.time()}).encode(), 0)

    def stands(self) -> bool:
        """Whether the lock file is still the one that others would find; false once the folder was removed."""
        try:
            found, ours = os.stat(self._path), os.fstat(self.descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Give it up."""
        if self.descriptor in _held:
            _held.discard(self.descriptor)
            os.close(self.descriptor)
