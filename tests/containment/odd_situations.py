"""Situations that go wrong in practice, each with the verdict that docs/containment.md promises for it.

``python -m tests.containment.odd_situations`` prints the table that stands there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conftest import T0, Scene, struck


def base(scene: Scene, **sibling: Any) -> None:
    scene.replica("a", **sibling)
    scene.replica("b", struck)


def shifted(scene: Scene, name: str, by: float, since: float, bad: Callable[[float], bool] = lambda at: False) -> None:
    """A replica whose host's clock jumps by `by` seconds at `since`; one of its requests is under way then."""
    begin = len(scene.groups)
    scene.replica(name, bad)
    for span in scene.groups[begin]["scopeSpans"][0]["spans"]:
        for end in ("startTimeUnixNano", "endTimeUnixNano"):
            at = int(span[end]) - T0 * 10**9
            if at >= since * 1e9:
                span[end] = str(T0 * 10**9 + at + round(by * 1e9))
    scene.spans(
        {"service.name": "llm", "aiobs.replica": name}, [scene.span(since - 0.1, 0.2 + by)] if by < -0.2 else []
    )


def dropped(scene: Scene, first: float, end: float) -> None:
    """All telemetry of that time is lost, whoever told it."""
    for group in scene.groups:
        for scope in group["scopeSpans"]:
            scope["spans"] = [it for it in scope["spans"] if not first <= int(it["startTimeUnixNano"]) / 1e9 - T0 < end]


def all_lost(scene: Scene) -> None:
    base(scene)
    dropped(scene, 45, 58)


def one_lost(scene: Scene) -> None:
    base(scene, without=[(45, 58)])


def lost_in_fault(scene: Scene) -> None:
    base(scene, without=[(35, 65)])


def none_after(scene: Scene) -> None:
    base(scene)
    dropped(scene, 65.2, 200)


def stepped_ahead(scene: Scene) -> None:
    shifted(scene, "a", 20, 50)
    shifted(scene, "b", 20, 50, struck)


def stepped_back(scene: Scene) -> None:
    shifted(scene, "a", -20, 50)
    shifted(scene, "b", -20, 50, struck)


def one_stepped_ahead(scene: Scene) -> None:
    shifted(scene, "a", 20, 45)
    scene.replica("b", struck)


def one_stepped_back(scene: Scene) -> None:
    shifted(scene, "a", -20, 50)
    scene.replica("b", struck)


def other_clock(scene: Scene) -> None:
    scene.replica("a", first=1000, end=1100)
    scene.replica("b", struck, first=1000, end=1100)


def no_traffic(scene: Scene) -> None:
    scene.replica("a", end=0)
    scene.replica("b", struck)
    scene.spans({"service.name": "x", "aiobs.replica": "a"}, [scene.span(1, kind=1)])


def late_load(scene: Scene) -> None:
    base(scene, first=36)


def all_errors(scene: Scene) -> None:
    base(scene, bad=lambda at: True)


def one_request(scene: Scene) -> None:
    scene.replica("b", struck)
    scene.spans({"aiobs.replica": "a"}, [scene.span(50.0)])


def little_traffic(scene: Scene) -> None:
    base(scene, rate=0.9)


def copied(scene: Scene) -> None:
    base(scene)
    scene.groups += scene.groups * 2


def copied_with_new_ids(scene: Scene) -> None:
    for _ in range(3):
        base(scene)


def late_and_mixed(scene: Scene) -> None:
    base(scene)
    scene.groups = [
        {**group, "scopeSpans": [{"spans": group["scopeSpans"][0]["spans"][::-1]}]} for group in scene.groups[::-1]
    ]


def unfelt(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b")


def in_flight(scene: Scene) -> None:
    """The sibling's long requests that were under way when the fault came are cut off, all later ones are well."""
    scene.replica("b", struck)
    spans = [scene.span(at / 4, 8.0, bad=27.1 <= at / 4 < 35.1) for at in range(400)]
    scene.spans({"aiobs.replica": "a"}, spans)


def still_open(scene: Scene) -> None:
    """The sibling dies too: what it was doing is told without an end."""
    scene.replica("a", end=40)
    spans = [scene.span(35.1 + place / 50) for place in range(200)]
    for span in spans:
        del span["endTimeUnixNano"]
    scene.spans({"aiobs.replica": "a"}, spans)
    scene.replica("b", struck)
    scene.replica("c")
    scene.replica("a", first=42)


def aftermath(scene: Scene) -> None:
    base(scene, bad=lambda at: 66 <= at < 72)


def relapse(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 67 or 71 <= at < 74)


def forever(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: at >= 35)


def gone(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b", struck, end=65)


def half_well(scene: Scene) -> None:
    """It comes back, but one request in ten still fails."""
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 65 or (at >= 65 and int(at * 50) % 10 == 0))


def torn(scene: Scene) -> None:
    base(scene)
    scene.torn = 1


def garbled(scene: Scene) -> None:
    base(scene)
    scene.torn = 40


@dataclass(frozen=True)
class Odd:
    """A situation, and what is to come of it."""

    title: str
    tell: Callable[[Scene], None]
    kind: str
    reason: str = ""
    fault: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)


