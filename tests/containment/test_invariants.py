"""Work lost, done twice, undone or diverged is a leak, whatever the SLOs say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.command.verdict import main
from aiobs.errors import PlanError

Scene = Any


def judged(scene: Scene, capsys: pytest.CaptureFixture[str], invariant: str) -> tuple[int, dict[str, Any]]:
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    words = scene.write()
    path = Path(words[2])
    path.write_text(f"{path.read_text()}invariants:\n  - {invariant}\n")
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)[0]


def requests(scene: Scene, done: Callable[[int], int], asked: int = 40) -> None:
    """40 requests, one a second, each asked by a client and done so many times by a server."""
    for place in range(asked):
        request = {"request.id": f"r{place}"}
        scene.spans({"service.name": "client"}, [scene.span(place + 10.0, kind=3, **request)])
        scene.spans({"aiobs.replica": "a"}, [scene.span(place + 10.1, **request) for _ in range(done(place))])


UNIQUE = "{name: none twice, unique: request.id}"
ANSWERED = "{name: none lost, answered: request.id}"


@pytest.mark.parametrize(("invariant", "done", "code", "says"), [
    (UNIQUE, lambda place: 1, 0, ""),
    (UNIQUE, lambda place: 2 if place == 7 else 1, 10, "'none twice' was broken: 1 of 40 values of request.id were done more than once: r7"),
    (ANSWERED, lambda place: 1, 0, ""),
    (ANSWERED, lambda place: 2, 0, ""),
    (ANSWERED, lambda place: 0 if place in (3, 9) else 1, 10, "2 of 40 values of request.id that were asked for were never done"),
    ("{name: none lost, answered: request.uuid}", lambda place: 1, 12, "nobody can tell: nothing with request.uuid was seen"),
])  # fmt: skip
def test_requests_are_neither_lost_nor_done_twice(
    scene: Scene, capsys: pytest.CaptureFixture[str], invariant: str, done: Any, code: int, says: str
) -> None:
    requests(scene, done)
    got, verdict = judged(scene, capsys, invariant)
    assert got == code, verdict["sentence"]
    assert says in verdict["sentence"]
    assert verdict["invariants"][0]["result"] == {0: "kept", 10: "broken", 12: "unseen"}[code]
    assert verdict["reason"] == {0: "", 10: "invariant", 12: "no_data"}[code]


def test_a_request_that_failed_and_was_tried_again_is_not_done_twice(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(scene, lambda place: 1)
    scene.spans({"aiobs.replica": "a"}, [scene.span(12.0, bad=True, **{"request.id": "r1"})])
    assert judged(scene, capsys, UNIQUE)[0] == 0


def steps(scene: Scene, resumed_at: int, saved: int = 30, differs: bool = False) -> None:
    """Three ranks that train to step 50, resume at another and go on to 80; one checkpoint."""
    for rank in range(3):
        walked = [*range(1, 51), *range(resumed_at, 81)]
        spans = [
            scene.span(10 + 0.5 * place, 0.4, name="rank step", kind=1, **{
                "aiobs.step": step, "train.loss": 2.0 / step + (differs and rank == 2 and step == 60) * 1e-3,
            })
            for place, step in enumerate(walked)
        ]  # fmt: skip
        scene.spans({"aiobs.rank": rank}, spans)
    scene.spans({}, [scene.span(26.0, name="checkpoint save", kind=1, **{"aiobs.step": saved})])


SAVED = "{name: resumes, monotonic: aiobs.step, each: aiobs.rank, saved: {span.name: checkpoint save}}"
BACK = "{name: resumes, monotonic: aiobs.step, each: aiobs.rank, back: 20}"
EQUAL = "{name: agree, equal: train.loss, at: aiobs.step, each: aiobs.rank, tolerance: 0.000001}"


@pytest.mark.parametrize(("invariant", "resumed_at", "differs", "code", "says"), [
    (SAVED, 31, False, 0, ""),
    (SAVED, 12, False, 10, "aiobs.step fell behind the last complete checkpoint 3 times: 12 after 50"),
    (BACK, 31, False, 0, ""),
    (BACK, 12, False, 10, "fell behind 20 before what it had reached 3 times"),
    (EQUAL, 31, False, 0, ""),
    (EQUAL, 31, True, 10, "train.loss differs at 1 of 80 values of aiobs.step: 60"),
    (EQUAL.replace(", tolerance: 0.000001", ""), 31, True, 10, "train.loss differs at 1 of 80 values of aiobs.step: 60"),
])  # fmt: skip
def test_training_goes_on_where_it_was_and_together(
    scene: Scene, capsys: pytest.CaptureFixture[str], invariant: str, resumed_at: int, differs: bool, code: int, says: str
) -> None:  # fmt: skip
    steps(scene, resumed_at, differs=differs)
    got, verdict = judged(scene, capsys, invariant)
    assert got == code, verdict["sentence"]
    assert says in verdict["sentence"]


@pytest.mark.parametrize(("invariant", "says"), [
    ("{name: x, unique: a, equal: b}", "exactly one of unique"),
    ("{name: x, unique: a, back: 2}", "no such field"),
    ("{name: x, monotonic: a, back: -1}", "0 or more"),
    ("{name: x, monotonic: a, back: 1, saved: {span.name: s}}", "either `back` or `saved`"),
    ("{name: x, equal: a}", "a text is needed here"),
])  # fmt: skip
def test_a_bad_invariant_is_refused_with_its_line(
    scene: Scene, capsys: pytest.CaptureFixture[str], invariant: str, says: str
) -> None:
    with pytest.raises(PlanError, match=says) as caught:
        judged(scene, capsys, invariant)
    assert "spec.yaml:2" in caught.value.field
