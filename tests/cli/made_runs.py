"""Makes run folders of known content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

START = 1_700_000_000_000_000_000
MS = 1_000_000
RUN_TRACE, RUN_SPAN = "aa" * 16, "ab" * 8


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    """An OTLP attribute list."""

    def wrap(value: Any) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"boolValue": value}
        if isinstance(value, int):
            return {"intValue": str(value)}
        if isinstance(value, float):
            return {"doubleValue": value}
        if isinstance(value, list):
            return {"arrayValue": {"values": [wrap(item) for item in value]}}
        return {"stringValue": value}

    return [{"key": key, "value": wrap(value)} for key, value in values.items()]


class MadeRun:
    """A run folder under construction; times are milliseconds after START."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"format": 1, "run_id": "run-1", "run_name": "made"}))
        self._ids = 0

    def _line(self, signal: str, body: dict[str, Any]) -> None:
        with (self.folder / f"{signal}.jsonl").open("a") as file:
            file.write(json.dumps(body) + "\n")

    def resource(self, rank: int | None = 0, **more: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "service.name": "trainer",
            "host.name": "node",
            "process.pid": 100 + (rank or 0),
            "service.instance.id": f"i{rank}",
        }
        if rank is not None:
            values["aiobs.rank"] = rank
        return {"attributes": pairs({**values, **more})}

    def span(
        self, name: str, start: float, end: float, *, trace: str = RUN_TRACE, span: str = "", parent: str = RUN_SPAN, rank: int | None = 0,
        failed: bool = False, events: list[tuple[str, dict[str, Any]]] = [], resource: dict[str, Any] | None = None, scope: str = "aiobs", kind: int = 1, **attributes: Any,  # noqa: B006
    ) -> str:  # fmt: skip
        self._ids += 1
        span = span or f"{self._ids:016x}"
        item = {
            "traceId": trace, "spanId": span, "parentSpanId": parent, "name": name, "kind": kind, "startTimeUnixNano": str(START + int(start * MS)),
            "endTimeUnixNano": str(START + int(end * MS)), "attributes": pairs({key.replace("__", "."): value for key, value in attributes.items()}),
            "events": [{"timeUnixNano": str(START), "name": event, "attributes": pairs(values)} for event, values in events],
        }  # fmt: skip
        if failed:
            item["status"] = {"code": 2}
        group = {
            "resource": self.resource(rank, **(resource or {})),
            "scopeSpans": [{"scope": {"name": scope}, "spans": [item]}],
        }
        self._line("traces", {"resourceSpans": [group]})
        return span

    def metric(
        self,
        name: str,
        kind: str,
        *,
        rank: int = 0,
        time: float = 0,
        attributes: dict[str, Any] | None = None,
        **point: Any,
    ) -> None:
        item = {
            "attributes": pairs(attributes or {}),
            "startTimeUnixNano": str(START),
            "timeUnixNano": str(START + int(time * MS)),
            **point,
        }
        metrics = [{"name": name, "unit": "s", kind: {"dataPoints": [item], "aggregationTemporality": 2}}]
        self._line(
            "metrics",
            {
                "resourceMetrics": [
                    {
                        "resource": self.resource(rank),
                        "scopeMetrics": [{"scope": {"name": "aiobs"}, "metrics": metrics}],
                    }
                ]
            },
        )

    def histogram(self, name: str, values: list[float], *, rank: int = 0, time: float = 0, **attributes: Any) -> None:
        self.metric(
            name, "histogram", rank=rank, time=time, attributes={key.replace("__", "."): value for key, value in attributes.items()}, count=str(len(values)),
            sum=sum(values), min=min(values), max=max(values), explicitBounds=[1.0], bucketCounts=[str(len(values)), "0"],
        )  # fmt: skip

    def step(
        self,
        number: int,
        start: float,
        phases: dict[str, float],
        *,
        other: float = 0.1,
        kept: str = "every",
        rank: int = 0,
        **attributes: Any,
    ) -> float:
        """A kept step; durations in ms. Returns its duration."""
        trace = f"{number + 1:032x}"
        seconds = sum(phases.values()) + other
        name = "rank step" if rank else "train step"
        span = self.span(
            name, start, start + seconds, trace=trace, parent="" if not rank else "cc" * 8, rank=rank, aiobs__step=number, aiobs__step__kept=kept,
            aiobs__step__other=other / 1000, **attributes,
        )  # fmt: skip
        at = start
        for phase, length in phases.items():
            self.span(phase, at, at + length, trace=trace, parent=span, rank=rank, aiobs__step=number)
            at += length
        return seconds
