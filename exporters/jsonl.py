"""The exporter ``jsonl``: a run folder of OTLP JSON Lines, the default where no endpoint is set.

``traces.jsonl``, ``metrics.jsonl`` and ``logs.jsonl`` hold one OTLP/HTTP request body a line, so any tool that
reads the OpenTelemetry file format reads them, and each line can be posted to a receiver. ``run.json`` says
which run it is.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aiobs.errors import ExportError, SettingError
from aiobs.telemetry import Batch, Route

from .append import AppendFile
from .json_bodies import bodies

FORMAT = 1
"""Version of the run folder's layout, in ``run.json``."""

SIGNALS = ("traces", "metrics", "logs")


def create(route: Route) -> JsonlExporter:
    """The exporter for a route's run folder.

    Raises:
        SettingError: the route names no folder.
    """
    if not route.run_dir:
        raise SettingError("AIOBS_RUN_DIR", route.run_dir, "name a folder for the exporter jsonl")
    run = {"format": FORMAT, "run_id": route.run_id, "run_name": route.run_name}
    return JsonlExporter(Path(route.run_dir), run)


class JsonlExporter:
    """A :class:`~aiobs.ports.LocalExporter` that writes a run folder.

    Where another living process writes to the same folder, this one's files get a number
    (``traces-2.jsonl``); readers take all of them together.

    Args:
        folder: made when it is first needed.
        run: what to say in ``run.json``.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self._folder = folder
        self._run = run
        self._suffix = ""
        self._files: dict[str, AppendFile] = {}
        self._first: dict[str, int] = {}

    def write(self, batch: Batch) -> None:
        """Append all of `batch`.

        Raises:
            ExportError: the folder cannot be written (the files are then as before).
        """
        lines: dict[str, list[bytes]] = {}
        for body in bodies(batch, SIGNALS):
            lines.setdefault(body.signal, []).extend((body.content, b"\n"))
        if not lines:
            return
        try:
            self._open()
            before = self._sizes()
            try:
                for signal, parts in lines.items():
                    self._files[signal].append(b"".join(parts))
            except OSError:
                self._cut(before)
                raise
        except OSError as error:
            raise self._failure(error) from error

    def mark(self) -> object:
        """Which files, and their sizes; None where the folder cannot be written at present."""
        try:
            self._open()
        except OSError:
            return None
        return {"suffix": self._suffix, "sizes": self._sizes()}

    def rewind(self, mark: object) -> None:
        """Cut the files back to `mark`; None: to what they were when this exporter opened them."""
        try:
            if isinstance(mark, dict):
                self._open(mark["suffix"])
                if self._suffix == mark["suffix"]:
                    self._cut(mark["sizes"])
            elif self._files:
                self._cut(self._first)
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, wanted: str = "") -> None:
        """Claim a set of files, the `wanted` one if it is free."""
        if self._files and not self._files["traces"].gone():
            return
        self.close()
        for suffix in (wanted, "", *(f"-{number}" for number in range(2, 1000))):
            files = {signal: AppendFile(self._folder / f"{signal}{suffix}.jsonl") for signal in SIGNALS}
            if files["traces"].own():
                break
            files["traces"].close()
        else:
            raise OSError("files of 1000 other processes are in the way")
        self._suffix, self._files = suffix, files
        self._first = self._sizes()
        for file in files.values():
            if file.size and file.tail(1) != b"\n":
                file.append(b"\n")  # a torn line that no mark took back must not spoil the next one
        self._describe()

    def _describe(self) -> None:
        content = json.dumps({**self._run, "created": datetime.now(timezone.utc).isoformat()}, indent=1)
        try:
            with (self._folder / "run.json").open("x", encoding="utf-8") as file:
                file.write(content + "\n")
        except FileExistsError:
            pass

    def _sizes(self) -> dict[str, int]:
        return {signal: file.size for signal, file in self._files.items()}

    def _cut(self, sizes: dict[str, int]) -> None:
        for signal, size in sizes.items():
            self._files[signal].cut(size)

    def _failure(self, error: OSError) -> ExportError:
        return ExportError(f"{self._folder}: cannot be written: {error.strerror or error}")
