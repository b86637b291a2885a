"""What is said to a process from outside: a small private file for each injection, beside its flight record.

::

    <runtime>/records/4711-123-0.fr                       its control word says whether anything is armed
    <runtime>/points/4711-123-0.<injection>.json          what is armed, and until when
    <runtime>/points/4711-123-0.<injection>.answer        what came of it, see answer.py
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from aiobs.errors import PlanError
from aiobs.recorder import layout as at

LIMIT_BYTES = 65536
ARMED, ANSWER = ".json", ".answer"


@dataclass(frozen=True)
class Order:
    """What is armed.

    Attributes:
        id: of the injection; `kind`: of its fault.
        point: name of the point, or a function as ``package.module:Class.method``.
        what: see :mod:`grammar`; `seed`: of its chances.
        expires_ns: monotonic clock; from then on it does nothing, whoever is dead.
        only: "" everywhere, ``signed`` only where a request carries the signed entry of `run`; `key`: where the key
            for that is, ``file:<path>`` or ``env:<name>``.
        trace_id, span_id: of the fault's span, hex, "" where there is none.
    """

    id: str
    kind: str
    point: str
    what: str
    seed: str
    expires_ns: int
    only: str = ""
    key: str = ""
    run: str = ""
    trace_id: str = ""
    span_id: str = ""


def folder_of(record: Path) -> Path:
    """Where the files of a process with that flight record are."""
    return record.parent.parent / "points"


def path_of(record: Path, injection: str, suffix: str) -> Path:
    """The file of one injection into it."""
    return folder_of(record) / f"{record.stem}.{injection}{suffix}"


def orders_of(record: Path) -> list[Path]:
    """Every order to the process with that flight record."""
    return sorted(folder_of(record).glob(f"{record.stem}.*{ARMED}"))


def read_private(path: Path) -> bytes:
    """A file's content, where nobody but this user can have written it.

    Raises:
        OSError: it cannot be read.
        PlanError: it is a link, belongs to somebody else, is open to others, or too long.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PlanError("file", str(path), "must be a file of this user that nobody else can read; chmod 600 it")
        content = os.read(descriptor, LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > LIMIT_BYTES:
        raise PlanError("file", str(path), f"is longer than {LIMIT_BYTES} bytes")
    return content


def read_order(path: Path) -> Order:
    """The order in a file.

    Raises:
        OSError, PlanError: it cannot be read, is not private, or malformed.
    """
    try:
        data = json.loads(read_private(path))
        kinds = {it.name: int if str(it.type) == "int" else str for it in fields(Order)}
        if not isinstance(data, dict) or any(type(value) is not kinds.get(key) for key, value in data.items()):
            raise TypeError("fields of another kind")
        return Order(**data)
    except (ValueError, TypeError) as error:
        raise PlanError("file", str(path), f"is no order to a point: {error}") from None


def write_order(path: Path, order: Order, user: int, group: int) -> None:
    """Write or replace an order for a process of that user; whole or not at all. Raises OSError."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, json.dumps(asdict(order)).encode())
        os.fchown(descriptor, user, group)
    finally:
        os.close(descriptor)
    os.replace(new, path)


def tell(record: Path) -> None:
    """Have the process look at its orders again. Raises OSError."""
    descriptor = os.open(record, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        generation = int.from_bytes(os.pread(descriptor, 4, at.POINTS_GENERATION), "little")
        armed = bytes([bool(orders_of(record))])
        os.pwrite(descriptor, ((generation + 1) & 0xFFFFFFFF).to_bytes(4, "little"), at.POINTS_GENERATION)
        os.pwrite(descriptor, armed, at.POINTS_ARMED)
    finally:
        os.close(descriptor)
