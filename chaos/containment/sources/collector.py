"""Files of an OpenTelemetry Collector's file exporter: what of them a run folder can be read from as it is, and the rest
unpacked.

The exporter writes OTLP JSON, a request a line, all signals into the file it is told; it rotates to ``NAME-TIME.json``.
With ``compression: zstd`` or ``format: proto`` it writes requests with their length before them (four bytes, big end
first) in place of lines.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from aiobs.chaos.containment.sources.bodies import BodyError, from_protobuf
from aiobs.errors import NotEnabledError, RecordError

_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP = b"\x1f\x8b"
_LONGEST = 256 << 20


def readable(path: Path, stack: ExitStack) -> Path:
    """A run folder with what `path` holds: itself where it is one; else one of links and unpacked files, which is gone
    with `stack`.

    Raises:
        RecordError: there is nothing, or it is damaged.
        NotEnabledError: it is compressed with zstd, and that is not installed.
    """
    if not path.exists():
        raise RecordError(str(path), "there is no such folder or file")
    files = _files(path)
    if not files:
        raise RecordError(str(path), "holds no spans: there is no traces*.jsonl, nor a file of a Collector's file exporter (*.json, *.jsonl, *.gz, *.zst)")  # fmt: skip
    plain = all(file.suffix in (".jsonl", ".json") and _begins(file) not in (_GZIP, _ZSTD) and _lines(file) for file in files)  # fmt: skip
    if plain and (path.is_file() or all(file.match("traces*.jsonl") for file in files)):
        return path
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="aiobs-verdict-")))
    for place, file in enumerate(files):
        _unpack(file, folder / f"traces-{place:04d}.jsonl")
    return folder


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    ours = [it for it in sorted(path.glob("traces*.jsonl")) if it.stat().st_size]
    if ours:
        return ours
    kinds = (".json", ".jsonl", ".gz", ".zst", ".pb", ".proto")
    other = [it for it in sorted(path.iterdir()) if it.is_file() and it.stat().st_size and it.suffix in kinds]
    return [it for it in other if not it.name.startswith(("metrics", "logs")) and _otlp(it)]


def _otlp(file: Path) -> bool:
    """Whether it can be telemetry: a folder may hold other JSON too, such as a journal."""
    if _begins(file) in (_GZIP, _ZSTD) or not _lines(file):
        return True
    with file.open("rb") as it:
        return it.read(64).lstrip().startswith((b'{"resource', b'{ "resource'))


def _begins(file: Path) -> bytes:
    with file.open("rb") as it:
        start = it.read(8)
    return _GZIP if start.startswith(_GZIP) else _ZSTD if start.startswith(_ZSTD) or start[4:] == _ZSTD else start


def _lines(file: Path) -> bool:
    with file.open("rb") as it:
        return it.read(64).lstrip().startswith(b"{")


def _unpack(file: Path, into: Path) -> None:
    start = _begins(file)
    if start != _GZIP and start != _ZSTD and _lines(file):
        into.symlink_to(file.resolve())
        return
    try:
        with into.open("wb") as out:
            if start == _GZIP:
                with gzip.open(file, "rb") as packed:
                    while piece := packed.read(1 << 20):
                        out.write(piece)
                return
            for message in _messages(file):
                body = _unzstd(message) if message.startswith(_ZSTD) else message
                if body.lstrip().startswith(b"{"):
                    out.write(body.rstrip(b"\n") + b"\n")
                else:
                    out.write(from_protobuf("traces", body).line)
    except (OSError, EOFError, struct.error, BodyError) as error:
        raise RecordError(str(file), f"is damaged, or no file of a Collector's file exporter: {error}") from error


def _messages(file: Path) -> Iterator[bytes]:
    """Requests with their length before them; a plain zstd file, as a log rotation makes them, is one."""
    with file.open("rb") as it:
        if it.read(4) == _ZSTD:
            it.seek(0)
            yield it.read()
            return
        it.seek(0)
        while head := it.read(4):
            (length,) = struct.unpack(">I", head)
            if length > _LONGEST:
                raise EOFError(f"a request of {length} bytes")
            message = it.read(length)
            if len(message) < length:
                raise EOFError("its last request is cut off")
            yield message


def _unzstd(message: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise NotEnabledError("reading a file compressed with zstd", "containment") from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(message, read_across_frames=True) as reader:
            return bytes(reader.read(_LONGEST))
    except zstandard.ZstdError as error:
        raise BodyError(f"its zstd is damaged: {error}") from error
