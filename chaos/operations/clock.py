"""A wrong wall clock for processes under libfaketime: the file they read their offset from."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.operation import Before, Operation
from aiobs.errors import PlanError


@dataclass(frozen=True)
class Skew(Operation):
    """Write another offset into a libfaketime file.

    Attributes:
        path: value of FAKETIME_TIMESTAMP_FILE.
        text: the offset, such as ``+3600``.
        mark: of the injection, names the file that is renamed into place.
    """

    kind = "clock.skew"
    lasting = True

    path: str
    text: str
    mark: str

    @property
    def _fresh(self) -> Path:
        return Path(f"{self.path}.{self.mark}")

    def describe(self) -> str:
        return f"write {self.text} into {self.path}"

    def describe_undo(self) -> str:
        return f"write back into {self.path} what was in it"

    def _text(self) -> str | None:
        try:
            return Path(self.path).read_text("utf-8")
        except OSError:
            return None

    def before(self) -> Before:
        found = self._text()
        if found is None or os.path.islink(self.path):
            raise PlanError("clock.skew", self.path, "is no file that can be read; write +0 into it before the start")
        if found.strip() == self.text:
            raise PlanError("clock.skew", self.path, f"says {self.text} already, so writing it would prove nothing")
        return {"text": found, "mtime_ns": os.stat(self.path).st_mtime_ns}

    def _write(self, text: str, mtime_ns: int = 0) -> None:
        self._fresh.write_text(text, "utf-8")
        shutil.copymode(self.path, self._fresh)
        found = os.stat(self.path)
        if os.geteuid() == 0:
            os.chown(self._fresh, found.st_uid, found.st_gid)
        if mtime_ns:
            os.utime(self._fresh, ns=(mtime_ns, mtime_ns))
        self._fresh.replace(self.path)

    def act(self, before: Before) -> None:  # noqa: ARG002
        self._write(self.text + "\n")

    def effective(self, before: Before) -> str:  # noqa: ARG002
        return f"{self.path} says {self.text}" if (self._text() or "").strip() == self.text else ""

    def undo(self, before: Before) -> None:
        self._fresh.unlink(missing_ok=True)
        if (self._text() or "").strip() == self.text:
            self._write(str(before["text"]), int(before["mtime_ns"]))

    def residue(self, before: Before) -> str:  # noqa: ARG002
        if self._fresh.exists():
            return f"{self._fresh} is still there"
        return f"{self.path} still says {self.text}" if (self._text() or "").strip() == self.text else ""
