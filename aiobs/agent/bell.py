"""A bell at the agent's door: whoever has something for it rings, and it looks at once instead of soon."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def bell_path(runtime_dir: Path) -> Path:
    """The named pipe."""
    return runtime_dir / "agent" / "bell"


def open_bell(runtime_dir: Path) -> int:
    """The agent's end: a descriptor that is readable after somebody rang. Raises OSError."""
    path = bell_path(runtime_dir)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Opened for writing too, so that the last one who rang does not end the file.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def ring(runtime_dir: Path) -> None:
    """Wake the agent, if there is one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(bell_path(runtime_dir), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
