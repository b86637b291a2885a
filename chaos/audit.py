"""The audit trail: who injected what, into what, why, and how it ended. Each line carries the hash of the one
before it, so that a line changed or taken out later shows."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FIRST = "0" * 64


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, synced. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        line = json.dumps({"at": time.time_ns(), **entry, "previous": _last_hash(descriptor)}, sort_keys=True)
        os.write(descriptor, line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last_hash(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    if not size:
        return _FIRST
    tail = os.pread(descriptor, 1 << 16, max(0, size - (1 << 16))).rstrip(b"\n")
    return hashlib.sha256(tail.rpartition(b"\n")[2]).hexdigest()


def verify(path: Path) -> int | None:
    """The number (from 1) of the first line that does not follow from the one before it, or None: all do.

    Raises:
        OSError: it cannot be read.
    """
    expected = _FIRST
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            if json.loads(line)["previous"] != expected:
                return number
        except (ValueError, KeyError, TypeError):
            return number
        expected = hashlib.sha256(line).hexdigest()
    return None
