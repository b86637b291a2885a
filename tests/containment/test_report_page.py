"""The report of a real judgement: one file that loads nothing and says what was found."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'aiobs-sdk[containment]'")

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.model import Cell, Recovery, Spec, Verdict, Windows
from aiobs.chaos.containment.report.page import render
from aiobs.chaos.containment.report.timeline import timeline
from aiobs.errors import SettingError

from .conftest import T0, pairs

VOID = {"meta", "br", "link", "img", "input", "path", "use", "rect"}


class Outline(HTMLParser):
    """Tags that are open, and the words of each heading and table, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.unnamed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "svg" and not dict(attributes).get("aria-label"):
            self.unnamed.append(tag)
        if tag == "th" and "scope" not in dict(attributes):
            self.unnamed.append(self.get_starttag_text() or tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        while self.open and self.open[-1] != tag and self.open[-1] in ("p", "li", "html", "body"):
            self.open.pop()
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, text: str) -> None:
        if self.open and self.headings and self.open[-1] in ("h1", "h2", "h3"):
            tag, said = self.headings[-1]
            self.headings[-1] = (tag, said + text)


def requests(scene: Any, ill: Sequence[tuple[float, float, str, str]], *, end: float = 100, rate: float = 30) -> None:
    """A router and replicas a, b, c: traces of five spans, in lines of a hundred. `ill`: from, to, replica, error."""
    rng = random.Random(5)
    router: list[Any] = []
    replicas: dict[str, list[Any]] = {"a": [], "b": [], "c": []}
    for place in range(int(end * rate)):
        at, name = place / rate, "abc"[place % 3]
        why = next((error for first, last, who, error in ill if who == name and first <= at < last), "")
        took = (rng.uniform(1, 3) if why else 0.1) + 0.01 * rng.random()
        trace = f"{rng.getrandbits(128):032x}"

        def span(n: int, what: str, parent: int, begin: float, until: float, kind: int = 1, error: str = "", of: int = place, trace: str = trace, **told: Any) -> dict[str, Any]:  # fmt: skip
            made = {
                "traceId": trace, "spanId": f"{of * 10 + n:016x}", "parentSpanId": f"{of * 10 + parent:016x}" if parent else "", "name": what, "kind": kind,
                "startTimeUnixNano": str(T0 * 10**9 + round(begin * 1e9)), "endTimeUnixNano": str(T0 * 10**9 + round(until * 1e9)),
                "attributes": pairs(told), "status": {"code": 2} if error else {},
            }  # fmt: skip
            if error:
                thrown = pairs({"exception.type": "OutOfMemoryError", "exception.message": error})
                made["events"] = [{"name": "exception", "timeUnixNano": "1", "attributes": thrown}]
            return made

        failed = {"http.response.status_code": 500 if why else 200}
        router.append(span(1, "POST /v1", 0, at, at + took, 2, **{"http.response.status_code": 200}))
        replicas[name] += [
            span(2, "POST /v1", 1, at + 0.001, at + took, 2, **failed) | ({"status": {"code": 2}} if why else {}),
            span(3, "queue", 2, at + 0.001, at + 0.01),
            span(4, "prefill", 2, at + 0.01, at + took, error=why, **({"aiobs.fault.injected": True} if why else {})),
        ]
    scene.count = int(end * rate) * 10
    for about, spans in [({"service.name": "router"}, router)] + [({"service.name": "llm", "aiobs.replica": it}, found) for it, found in replicas.items()]:  # fmt: skip
        for place in range(0, len(spans), 100):
            scene.spans(about, spans[place : place + 100])


def reported(scene: Any, path: Path, *more: str) -> tuple[int, str]:
    code = main([*scene.write(), "--html", str(path / "report.html"), *more])
    return code, (path / "report.html").read_text("utf-8")


def test_a_contained_fault(scene: Any, tmp_path: Path) -> None:
    requests(scene, [(35, 69, "b", "CUDA out of memory")])
    scene.fault()
    code, page = reported(scene, tmp_path)
    assert code == 0
    assert "<b class=good>✓ contained</b>" in page
    assert len(page) < 500_000
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", page), "it loads nothing"
    assert "<script" not in page
    outline = Outline(page)
    assert outline.unnamed == [], "every picture and every head of a table says what it is"
    words = [text for _, text in outline.headings]
    assert words.index("Traces that show it") < words.index("Over time") < words.index("Recovery") < words.index("Error budget")  # fmt: skip
    assert {"Certified", "Not certified", "Raw figures", "The spec as used", "To repeat this verdict"} <= set(words)
    assert "margins: {availability: 0.03}" in page
    assert f"aiobs verdict {scene.folder} --spec {scene.folder}/spec.yaml" in page
    assert page.index("<table class=matrix>") < page.index("Traces that show it"), "the matrix comes first"


