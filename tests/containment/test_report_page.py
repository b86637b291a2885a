"""The report of a real judgement: one file that loads nothing and says what was found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'aiobs-sdk[containment]'")

from aiobs.chaos.command.verdict import main
from aiobs.chaos.containment.model import Spec, Verdict
from aiobs.chaos.containment.report.page import render


def reported(scene: Any, path: Path, **sibling: Any) -> tuple[int, str]:
    scene.replica("a", **sibling)
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    code = main([*scene.write(), "--html", str(path / "report.html")])
    return code, (path / "report.html").read_text("utf-8")


def test_a_contained_fault(scene: Any, tmp_path: Path) -> None:
    code, page = reported(scene, tmp_path)
    assert code == 0
    assert "<h1 class=good>contained</h1>" in page
    assert len(page) < 500_000
    assert page.count("<svg") == 1
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", page), "it loads nothing"
    for wanted in ("aiobs.replica=a", "What it does not certify", "availability"):
        assert wanted in page


def test_a_leak_is_seen_where_it_is(scene: Any, tmp_path: Path) -> None:
    code, page = reported(scene, tmp_path, bad=lambda at: 40 <= at < 60)
    assert code == 10
    assert "<h1 class=bad>leaked</h1>" in page
    assert page.count("<td class=bad><b>harmed</b></td>") == 1, "harm inside is what the experiment was for"


def test_what_telemetry_says_stays_text() -> None:
    verdict = Verdict("invalid", "<script>alert(1)</script>", certifies=("<b>",))
    page = render(verdict, Spec((), ()), ())
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
