"""What a slow or failing disk does to one operation: lets it wait, or lets it fail."""

from __future__ import annotations

import errno
import os
from collections import Counter
from fnmatch import fnmatch
from random import Random
from threading import Event, Lock
from time import monotonic
from typing import Any

KINDS = ("open", "read", "write", "fsync", "close", "change", "list")
"""Kinds of operations: ``close`` is the flush at each close, ``change`` everything else that alters a folder or a
file (create, rename, remove, make a folder, mode, owner, length, opening for writing)."""


class Strain:
    """Decides for each operation, in the order they come, by the seed.

    Args:
        told: on, pattern, share, seed, after_bytes, after_count, times; delay_s, jitter_s, rate_bytes;
            error, a name in :mod:`errno`, "" for none.
        over: once it is set, nothing is hit any more, and whoever waits goes on at once.
    """

    def __init__(self, told: dict[str, Any], over: Event) -> None:
        self._over = over
        self._kinds = frozenset(told["on"])
        self._pattern: str = told["pattern"]
        self._share: float = told["share"]
        self._after_bytes: int = told["after_bytes"]
        self._after_count: int = told["after_count"]
        self._times: int = told["times"]
        self._delay_s: float = told["delay_s"]
        self._jitter_s: float = told["jitter_s"]
        self._rate: float = told["rate_bytes"]
        self._name: str = told["error"]
        self._error: int = getattr(errno, told["error"]) if told["error"] else 0
        self._random = Random(told["seed"])  # noqa: S311 - to be repeatable
        self._lock = Lock()
        self._free = 0.0
        self._bytes = 0
        self._seen: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._waited_s = 0.0

    def on(self, kinds: str | tuple[str, ...], name: str, size: int = 0) -> int:
        """An operation of that kind (or of several at once) on that file, of `size` bytes: returns how many of them
        may be done.

        Raises:
            OSError: it fails.
        """
        kind = next((it for it in ((kinds,) if isinstance(kinds, str) else kinds) if it in self._kinds), "")
        if not kind or self._over.is_set() or not self._matches(name):
            return size
        with self._lock:
            self._seen[kind] += 1
            spared = self._spared(size)
            self._bytes += size if spared is None else spared
            if spared is not None:
                return spared
            self._hits[kind] += 1
            wait_s = self._wait_s(size)
            self._waited_s += wait_s
        if wait_s > 0:
            self._over.wait(wait_s)
        if self._error and not self._over.is_set():
            raise OSError(self._error, os.strerror(self._error))
        return size

    def _matches(self, name: str) -> bool:
        return fnmatch(name.lstrip("/"), self._pattern) or fnmatch(name.rpartition("/")[2], self._pattern)

    def _spared(self, size: int) -> int | None:
        """How many bytes are done unharmed; None: the operation is hit."""
        chosen = self._random.random() < self._share
        if not chosen or self._seen.total() <= self._after_count or 0 < self._times <= self._hits.total():
            return size
        room = self._after_bytes - self._bytes
        if room <= 0:
            return None
        # What goes beyond fails, but for the part that still fits, as on a disk that fills up; a slow one does it all.
        return min(size, room) if self._error and size else size

    def _wait_s(self, size: int) -> float:
        wait_s = self._delay_s + (self._random.uniform(-1, 1) * self._jitter_s if self._jitter_s else 0.0)
        if self._rate and size:
            now = monotonic()
            self._free = max(self._free, now) + size / self._rate
            wait_s = max(wait_s, self._free - now)
        return max(0.0, wait_s)

    def evidence(self) -> str:
        """What was hit so far, one line; "" for nothing."""
        with self._lock:
            if not self._hits:
                return ""
            counts = ", ".join(f"{count} of {self._seen[kind]} {kind}" for kind, count in sorted(self._hits.items()))
            what = f"failed with {self._name}" if self._error else f"waited {self._waited_s:.3g} s in all"
        return f"{counts} operations {what}"
