"""Files as a Collector's file exporter writes them: canonical OTLP JSON of its own making, rotated, packed, mixed, damaged.

No Collector is to be had here: the lines follow its documentation and its JSON encoding (enums as numbers or names, ids
in hexadecimal digits, 64-bit numbers as text, empty fields left out, a request a line, all signals in one file).
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.sources.fault_record import faults_in
from aiobs.cli.main import main as cli
from aiobs.errors import RecordError

OTHER = ['{"resourceMetrics":[{"resource":{},"scopeMetrics":[{"scope":{},"metrics":[{"name":"m","sum":{"dataPoints":[]}}]}]}]}', '{"resourceLogs":[]}']  # fmt: skip


@pytest.fixture
def told(scene: Any, tmp_path: Path) -> tuple[list[str], Path]:
    """Lines of the Collector, and the spec."""
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    _, _, spec = scene.write()
    lines = []
    for place, group in enumerate(scene.groups):
        spans = group["scopeSpans"][0]["spans"]
        for begin in range(0, len(spans), 400):
            some = [_canonical(span, names=place == 1) for span in spans[begin : begin + 400]]
            body = {"resource": group["resource"], "scopeSpans": [{"scope": {"name": "llm", "version": "1"}, "spans": some}], "schemaUrl": "https://opentelemetry.io/schemas/1.26.0"}  # fmt: skip
            lines.append(json.dumps({"resourceSpans": [body]}))
    lines[1:1] = OTHER
    return lines, Path(spec)


def _canonical(span: dict[str, Any], names: bool) -> dict[str, Any]:
    found = {**span, "parentSpanId": "", "flags": 256}
    if names:
        found["kind"] = {1: "SPAN_KIND_INTERNAL", 2: "SPAN_KIND_SERVER"}[span["kind"]]
        found["status"] = {"code": "STATUS_CODE_ERROR", "message": "x"} if span["status"] else {}
    if not found["status"]:
        del found["status"]
    return found


def whole(folder: Path, lines: list[str]) -> None:
    (folder / "otel.json").write_text("\n".join(lines) + "\n")


def rotated(folder: Path, lines: list[str]) -> None:
    (folder / "otel-2026-11-24T10-00-00.000.json").write_text("\n".join(lines[:5]) + "\n")
    (folder / "otel.json").write_text("\n".join(lines[5:]) + "\n")
    (folder / "journal.json").write_text('{"chaoslib-version": "1"}')


def zipped(folder: Path, lines: list[str]) -> None:
    (folder / "otel-1.json.gz").write_bytes(gzip.compress(("\n".join(lines[:5]) + "\n").encode()))
    (folder / "otel.jsonl").write_text("\n".join(lines[5:]) + "\n")


def framed_zstd(folder: Path, lines: list[str]) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    packed = [zstandard.compress(line.encode()) for line in lines]
    (folder / "otel.zst").write_bytes(b"".join(struct.pack(">I", len(it)) + it for it in packed))


def plain_zstd(folder: Path, lines: list[str]) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    (folder / "otel.json.zst").write_bytes(zstandard.compress(("\n".join(lines) + "\n").encode()))


def framed_proto(folder: Path, lines: list[str]) -> None:
    json_format = pytest.importorskip("google.protobuf.json_format", reason="needs protobuf")
    from base64 import b64encode

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    out = b""
    for line in lines:
        body = json.loads(line)
        for group in body.get("resourceSpans", ()):
            for span in group["scopeSpans"][0]["spans"]:
                for name in ("traceId", "spanId"):
                    span[name] = b64encode(bytes.fromhex(span[name])).decode()
        if "resourceSpans" in body:
            message = json_format.ParseDict(body, ExportTraceServiceRequest()).SerializeToString()
            out += struct.pack(">I", len(message)) + message
    (folder / "otel.pb").write_bytes(out)


@pytest.mark.parametrize("write", [whole, rotated, zipped, framed_zstd, plain_zstd, framed_proto])
def test_what_a_collector_wrote_is_judged(told: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path, list[str]], None]) -> None:  # fmt: skip
    lines, spec = told
    folder = tmp_path / "collector"
    folder.mkdir()
    write(folder, lines)
    code = main([str(folder), "--spec", str(spec), "--json"])
    (verdict,) = json.loads(capsys.readouterr().out)
    assert (code, verdict["raw"]["spans"]) == (0, 10_000), verdict["sentence"]
    (inside,) = [it for it in verdict["cells"] if it["side"] == "inside"]
    assert inside["fault"] > 0.95
    if write is whole:
        assert main([str(folder / "otel.json"), "--spec", str(spec)]) == 0


@pytest.mark.parametrize(("content", "name", "says"), [
    (b"", "otel.json", "holds no spans"),
    (b'{"title": "other"}', "x.json", "holds no spans"),
    (gzip.compress(b"{}" * 1000)[:-12], "x.json.gz", "is damaged"),
    (struct.pack(">I", 99) + b"abc", "x.zst", "its last request is cut off"),
    (struct.pack(">I", 2**31) + b"abc", "x.pb", "a request of 2147483648 bytes"),
    (struct.pack(">I", 8) + b"\x28\xb5\x2f\xfdabcd", "x.zst", "damaged"),
    (struct.pack(">I", 3) + b"\xff\xff\xff", "x.pb", "damaged"),
])  # fmt: skip
def test_damage_is_said(told: tuple[list[str], Path], tmp_path: Path, content: bytes, name: str, says: str) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(RecordError, match=says):
        main([str(folder), "--spec", str(told[1])])


def test_there_has_to_be_something(told: tuple[list[str], Path], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such folder or file"):
        main([str(tmp_path / "none"), "--spec", str(told[1])])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(RecordError, match="tells of no fault"):
        faults_in(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"chaoslib-version": "1", "aiobs": {"injections": [{}]}}')
    with pytest.raises(RecordError, match="no faults can be read from it"):
        faults_in(tmp_path / "x.json")


def test_boundaries_are_suggested_by_a_verb_of_their_own(scene: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scene.replica("a")
    scene.replica("b")
    scene.write()
    assert cli(["boundaries", "suggest", str(scene.folder)]) == 0
    assert "- each: aiobs.replica  # 2: a, b" in capsys.readouterr().out
    scene.groups = scene.groups[:1]
    scene.write()
    assert cli(["boundaries", "suggest", str(scene.folder)]) == 12
