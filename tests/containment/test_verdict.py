"""Each outcome of ``aiobs verdict`` on folders whose truth is known, and the sentence it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aiobs.chaos.command.verdict import main
from aiobs.errors import PlanError

Scene = Any


def struck(at: float) -> bool:
    return 35 <= at < 69


def judged(scene: Scene, capsys: pytest.CaptureFixture[str], *more: str, spec: str = "") -> tuple[int, dict[str, Any]]:
    words = scene.write(spec) if spec else scene.write()
    code = main([*words, "--json", *more])
    return code, json.loads(capsys.readouterr().out)[0]


def base(scene: Scene, **sibling: Any) -> None:
    scene.replica("a", **sibling)
    scene.replica("b", struck)


def leak(scene: Scene) -> None:
    base(scene, bad=lambda at: 40 <= at < 60)


def relapse(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 67 or 71 <= at < 74)


def forever(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: at >= 35)


def alone(scene: Scene) -> None:
    scene.replica("a", end=0)
    scene.replica("b", struck)
    scene.spans({"service.name": "x", "aiobs.replica": "a"}, [scene.span(1, kind=1)])


def lost(scene: Scene) -> None:
    base(scene, without=[(45, 58)])
    scene.groups[1]["scopeSpans"][0]["spans"] = [
        s
        for s in scene.groups[1]["scopeSpans"][0]["spans"]
        if not 45 <= int(s["startTimeUnixNano"]) / 1e9 - 1_800_000_000 < 58
    ]


def silent(scene: Scene) -> None:
    base(scene, without=[(45, 58)])


def ill(scene: Scene) -> None:
    base(scene, bad=lambda at: True)


def nobody(scene: Scene) -> None:
    base(scene, first=36)


def few(scene: Scene) -> None:
    base(scene, rate=0.9)


def one(scene: Scene) -> None:
    scene.replica("b", struck)
    scene.spans({"aiobs.replica": "a"}, [scene.span(50.0)])


def unfelt(scene: Scene) -> None:
    scene.replica("a")
    scene.replica("b")


def backwards(scene: Scene) -> None:
    base(scene)
    scene.spans({"aiobs.replica": "a"}, [scene.span(40.0, -2.0)])


def copied(scene: Scene) -> None:
    base(scene)
    scene.groups += scene.groups[:1]
    scene.groups.reverse()


CASES: list[tuple[Callable[[Any], None], dict[str, Any], int, str, str]] = [
    (base, {}, 0, "", "Contained: the fault stayed in aiobs.replica=b"),
    (copied, {}, 0, "", "Contained"),
    (leak, {}, 10, "", "Not contained: the fault reached aiobs.replica=a"),
    (relapse, {}, 11, "metastable", "fell ill again"),
    (forever, {}, 11, "", "did not recover"),
    (alone, {}, 12, "no_outside_traffic", "Nothing outside the boundary carried traffic"),
    (lost, {}, 12, "no_data", "All telemetry is missing for 1"),
    (silent, {}, 12, "no_data", "its telemetry was lost"),
    (nobody, {}, 12, "no_data", "no traffic before the fault"),
    (few, {}, 12, "n_eff", "independent samples"),
    (one, {}, 12, "no_data", "no traffic before the fault"),
    (ill, {}, 13, "baseline", "it was ill before the fault"),
    (unfelt, {}, 13, "no_effect", "No SLI inside the boundary shows the fault"),
    (backwards, {}, 13, "clock", "a clock stepped"),
    (base, {"valid": False}, 13, "no_effect", "never seen to act"),
    (base, {"effective": -3.0}, 13, "clock", "out of order"),
    (base, {"because": "the experiment has fallen silent"}, 14, "stopped", "stopped early"),
    (base, {"residue": "cgroup /x is still there"}, 15, "", "left something behind"),
]


@pytest.mark.parametrize(
    ("tell", "fault", "code", "reason", "says"),
    CASES,
    ids=[f"{case[0].__name__}-{case[2]}-{case[3]}-{place}" for place, case in enumerate(CASES)],
)
def test_each_outcome_has_its_code_and_sentence(scene: Scene, capsys: pytest.CaptureFixture[str], tell: Any, fault: dict[str, Any], code: int, reason: str, says: str) -> None:  # fmt: skip
    tell(scene)
    scene.fault(**fault)
    got, verdict = judged(scene, capsys)
    assert (got, verdict["reason"]) == (code, reason), verdict["sentence"]
    assert says in verdict["sentence"]


def test_two_faults_at_once_prove_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    base(scene)
    scene.fault()
    scene.fault(50, 60, id="f2")
    code, verdict = judged(scene, capsys)
    assert (code, verdict["reason"]) == (13, "confounded")


def test_a_scripted_outage_of_4_s_is_measured(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    base(scene)
    scene.fault()
    _, verdict = judged(scene, capsys)
    (inside,) = [it for it in verdict["recoveries"] if it["side"] == "inside"]
    assert 3.9 <= inside["last_bad_s"] <= inside["first_good_s"] <= 4.3


def test_windows_by_hand_need_no_fault_span(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    base(scene)
    t = 1_800_000_000
    hand = f"windows: {{baseline: [{t + 5}, {t + 34}], fault: [{t + 36}, {t + 65}], recovery: [{t + 65}, {t + 95}], hold: 10s}}"
    text = (
        Path(scene.write()[2])
        .read_text()
        .replace("windows: {baseline: 30s, recovery: 30s, hold: 10s, guard: 1s}", hand)
    )
    assert judged(scene, capsys, spec=text)[0] == 0


def test_an_slo_on_an_attribute_nothing_carries_is_not_a_pass(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    base(scene)
    scene.fault()
    from pathlib import Path

    words = scene.write()
    text = (
        Path(words[2]).read_text().replace("ratioMetric", "thresholdMetric").replace("            counter: true\n", "")
    )
    text = text.replace(
        "            bad: {metricSource: {type: aiobs, spec: {sli: availability}}}\n",
        "            metricSource: {type: aiobs, spec: {sli: ttft}}\n",
    )
    text = text.replace("            total: {metricSource: {type: aiobs, spec: {sli: availability}}}\n", "").replace(
        "target: 0.99", "target: 0.99, op: lte, value: 0.5"
    )
    code, verdict = judged(scene, capsys, spec=text)
    assert code in (12, 13) and "aiobs.request.time_to_first_token" in str(verdict["cells"])


@pytest.mark.parametrize(("old", "new", "says"), [
    ("each: aiobs.replica\npermitted: [aiobs.replica=b]", "each: aiobs.replicas\npermitted: [aiobs.replicas=b]", "no telemetry carries it; there are"),
    ("- each: aiobs.replica", "- {name: z, where: {aiobs.replica: z}}", "no span is in this boundary|no such boundary"),
    ("- each: aiobs.replica", "- {name: all, where: {aiobs.replica: '*'}}\npermitted: [all]\nrest: false\nx:", "no such field"),
    ("availability: 0.03", "availability: -1", "a degradation above 0"),
    ("availability: 0.03", "availabilty: 0.03", "no such SLO; there are availability"),
    ("target: 0.99", "target: 99", "a share between 0 and 1"),
    ("openslo/v1", "openslo/v2", "use openslo/v1"),
    ("duration: 28d", "duration: 28s", "seconds belong in `windows`"),
    ("hold: 10s", "hold: soon", "a length of time"),
    ("permitted: [aiobs.replica=b]", "permitted: [nobody]", "no such boundary"),
    ("margins:", "allowed: {availability: 0.01}\nmargins:", "inside no less may be allowed"),
    ("margins:", "margins: [", "write valid YAML"),
])  # fmt: skip
def test_bad_input_names_line_field_value_and_remedy(scene: Scene, old: str, new: str, says: str) -> None:
    from pathlib import Path

    base(scene)
    scene.fault()
    words = scene.write()
    path = Path(words[2])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(PlanError, match=says) as caught:
        main(words)
    assert "spec.yaml" in caught.value.field


def test_everything_inside_is_refused(scene: Scene) -> None:
    from pathlib import Path

    scene.replica("b", struck)
    words = scene.write()
    path = Path(words[2])
    path.write_text(
        path.read_text().replace("each: aiobs.replica", "{name: aiobs.replica=b, where: {aiobs.replica: b}}", 1)
    )
    with pytest.raises(PlanError, match="nothing is outside"):
        main(words)


def test_suggests_boundaries(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    base(scene)
    assert main([scene.write()[0], "--suggest"]) == 0
    assert "- each: aiobs.replica  # 2: a, b" in capsys.readouterr().out


def test_plans(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*scene.write()[1:], "--plan", "--strata", "2", "--rate", "50"]) == 0
    assert "requests in the baseline" in capsys.readouterr().out


def test_writes_junit_and_markdown(scene: Scene, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    import xml.etree.ElementTree as ET

    leak(scene)
    scene.fault()
    assert main([*scene.write(), "--junit", str(tmp_path / "j.xml"), "--markdown", str(tmp_path / "m.md")]) == 10
    assert ET.parse(tmp_path / "j.xml").getroot().find("testsuite").get("failures") != "0"  # type: ignore[union-attr]
    assert "| aiobs.replica=a               | ✗ harmed, +" in (tmp_path / "m.md").read_text("utf-8")


def test_the_json_keeps_to_its_schema(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs/verdict.schema.json").read_text())
    leak(scene)
    scene.fault()
    _, verdict = judged(scene, capsys)
    jsonschema.Draft202012Validator(schema).validate(verdict)
    assert set(verdict) == set(schema["properties"])
