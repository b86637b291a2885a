"""A run folder that is being written, as live telemetry: where aiobs itself runs in the services, no receiver is needed."""

from __future__ import annotations

import json
import time
from pathlib import Path

from aiobs.chaos.containment.sources.observed import Observed, observed
from aiobs.errors import RecordError

OWN = "traces-faults.jsonl"
"""What :meth:`Following.keep` adds; no other writer knows the name."""
_PIECE = 4 << 20
_LONGEST = 64 << 20
_LOOK_S = 0.05


class Following:
    """The :class:`~aiobs.chaos.containment.watch.Live` telemetry of a run folder; what it holds already is passed over.

    Attributes:
        broken: lines that could not be read.

    Raises:
        RecordError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.broken = 0
        if not self.folder.is_dir():
            raise RecordError(str(folder), "there is no such run folder; start the services first, they make it")
        self._places = {path: _size(path) for path in self._files()}
        self._halves: dict[Path, bytes] = {}

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob("traces*.jsonl")) if path.name != OWN]

    def spans(self, timeout_s: float) -> list[Observed]:
        """What has been written since the last call. Raises RecordError where the folder is gone."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [span for path in self._files() for span in self._more(path)]
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            if not self.folder.is_dir():
                raise RecordError(str(self.folder), "the folder that was followed is gone")
            time.sleep(min(_LOOK_S, left))

    def keep(self, line: bytes) -> None:
        """Add a line of OTLP JSON, in a file of its own. Raises RecordError."""
        try:
            with open(self.folder / OWN, "ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            raise RecordError(str(self.folder / OWN), f"cannot be written ({error.strerror or error})") from error

    def _more(self, path: Path) -> list[Observed]:
        place = self._places.get(path, 0)
        if _size(path) < place:  # cut off and begun anew
            place, self._halves[path] = 0, b""
        try:
            with path.open("rb") as file:
                file.seek(place)
                content = file.read(_PIECE)
        except OSError:
            return []  # it is silence that counts
        self._places[path] = place + len(content)
        *lines, half = (self._halves.get(path, b"") + content).split(b"\n")
        if len(half) > _LONGEST:
            half, self.broken = b"", self.broken + 1
        self._halves[path] = half
        found: list[Observed] = []
        for line in lines:
            try:
                found += observed(json.loads(line)) if line.strip() else ()
            except (ValueError, TypeError, AttributeError, KeyError):
                self.broken += 1
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
