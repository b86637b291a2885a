"""Where chaos keeps what must outlive it: sessions with their undo journals, locks, the audit trail, the stop file.

::

    <dir>/host.lock              held by the session that may inject on this host
    <dir>/STOP                   while it is there, everything is undone and nothing is injected
    <dir>/audit.jsonl
    <dir>/sessions/<id>/         journal.jsonl, owner.json, lock, injector.log, files of workers
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aiobs.errors import ArmError, RecordError
from aiobs.recorder.location import private_folder
from aiobs.settings import Settings

from .identity import ProcessIdentity


def chaos_path(settings: Settings) -> Path:
    """The folder's path, without making it."""
    if settings.chaos_dir:
        return Path(settings.chaos_dir).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/aiobs/chaos")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "aiobs/chaos"


@dataclass(frozen=True)
class Place:
    """The folder. Make it with :func:`open_place`."""

    path: Path

    @property
    def stop_file(self) -> Path:
        """The file that stops everything."""
        return self.path / "STOP"

    @property
    def audit_file(self) -> Path:
        """The audit trail."""
        return self.path / "audit.jsonl"

    def session(self, name: str) -> Path:
        """The folder of one session."""
        return self.path / "sessions" / name

    def sessions(self) -> Iterator[Path]:
        """Folders of all sessions there are, oldest first."""
        yield from sorted((it for it in (self.path / "sessions").iterdir() if it.is_dir()), key=lambda it: it.name)

    def lock_host(self, session: str) -> int:
        """Take the host's lock for `session`; returns its descriptor, which children inherit.

        Raises:
            ArmError: another session has it; the message names its owner.
        """
        descriptor = lock(self.path / "host.lock")
        if descriptor is None:
            name = (self.path / "host.lock").read_text("utf-8").strip()
            owner = read_owner(self.session(name))
            raise ArmError(
                f"another experiment holds this host: {owner or name}; wait for it, or end it with  aiobs chaos stop"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, session.encode(), 0)
        return descriptor


def open_place(settings: Settings) -> Place:
    """The chaos folder, made where missing, checked to be private.

    Raises:
        ArmError: it cannot be made or is not private.
    """
    path = chaos_path(settings)
    try:
        private_folder(path)
        private_folder(path / "sessions")
    except RecordError as error:
        raise ArmError(f"{error} (AIOBS_CHAOS_DIR)") from error
    return Place(path)


def lock(path: Path) -> int | None:
    """Lock a file; its descriptor, or None where a living process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@dataclass(frozen=True)
class Owner:
    """Who runs a session: the process that asked for it, the injector, and since when (Unix s)."""

    who: str
    asker: int
    injector: int
    injector_start: int
    since: float

    def process(self) -> ProcessIdentity:
        """The injector."""
        return ProcessIdentity(self.injector, self.injector_start)

    def __str__(self) -> str:
        return f"{self.who} (pid {self.asker}, injector {self.injector})"


def write_owner(session: Path, owner: Owner) -> None:
    """Say whose session it is."""
    (session / "owner.json").write_text(json.dumps(asdict(owner)), "utf-8")


def read_owner(session: Path) -> Owner | None:
    """Whose session it is, None where that is not known."""
    try:
        return Owner(**json.loads((session / "owner.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
