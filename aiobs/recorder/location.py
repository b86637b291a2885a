"""Where flight records, spool and agent live: one private folder per user."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from aiobs.errors import RecordError
from aiobs.settings import Settings

FOLDERS = ("records", "agent", "spool", "faults")


def runtime_path(settings: Settings) -> Path:
    """The runtime directory's path, without making it: setting, else XDG_RUNTIME_DIR, else per user in tmp."""
    if settings.runtime_dir:
        return Path(settings.runtime_dir).absolute()
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.access(xdg, os.W_OK):
        return Path(xdg) / "aiobs"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"aiobs-{user}"


def runtime_dir(settings: Settings) -> Path:
    """The runtime directory with its folders, made where missing, checked to be private.

    Raises:
        RecordError: it is a symbolic link, belongs to somebody else, is open to others, or cannot be made.
    """
    path = runtime_path(settings)
    private_folder(path)
    for name in FOLDERS:
        private_folder(path / name)
    return path


def private_folder(path: Path) -> None:
    """Make a folder only its owner may enter, or check that it is one. Raises RecordError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise RecordError(
            str(path), f"cannot be made ({error.strerror}); set AIOBS_RUNTIME_DIR to a folder you can write"
        ) from error
    if stat.S_ISLNK(found.st_mode):
        raise RecordError(str(path), "is a symbolic link, refused; set AIOBS_RUNTIME_DIR to the real folder")
    if not stat.S_ISDIR(found.st_mode):
        raise RecordError(str(path), "is not a folder; set AIOBS_RUNTIME_DIR to one")
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise RecordError(
            str(path), f"belongs to user {found.st_uid}, refused; set AIOBS_RUNTIME_DIR to a folder of your own"
        )
    if found.st_mode & 0o077:
        raise RecordError(
            str(path),
            f"is open to others (mode {found.st_mode & 0o777:o}), refused; run  chmod 700 {path}",
        )
