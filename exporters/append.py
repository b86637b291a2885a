"""Files that grow at the end, can be cut back, and belong to one living process."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class AppendFile:
    """A file that is opened, and made, when it is first needed; survives its deletion by making it anew.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._descriptor >= 0

    @property
    def size(self) -> int:
        """Bytes in the file, 0 where there is none."""
        if self._descriptor >= 0:
            return os.fstat(self._descriptor).st_size
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def open(self) -> None:
        """Open it, with its folder where that is missing too."""
        if self._descriptor < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def own(self) -> bool:
        """Claim it for as long as it is open; False where another process (or object) has done so."""
        self.open()
        if sys.platform == "win32":
            return True
        import fcntl

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks; there is nothing better
        return True

    def gone(self) -> bool:
        """Whether the file was deleted while it was open."""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def append(self, content: bytes) -> None:
        """Write all of `content`, or raise OSError with the file as it was."""
        self.open()
        before = self.size
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.cut(before)
            raise

    def cut(self, size: int) -> None:
        """Drop everything after `size` bytes."""
        if size < self.size:
            self.open()
            os.ftruncate(self._descriptor, size)

    def head(self, count: int) -> bytes:
        """The first `count` bytes."""
        self.open()
        return os.pread(self._descriptor, count, 0)

    def tail(self, count: int) -> bytes:
        """The last `count` bytes."""
        size = self.size
        if not size:
            return b""
        self.open()
        return os.pread(self._descriptor, count, max(size - count, 0))

    def close(self) -> None:
        """Close it, and give up owning it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
