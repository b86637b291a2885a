"""Run folders of telemetry whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .live_services import Services

T0 = 1_800_000_000
SPEC = """\
boundaries:
  - each: aiobs.replica
permitted: [aiobs.replica=b]
slos:
  - apiVersion: openslo/v1
    kind: SLO
    metadata: {name: availability}
    spec:
      service: llm
      indicator:
        spec:
          ratioMetric:
            counter: true
            bad: {metricSource: {type: aiobs, spec: {sli: availability}}}
            total: {metricSource: {type: aiobs, spec: {sli: availability}}}
      timeWindow: [{duration: 28d, isRolling: true}]
      budgetingMethod: Occurrences
      objectives: [{target: 0.99}]
margins: {availability: 0.03}
windows: {baseline: 30s, recovery: 30s, hold: 10s, guard: 1s}
"""


def pairs(found: dict[str, Any]) -> list[dict[str, Any]]:
    def value(it: Any) -> dict[str, Any]:
        if isinstance(it, bool):
            return {"boolValue": it}
        return (
            {"intValue": str(it)}
            if isinstance(it, int)
            else {"doubleValue": it}
            if isinstance(it, float)
            else {"stringValue": it}
        )

    return [{"key": key, "value": value(it)} for key, it in found.items()]


class Scene:
    """Requests and faults to be written as a run folder; times are seconds from the begin of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[dict[str, Any]] = []
        self.count = 0
        self.torn = 0

    def spans(self, resource: dict[str, Any], spans: Sequence[dict[str, Any]]) -> None:
        self.groups.append({"resource": {"attributes": pairs(resource)}, "scopeSpans": [{"spans": list(spans)}]})

    def span(
        self,
        at: float,
        seconds: float = 0.05,
        *,
        bad: bool = False,
        name: str = "POST /v1",
        kind: int = 2,
        **attributes: Any,
    ) -> dict[str, Any]:
        self.count += 1
        attributes = {"http.response.status_code": 503 if bad else 200, **attributes}
        return {
            "traceId": f"{self.count:032x}", "spanId": f"{self.count:016x}", "name": name, "kind": kind,
            "startTimeUnixNano": str(T0 * 10**9 + round(at * 1e9)), "endTimeUnixNano": str(T0 * 10**9 + round((at + seconds) * 1e9)),
            "attributes": pairs(attributes), "status": {"code": 2} if bad else {},
        }  # fmt: skip

    def replica(self, name: str, bad: Callable[[float], bool] = lambda at: False, *, first: float = 0, end: float = 100, rate: float = 50,
                without: Sequence[tuple[float, float]] = (), attribute: str = "aiobs.replica", every: int = 200) -> None:  # fmt: skip
        """Steady requests to a replica; one in `every` fails by itself."""
        moments = [first + place / rate + 0.003 * (place % 5) / rate for place in range(int((end - first) * rate))]
        spans = [
            self.span(at, bad=bad(at) or (every and place % every == 7))
            for place, at in enumerate(moments)
            if not any(a <= at < b for a, b in without)
        ]
        self.spans({"service.name": "llm", attribute: name}, spans)

    def fault(self, begin: float = 35, end: float = 65, *, id: str = "f1", valid: bool = True, residue: str = "", boundary: str = "aiobs.replica=b",
              because: str = "its time is over", effective: float = 0.1, told_end: bool = True) -> None:  # fmt: skip
        span = self.span(begin, end - begin, name="fault process.kill", kind=1)
        span["attributes"] = pairs({
            "aiobs.fault.id": id, "aiobs.fault.kind": "process.kill", "aiobs.fault.boundary": boundary, "aiobs.fault.valid": valid,
            "aiobs.fault.residue": residue,
        })  # fmt: skip
        at = [
            ("injected", begin, {}),
            ("effective", begin + effective, {}),
            ("undone", end, {"aiobs.fault.undo.reason": because}),
        ]
        span["events"] = [
            {
                "name": f"aiobs.fault.{name}",
                "timeUnixNano": str(T0 * 10**9 + round(when * 1e9)),
                "attributes": pairs(told),
            }
            for name, when, told in at
        ]
        if not told_end:
            del span["endTimeUnixNano"]
            span["events"].pop()
        self.spans({"service.name": "aiobs-chaos"}, [span])

    def write(self, spec: str = SPEC) -> list[str]:
        """Give back the words after ``aiobs verdict``."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "traces.jsonl").write_text(
            "".join(json.dumps({"resourceSpans": [group]}) + "\n" for group in self.groups)
            + '{"resourceSpans": [{"scope\n' * self.torn
        )
        path = self.folder / "spec.yaml"
        path.write_text(spec)
        return [str(self.folder), "--spec", str(path)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "run")


def struck(at: float) -> bool:
    """Ill from 35 to 65 and 4 s more."""
    return 35 <= at < 69


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults are allowed, and everything is kept in the test's folder."""
    for name, value in {
        "AIOBS_CHAOS": "armed", "AIOBS_ENVIRONMENT": "test", "AIOBS_CHAOS_DIR": str(tmp_path / "chaos"),
        "AIOBS_RUNTIME_DIR": str(tmp_path / "runtime"), "AIOBS_RUN_DIR": str(tmp_path / "run"), "AIOBS_AGENT_LINGER": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Replicas to be started, which end with the test."""
    from .live_services import Services

    made = Services(tmp_path)
    yield made
    made.stop()