def test_a_leak_is_seen_where_it_is(scene: Any, tmp_path: Path) -> None:
    requests(scene, [(35, 69, "b", "CUDA out of memory"), (40, 60, "a", "no memory left here either")])
    scene.fault()
    code, page = reported(scene, tmp_path, "--jaeger", "http://jaeger.example:16686/")
    assert code == 10
    assert "<b class=bad>✗ leaked</b>" in page
    assert len(re.findall(r'<td class="cell bad"[^>]*><b>✗ harmed', page)) == 1, "harm inside is what it was for"
    worst = re.findall(r"<figure class=trace>.*?</figure>", page, re.DOTALL)
    assert [re.findall(r"<b>(.*?)</b>", it)[0].partition(",")[0] for it in worst] == [
        "The worst request inside",
        "The worst request outside",
        "For comparison: an ordinary one before the fault",
    ]
    inside, outside, ordinary = worst
    assert "<b>prefill</b> in llm, replica b failed: <span class=bad>OutOfMemoryError: CUDA out of memory" in inside
    assert "<b>prefill</b> in llm, replica a failed: <span class=bad>OutOfMemoryError: no memory left" in outside
    assert inside.count("↯ hit by the fault") == 1
    assert "✗" not in ordinary
    for drawn in worst:
        trace = re.search(r"<code class=id>(\w{32})</code>", drawn)
        assert trace is not None
        assert f'href="http://jaeger.example:16686/trace/{trace[1]}?uiFind=' in drawn
        assert drawn.count("<tr>") == 5, "the whole trace: router, replica, queue and prefill, under a head"


def test_of_a_replica_that_died_what_was_under_way_is_shown(scene: Any, tmp_path: Path) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: 34.8 <= at < 35, without=[(35, 65)])
    scene.fault()
    code, page = reported(scene, tmp_path)
    assert code == 0
    assert "The worst request inside, begun just before the fault" in page
    assert page.count("<figure class=trace>") == 3
    assert "failed: <span class=bad>status 503" in page


def test_several_faults_make_one_report_with_a_summary(scene: Any, tmp_path: Path) -> None:
    requests(scene, [(35, 69, "b", "first"), (135, 169, "a", "second")], end=200)
    scene.fault()
    scene.fault(135, 165, id="f2", boundary="aiobs.replica=a")
    scene.write()
    spec = (scene.folder / "spec.yaml").read_text().replace("permitted: [aiobs.replica=b]\n", "")
    code = main([*scene.write(spec), "--html", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert code == 0
    assert list(tmp_path.glob("*.html")) == [tmp_path / "report.html"]
    assert "2 faults, 2 contained" in page
    assert page.index("href='#fault-2'") < page.index('id="fault-1"') < page.index('id="fault-2"')
    first, second = page.split('id="fault-2"')
    # Each fault has its own inside: what was outside for one is inside for the other.
    assert "replica b failed: <span class=bad>OutOfMemoryError: first" in first
    assert "replica a failed: <span class=bad>OutOfMemoryError: second" in second
    assert Outline(page).unnamed == []


def test_what_telemetry_says_stays_text() -> None:
    evil = "<script>alert(1)</script>"
    cell = Cell(evil, evil, evil, "outside", "held", 0, 0, 0, 0.01, 0, 0, 9, 9, 99, evil, method=evil)
    second = 10**9
    windows = Windows((0, second), (second, 2 * second), (2 * second, 3 * second), second, second, 2 * second)
    verdict = Verdict("invalid", evil, (cell,), (Recovery(evil, evil, evil, "inside", 0, 0, reason=evil),), windows=windows, certifies=(evil,))  # fmt: skip
    page = render([verdict], Spec((), ()), ())
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") > 5


def test_no_verdict_at_all_is_said() -> None:
    assert "none was judged" in render([], Spec((), ()), ())


def test_an_address_of_jaeger_that_is_none_is_refused(scene: Any, tmp_path: Path) -> None:
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    with pytest.raises(SettingError, match="jaeger_url='javascript:alert"):
        reported(scene, tmp_path, "--jaeger", "javascript:alert(1)")


def test_the_timeline_draws_every_outcome_for_who_cannot_see_it() -> None:
    second = 10**9
    windows = Windows((0, 9 * second), (10 * second, 20 * second), (20 * second, 50 * second), 9 * second, 10 * second, 20 * second, "f")  # fmt: skip
    found = [
        Recovery("b", "b", "availability", "inside", 3.9, 4.3, reason="well again between 3.90 and 4.30 s"),
        Recovery("c", "c", "availability", "outside", 29.9, 30, censored=True, reason="still bad"),
        Recovery("d", "d", "availability", "outside", 6, 7, relapse=True, reason="fell ill again"),
        Recovery("e", "e", "availability", "outside", 0, 0, reason="never ill after the undo"),
        Recovery("g", "g", "availability", "outside", 0, 30, True, unseen=True, reason="too few"),
    ]
    drawn = timeline(found, windows, 11 * second)
    label = re.search(r'aria-label="([^"]+)"', drawn)
    assert label is not None
    for said in ("well again between 3.90", "still bad", "fell ill again", "never ill", "too few"):
        assert said in label[1]
    for shown in ("3.90 … 4.30 s", "not recovered", ", relapsed", "undo verified", "seen to act"):
        assert f">{shown}" in drawn or f"{shown}<" in drawn
