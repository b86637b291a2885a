"""Spans of whole files, read by as many processes as there are cores: Python decodes on one only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from aiobs.chaos.containment.columns import Asked, Columns, columns
from aiobs.chaos.containment.otlp_json import value_of

Piece = tuple[str, int, int]
"""A file, and the first and the end byte between which the lines begin that are meant."""

WORTH_A_PROCESS = 32 << 20
"""Bytes below which another process would take longer to start than to help."""
_MOST = 4


def read(paths: Sequence[str], asked: Asked) -> Columns:
    """The spans of all files `paths`, in no order, copies among them."""
    shares = _shares([(path, Path(path).stat().st_size) for path in paths], _processes())
    others = [_Reader(share, asked) for share in shares[1:]]
    try:
        found = [columns(_lines(shares[0]), asked), *[other.columns() for other in others]]
    finally:
        for other in others:
            other.close()
    return _joined(found)


def written(paths: Sequence[str], attribute: str, mark: int) -> str:
    """The value of `attribute` that has this mark, as it stands in the files."""
    key = json.dumps(attribute).encode()
    for line in _lines([(path, 0, Path(path).stat().st_size) for path in paths]):
        if key in line and (found := value_of(line, attribute, mark)) is not None:
            return found
    return f"{mark:x}"


def _processes() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)


def _shares(sizes: Sequence[tuple[str, int]], most: int) -> list[list[Piece]]:
    """The files cut into shares of about as many bytes, none so small that it is not worth a process."""
    whole = sum(size for _, size in sizes)
    count = max(1, min(most, whole // WORTH_A_PROCESS))
    each = -(-whole // count) or 1
    found: list[list[Piece]] = [[]]
    room = each
    for path, size in sizes:
        begin = 0
        while begin < size:
            if not room:
                found.append([])
                room = each
            end = min(size, begin + room)
            found[-1].append((path, begin, end))
            room -= end - begin
            begin = end
    return found


def _lines(pieces: Sequence[Piece]) -> Iterator[bytes]:
    for path, begin, end in pieces:
        with Path(path).open("rb", buffering=1 << 20) as file:
            at = begin
            if begin:
                # A line that begins before this piece belongs to the one before.
                file.seek(begin - 1)
                at += len(file.readline()) - 1
            for line in file:
                if at >= end:
                    break
                at += len(line)
                yield line


class _Reader:
    """Another process that reads a share; what it could not, is read here."""

    def __init__(self, share: Sequence[Piece], asked: Asked) -> None:
        self._share, self._asked = share, asked
        self._process: subprocess.Popen[bytes] | None = None
        told = json.dumps({"pieces": share, "asked": asdict(asked)}).encode()
        places = os.pathsep.join([place for place in sys.path if place])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aiobs.chaos.containment.reading"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": places},
            )  # fmt: skip
            assert self._process.stdin is not None
            self._process.stdin.write(told)
            self._process.stdin.close()
        except OSError:
            self.close()

    def columns(self) -> Columns:
        if self._process is not None:
            assert self._process.stdout is not None
            try:
                return _unpacked(self._process.stdout)
            except (ValueError, EOFError, OSError):
                self.close()
        return columns(_lines(self._share), self._asked)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                if end is not None:
                    end.close()


def _arrays(found: Columns) -> list[Any]:
    return [found.start, found.duration, found.key, found.shape, *found.numbers, *found.marks]


def _pack(found: Columns, file: BinaryIO) -> None:
    arrays = _arrays(found)
    head = {
        "rows": len(found.start), "kinds": [one.dtype.str for one in arrays], "numbers": len(found.numbers), "shapes": found.shapes,
        "faults": found.faults, "lines": found.lines, "unreadable": found.unreadable, "timeless": found.timeless,
    }  # fmt: skip
    file.write(json.dumps(head).encode() + b"\n")
    file.writelines(one.tobytes() for one in arrays)
    file.flush()


def _unpacked(file: Any) -> Columns:
    import numpy as np

    head = json.loads(file.readline())
    arrays = []
    for kind in head["kinds"]:
        one = np.empty(head["rows"], np.dtype(kind))
        if one.nbytes and file.readinto(one.view(np.uint8)) != one.nbytes:
            raise EOFError
        arrays.append(one)
    middle = 4 + head["numbers"]
    shapes = [tuple(shape) for shape in head["shapes"]]
    return Columns(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4:middle], arrays[middle:], shapes, head["faults"],
                   head["lines"], head["unreadable"], head["timeless"])  # fmt: skip


def _joined(found: list[Columns]) -> Columns:
    import numpy as np

    if len(found) == 1:
        return found[0]
    places: dict[Any, int] = {}
    for one in found:
        renamed = np.array([places.setdefault(shape, len(places)) for shape in one.shapes], np.int32)
        if len(one.shape):
            one.shape = renamed[one.shape]
    first = found[0]
    both = [np.concatenate(each) for each in zip(*map(_arrays, found), strict=True)]
    middle = 4 + len(first.numbers)
    return Columns(both[0], both[1], both[2], both[3], both[4:middle], both[middle:], list(places), [fault for one in found for fault in one.faults],
                   sum(one.lines for one in found), sum(one.unreadable for one in found), sum(one.timeless for one in found))  # fmt: skip


def _serve() -> None:
    told = json.load(sys.stdin)
    asked = Asked(**{name: tuple(keys) for name, keys in told["asked"].items()})
    _pack(columns(_lines(told["pieces"]), asked), sys.stdout.buffer)


if __name__ == "__main__":
    _serve()