ODD = (
    Odd("all telemetry missing for a part of the fault", all_lost, "inconclusive", "no_data"),
    Odd("a sibling's telemetry missing for a part of it", one_lost, "inconclusive", "no_data"),
    Odd("a sibling's telemetry missing for the whole fault", lost_in_fault, "inconclusive", "no_data"),
    Odd("no telemetry after the undo", none_after, "inconclusive", "no_data"),
    Odd("a last line torn off", torn, "contained"),
    Odd("many lines that cannot be read", garbled, "inconclusive", "no_data"),
    Odd("all clocks jump ahead", stepped_ahead, "inconclusive", "no_data"),
    Odd("all clocks jump back", stepped_back, "invalid", "clock"),
    Odd("one host's clock jumps ahead", one_stepped_ahead, "inconclusive", "no_data"),
    Odd("one host's clock jumps back", one_stepped_back, "invalid", "clock"),
    Odd("fault and service disagree about the time", other_clock, "invalid", "clock"),
    Odd("the fault's own times are out of order", base, "invalid", "clock", {"effective": -3.0}),
    Odd("a boundary without traffic", no_traffic, "inconclusive", "no_outside_traffic"),
    Odd("the load begins after the fault", late_load, "inconclusive", "no_data"),
    Odd("all errors in the baseline", all_errors, "invalid", "baseline"),
    Odd("one request only", one_request, "inconclusive", "no_data"),
    Odd("too little traffic", little_traffic, "inconclusive", "n_eff"),
    Odd("every span three times", copied, "contained"),
    Odd("every span three times, with other ids", copied_with_new_ids, "contained"),
    Odd("spans late and in any order", late_and_mixed, "contained"),
    Odd("the fault was never seen to act", base, "invalid", "no_effect", {"valid": False}),
    Odd("the fault changes nothing", unfelt, "invalid", "no_effect"),
    Odd("two faults at once", base, "invalid", "confounded", {}, {"begin": 50, "end": 60, "id": "f2"}),
    Odd("requests under way when the fault came are lost elsewhere", in_flight, "leaked"),
    Odd("a sibling dies: its requests have no end", still_open, "leaked"),
    Odd("a herd of retries after the undo", aftermath, "leaked", "aftermath"),
    Odd("well after the undo, then ill again", relapse, "not_recovered", "metastable"),
    Odd("ill for good", forever, "not_recovered"),
    Odd("gone for good", gone, "not_recovered"),
    Odd("back, but one request in ten fails", half_well, "not_recovered"),
    Odd("the injector was lost before it could undo", base, "aborted", "stopped", {"told_end": False}),
    Odd("stopped early", base, "aborted", "stopped", {"because": "the experiment has fallen silent"}),
    Odd("the undo left something behind", base, "residue", "", {"residue": "cgroup /x is still there"}),
)


def judged(odd: Odd, folder: Path) -> dict[str, Any]:
    """The verdict on it, as JSON."""
    from aiobs.chaos.containment.judging import judge_faults
    from aiobs.chaos.containment.run_folder import RunFolder
    from aiobs.chaos.containment.spec import read_spec
    from aiobs.chaos.containment.written import as_json

    scene = Scene(folder)
    odd.tell(scene)
    scene.fault(**odd.fault)
    if odd.second:
        scene.fault(**odd.second)
    scene.write()
    source = RunFolder(folder, read_spec(folder / "spec.yaml"))
    found: dict[str, Any] = json.loads(json.dumps(as_json(judge_faults(source, source.faults())[0])))
    source.close()
    return found


def row(odd: Odd, verdict: dict[str, Any]) -> str:
    """Its line in the table."""
    name = verdict["kind"].replace("_", " ") + (f" ({verdict['reason']})" if verdict["reason"] else "")
    return f"| {odd.title} | {name} | {verdict['sentence']} |"


def main() -> None:
    print("| situation | verdict | what it says |\n|---|---|---|")
    for odd in ODD:
        with tempfile.TemporaryDirectory() as place:
            verdict = judged(odd, Path(place, "run"))
        print(row(odd, verdict))
        if (verdict["kind"], verdict["reason"]) != (odd.kind, odd.reason):
            print(f"^^^ wanted {odd.kind} ({odd.reason})", file=sys.stderr)


if __name__ == "__main__":
    main()
