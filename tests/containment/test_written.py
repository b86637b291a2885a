"""What other programs and people read of a verdict: compared with files that a person has looked at."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from aiobs.chaos.containment.model import Cell, Fault, Recovery, Verdict, Windows
from aiobs.chaos.containment.written import as_json, as_junit, as_markdown

GOLDEN = Path(__file__).parent / "golden"
S = 1_000_000_000
T = 1_800_000_000 * S
INF = float("inf")


def cell(stratum: str, slo: str, side: str, result: str, estimate: float, low: float, high: float, reason: str, n: int = 900, required: bool = True) -> Cell:  # fmt: skip
    return Cell(
        stratum, stratum, slo, side, result, estimate, low, high, 0.03, 0.004, 0.004 + estimate, n, n, n / 2, reason,  # type: ignore[arg-type]
        required=required, method="newcombe", p_harm=0.5,
    )  # fmt: skip


LEAKED = Verdict(
    "leaked",
    "Not contained: the fault reached replica=a. Worst: availability of replica=a: it got worse by 12.0 percentage points.",
    (
        cell("replica=b", "availability", "inside", "harmed", 0.9, 0.85, 0.95, "it got worse by 90 percentage points"),
        cell("replica=a", "availability", "outside", "harmed", 0.12, 0.08, 0.16, "it got worse by 12 percentage points (at least 8 pp), more than the margin of 3 pp"),
        cell("replica=c", "availability", "outside", "held", -0.001, -0.012, 0.011, "it got worse by 1.1 percentage points at most, the margin is 3 pp"),
        cell("tenant <x|y>\x00", "availability", "outside", "unsure", 0.01, -0.02, 0.05, "it may have got worse by up to 5 percentage points"),
        cell("replica=c", "step-time", "outside", "no_data", 0, -INF, INF, "it carried no traffic before the fault", 0),
        cell("replica=c", "speed", "outside", "harmed", 0.2, 0.1, 0.3, "slower, but that is only told", required=False),
    ),
    (
        Recovery("replica=b", "replica=b", "availability", "inside", 3.9, 4.3, reason="well again between 3.90 and 4.30 s after the undo"),
        Recovery("replica=a", "replica=a", "availability", "outside", 29.9, 30.0, True, reason="still bad 29.9 s after the undo, when the looking ended"),
        Recovery("replica=c", "replica=c", "availability", "outside", 0, 0, reason="never ill after the undo"),
    ),
    strata=("replica=a",),
    fault=Fault("f1", "memory.oom", T, T + S // 10, T + 30 * S, "replica=b", "night", "node:b@lab", True, trace_id="ab" * 16, span_id="cd" * 8),
    windows=Windows((T - 30 * S, T - S), (T + S, T + 30 * S), (T + 30 * S, T + 60 * S), 15 * S, T, T + 30 * S, "f1"),
    observed=0.5,
    budget={"availability": 0.000144},
    raw={"spans": 5400, "duplicates": 0, "alpha": 0.005, "permitted": ["replica=b"], "kinds": {"availability": "ratio", "step-time": "mean", "speed": "rate"}},
)  # fmt: skip


def golden(name: str, text: str) -> None:
    """To renew a file after a wanted change: delete it, run twice, and look at what came."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(text, "utf-8")
        pytest.fail(f"{path} was not there: it has been written, look at it")
    assert text == path.read_text("utf-8")


def test_json() -> None:
    golden("leaked.json", json.dumps(as_json(LEAKED), indent=1, ensure_ascii=False) + "\n")


def test_json_keeps_to_its_published_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs/verdict.schema.json").read_text())
    found = json.loads(json.dumps(as_json(LEAKED), allow_nan=False))
    jsonschema.Draft202012Validator(schema).validate(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(found | {"format": 2})


def test_markdown() -> None:
    text = as_markdown(LEAKED, "report.html#fault-1")
    golden("leaked.md", text)
    assert len(text) < 2500, "a comment that people read"
    cells = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert cells == {5}, "no name ends a cell"


def test_junit() -> None:
    text = as_junit([LEAKED])
    golden("leaked.xml", text)
    (suite,) = ET.fromstring(text).findall("testsuite")
    cases = suite.findall("testcase")
    failures = {f"{it.get('classname')} {it.get('name')}": it.find("failure") for it in cases}
    assert suite.get("tests") == str(len(cases))
    assert suite.get("failures") == str(sum(it is not None for it in failures.values()))
    assert failures["replica=b availability"] is None, "harm where it is permitted fails nothing"
    assert failures["replica=c speed"] is None, "what is only told fails nothing"
    leak = failures["replica=a availability"]
    assert leak is not None
    assert "+12 pp (+8 pp … +16 pp), margin 3 pp" in (leak.text or "")
    assert suite.get("skipped") == "2"


def test_what_was_never_measured_fails_where_the_verdict_rests_on_it() -> None:
    empty = replace(LEAKED, kind="inconclusive", strata=("replica=c",))
    (suite,) = ET.fromstring(as_junit([empty])).findall("testsuite")
    case = next(it for it in suite.findall("testcase") if it.get("name") == "step-time")
    assert case.find("failure") is not None
