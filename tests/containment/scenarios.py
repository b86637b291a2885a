"""Random experiments whose truth is known: what was done to whom, written as a run folder in one of many accents."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

T0 = 1_800_000_000
UNITS = ("aiobs.replica", "host.name", "aiobs.tenant", "service.instance.id", "gen_ai.request.model")
HARMS = ("errors", "half", "slow", "dead", "hang", "cut off")
AVAILABILITY, LATENCY = 0.03, 0.05
FAULT_AT = 40.0


@dataclass
class Truth:
    """Attributes:
    may: verdicts that are right.
    leaks: strata that must be named when it leaked.
    recovery: seconds after the undo at which it was well again; None where that is not to be judged.
    """

    may: tuple[str, ...]
    leaks: tuple[str, ...] = ()
    recovery: float | None = None
    story: dict[str, Any] = field(default_factory=dict)


def spec_of(unit: str) -> dict[str, Any]:
    def slo(name: str, **spec: Any) -> dict[str, Any]:
        return {"apiVersion": "openslo/v1", "kind": "SLO", "metadata": {"name": name}, "spec": {"service": "s", "budgetingMethod": "Occurrences", **spec}}  # fmt: skip

    source = {"metricSource": {"type": "aiobs", "spec": {"sli": "availability"}}}
    slow = {"metricSource": {"type": "aiobs", "spec": {"sli": "latency"}}}
    return {
        "boundaries": [{"each": unit}],
        "permitted": [f"{unit}=u0"],
        "slos": [
            slo("availability", indicator={"spec": {"ratioMetric": {"bad": source, "total": source}}}, objectives=[{"target": 0.99}]),
            slo("latency", indicator={"spec": {"thresholdMetric": slow}}, objectives=[{"target": 0.95, "op": "lte", "value": 1.0}]),
        ],
        "margins": {"availability": AVAILABILITY, "latency": LATENCY},
        "windows": {"baseline": "35s", "recovery": "35s", "hold": "12s"},
    }  # fmt: skip


def make(seed: int, folder: Path) -> Truth:
    """Write the run folder of experiment `seed` and its spec, and give back what is true of it."""
    rng = np.random.default_rng([20261124, seed])
    pick = rng.choice
    unit, strata = str(pick(UNITS)), int(rng.integers(2, 6))
    length = float(rng.uniform(15, 40))
    undone, tail = FAULT_AT + length, float(pick([0.0, rng.uniform(0.5, 5)]))
    end = undone + 36
    harm = str(pick(HARMS))
    fate = str(pick(["still", "still", "below", "leak errors", "leak slow", "never well", "relapse", "thin"]))
    rate = float(rng.uniform(35, 80)) if fate != "thin" else float(rng.uniform(0.5, 1.2))
    ordinary = float(pick([0.0, 0.001, 0.004]))
    drift, period, clumps = float(pick([0.0, 0.002])), float(pick([0.0, 0.5])), int(pick([1, 1, 3]))
    victim = f"u{int(rng.integers(1, strata))}"
    accent = {
        "kind": pick(["number", "text", "short"]),
        "whole": pick(["text", "number"]),
        "where": pick(["resource", "span"]),
        "status": pick(["number", "text"]),
        "files": int(rng.integers(1, 4)),
        "a line": int(pick([1, 50, 400])),
        "fault": pick(["own file", "first", "last"]),
        "copies": bool(pick([False, False, True])),
        "late": bool(pick([False, True])),
        "code": pick(["number", "text", "none"]),
    }
    rows: list[tuple[float, dict[str, Any], str]] = []
    count = [seed << 32]

    def ids() -> dict[str, str]:
        count[0] += 1
        return {"traceId": f"{count[0]:032x}", "spanId": f"{count[0]:016x}"}

    for place in range(strata):
        name = f"u{place}"
        for at in _arrivals(rng, rate, end, period):
            share = ordinary + drift * at / end
            bad, seconds = bool(rng.random() < share), float(rng.lognormal(-2.5, 0.5))
            ill = (FAULT_AT <= at < undone + tail) or (fate == "never well" and at >= FAULT_AT)
            ill = ill or (fate == "relapse" and undone + tail + 6 <= at < undone + tail + 14)
            cut = False
            if place == 0 and ill:
                if harm == "dead" and at < undone:
                    continue
                if harm in ("errors", "dead"):
                    bad = True
                elif harm == "half":
                    bad = bad or bool(rng.random() < 0.5)
                elif harm == "slow":
                    seconds = seconds * 4 + 1.5
                elif harm == "hang":
                    bad, seconds = True, max(undone + tail - at, 0.3)
                elif harm == "cut off":
                    bad, cut = True, True
            if name == victim and FAULT_AT <= at < undone:
                if fate == "leak errors":
                    bad = bad or bool(rng.random() < 4 * AVAILABILITY)
                elif fate == "leak slow" and rng.random() < 4 * LATENCY:
                    seconds += 2
                elif fate == "below":
                    bad = bad or bool(rng.random() < 0.15 * AVAILABILITY)
            for again in range(clumps if bad and not ill else 1):
                told = _span(at + 0.001 * again, seconds, bad, accent, ids())
                if cut:
                    told = {key: it for key, it in told.items() if key != "endTimeUnixNano"}
                rows.append((at, told, name))
                rows.append((at, _noise(told, ids()), ""))
    _write(folder, rng, rows, accent, unit, _fault(undone, harm, ids(), unit), float(undone))
    (folder / "spec.json").write_text(json.dumps(spec_of(unit)))
    story = {"seed": seed, "unit": unit, "strata": strata, "rate": round(rate), "length": round(length), "tail": round(tail, 2), "harm": harm,
             "fate": fate, "ordinary": ordinary, "drift": drift, "clumps": clumps, "spans": len(rows), **accent}  # fmt: skip
    may: dict[str, tuple[str, ...]] = {
        "still": ("contained",),
        "below": ("contained", "inconclusive"),
        "leak errors": ("leaked",),
        "leak slow": ("leaked",),
        "never well": ("not_recovered",),
        "relapse": ("not_recovered",),
        "thin": ("inconclusive", "invalid"),
    }
    return Truth(may[fate], (f"{unit}={victim}",) if "leak" in fate else (), tail if fate == "still" else None, story)


def _arrivals(rng: Any, rate: float, end: float, period: float) -> Any:
    at = np.sort(rng.uniform(0, end, rng.poisson(rate * end)))
    return at[rng.random(len(at)) < 1 - period * (1 + np.sin(at / 3)) / 2]


def _stamp(at: float, whole: str = "text") -> Any:
    moment = T0 * 10**9 + round(at * 1e9)
    return str(moment) if whole == "text" else moment


def _span(at: float, seconds: float, bad: bool, accent: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    code = 503 if bad else 200
    attributes = [{"key": "http.route", "value": {"stringValue": "/v1"}}]
    if accent["code"] != "none":
        value = {"intValue": str(code)} if accent["code"] == "text" else {"intValue": code}
        attributes.append({"key": "http.response.status_code", "value": value})
    kind = {"number": 2, "text": "SPAN_KIND_SERVER", "short": "2"}[accent["kind"]]
    told = {**ids, "name": "POST /v1", "kind": kind, "attributes": attributes,
            "startTimeUnixNano": _stamp(at, accent["whole"]), "endTimeUnixNano": _stamp(at + seconds, accent["whole"])}  # fmt: skip
    if bad:
        told["status"] = {"code": 2 if accent["status"] == "number" else "STATUS_CODE_ERROR", "message": "sorry"}
    return told


def _noise(span: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """What another service tells of the same request: a client's span, which no SLO counts."""
    return {**ids, "parentSpanId": span["spanId"], "traceId": span["traceId"], "name": "call", "kind": 3,
            "startTimeUnixNano": span["startTimeUnixNano"], "endTimeUnixNano": span.get("endTimeUnixNano", span["startTimeUnixNano"])}  # fmt: skip


