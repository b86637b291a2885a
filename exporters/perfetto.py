"""The exporter ``perfetto``: ``trace.perfetto.json``, which ui.perfetto.dev and chrome://tracing open.

Each rank is a process with a name; its spans lie on as many rows as it takes for them to nest. Span events are
marks, and links between spans of the file are arrows. The file can be opened at any moment: the format makes
the closing bracket of the list optional.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from aiobs.errors import ExportError, SettingError
from aiobs.telemetry import Batch, Route

from .append import AppendFile
from .folder import Damage, read_batches
from .perfetto_events import Timeline, origin_event, origin_of

FILE_NAME = "trace.perfetto.json"
_BEGIN, _BETWEEN, _END = b"[\n", b",\n", b"\n]\n"
_HEAD_BYTES = 256
_TORN_BYTES = 1 << 20


def create(route: Route) -> PerfettoExporter:
    """The exporter for a route's run folder.

    Raises:
        SettingError: the route names no folder.
    """
    if not route.run_dir:
        raise SettingError("AIOBS_RUN_DIR", route.run_dir, "name a folder for the exporter perfetto")
    return PerfettoExporter(Path(route.run_dir) / FILE_NAME)


def convert(run_folder: Path, out_path: Path) -> int:
    """Write the spans of a run folder as one Perfetto file; returns how many there are.

    Raises:
        RecordError: the folder cannot be read.
        ExportError: the file cannot be written.
    """
    partial = out_path.with_name(f".{out_path.name}.{os.getpid()}")
    exporter = PerfettoExporter(partial)
    count = 0
    try:
        for signal, batch in read_batches(run_folder, Damage()):
            if signal == "traces":
                exporter.write(batch)
                count += batch.span_count()
        if not count:
            partial.write_bytes(_BEGIN + _END)
        exporter.close()
        partial.replace(out_path)
    except OSError as error:
        raise ExportError(f"{out_path}: cannot be written: {error.strerror or error}") from error
    finally:
        exporter.close()
        partial.unlink(missing_ok=True)
    return count


class PerfettoExporter:
    """A :class:`~aiobs.ports.LocalExporter` that writes one Chrome trace file."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        self._timeline: Timeline | None = None
        self._first = 0

    def write(self, batch: Batch) -> None:
        """Append the spans of `batch`.

        Raises:
            ExportError: the file cannot be written (it is then as before).
        """
        if not batch.spans:
            return
        try:
            self._open()
            if self._timeline is None:
                start = min([row[4] for _, rows in batch.spans for row in rows], default=0)
                self._file.append(_BEGIN + origin_event(start).encode())
                self._timeline = Timeline(start)
            events = [_BETWEEN + event.encode() for event in self._timeline.events(batch)]
            self._file.append(b"".join(events))
        except OSError as error:
            self._timeline = None  # it announced processes in what was not written
            raise self._failure(error) from error

    def mark(self) -> object:
        """Size of the file; None where it cannot be written at present."""
        try:
            self._open()
        except OSError:
            return None
        return self._file.size

    def rewind(self, mark: object) -> None:
        """Cut the file back; None: to what it was when this exporter opened it."""
        try:
            self._open()
            self._file.cut(mark if isinstance(mark, int) else self._first)
        except OSError as error:
            raise self._failure(error) from error
        self._timeline = None

    def close(self) -> None:
        """Close the list and the file."""
        try:
            if self._file.is_open and self._file.size and not self._file.gone():
                self._file.append(_END)
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._file.close()
            self._timeline = None

    def _open(self) -> None:
        """Open the file, go on in a list that was closed or torn, and find the origin of its times."""
        if not self._file.is_open or self._file.gone():
            self._file.close()
            self._file.open()
            self._timeline = None
            self._mend()
            self._first = self._file.size
        if self._timeline is None and self._file.size:
            start = origin_of(self._file.head(_HEAD_BYTES))
            if start is None:
                self._file.cut(0)  # nothing of ours, or cut off before it began
            else:
                self._timeline = Timeline(start)

    def _mend(self) -> None:
        """Open a closed list again; drop a last event that is not whole."""
        tail = self._file.tail(_TORN_BYTES)
        if tail.endswith(_END):
            self._file.cut(self._file.size - len(_END))
            return
        head, found, last = tail.rpartition(_BETWEEN)
        try:
            json.loads(last)
        except ValueError:
            if found:
                self._file.cut(self._file.size - len(tail) + len(head))

    def _failure(self, error: OSError) -> ExportError:
        return ExportError(f"{self._file.path}: cannot be written: {error.strerror or error}")