def _fault(undone: float, harm: str, ids: dict[str, str], unit: str) -> dict[str, Any]:
    told = {"aiobs.fault.id": "f1", "aiobs.fault.kind": harm, "aiobs.fault.boundary": f"{unit}=u0"}
    at = {"injected": FAULT_AT, "effective": FAULT_AT + 0.05, "undone": undone}
    return {**ids, "name": f"fault {harm}", "kind": 1, "startTimeUnixNano": _stamp(FAULT_AT), "endTimeUnixNano": _stamp(undone),
            "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in told.items()],
            "events": [{"name": f"aiobs.fault.{name}", "timeUnixNano": _stamp(when)} for name, when in at.items()]}  # fmt: skip


def _write(
    folder: Path, rng: Any, rows: list[Any], accent: dict[str, Any], unit: str, fault: dict[str, Any], undone: float
) -> None:
    folder.mkdir(parents=True)
    if accent["late"]:
        rows = [rows[place] for place in rng.permutation(len(rows))]
    lines = []
    for begin in range(0, len(rows), accent["a line"]):
        part = rows[begin : begin + accent["a line"]]
        groups = []
        for name in sorted({row[2] for row in part}):
            own = [row[1] for row in part if row[2] == name]
            mark = [{"key": unit, "value": {"stringValue": name}}] if name else []
            if accent["where"] == "span":
                own = [{**one, "attributes": [*one.get("attributes", []), *mark]} for one in own]
                mark = []
            about = [{"key": "service.name", "value": {"stringValue": "llm" if name else "router"}}, *mark]
            groups.append({"resource": {"attributes": about}, "scopeSpans": [{"scope": {"name": "x"}, "spans": own}]})
        lines.append(json.dumps({"resourceSpans": groups}))
    if accent["copies"]:
        lines += [lines[place] for place in rng.permutation(len(lines))[: len(lines) // 2]]
    about = {"attributes": [{"key": "service.name", "value": {"stringValue": "chaos"}}]}
    told = json.dumps({"resourceSpans": [{"resource": about, "scopeSpans": [{"spans": [fault]}]}]})
    files = [lines[place :: accent["files"]] for place in range(accent["files"])]
    if accent["fault"] == "own file":
        files.append([told])
    else:
        files[0].insert(0 if accent["fault"] == "first" else len(files[0]), told)
    for place, one in enumerate(files):
        (folder / f"traces-{place}.jsonl").write_text("\n".join(one) + "\n")
