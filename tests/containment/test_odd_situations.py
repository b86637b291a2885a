"""Each odd situation has its verdict, and docs/containment.md says of it what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from .odd_situations import ODD, Odd, judged, row

PAGE = Path(__file__).parents[2] / "docs/containment.md"


@pytest.mark.parametrize("odd", ODD, ids=[odd.title for odd in ODD])
def test_it_has_its_verdict_and_stands_in_the_docs(odd: Odd, tmp_path: Path) -> None:
    verdict = judged(odd, tmp_path / "run")
    assert (verdict["kind"], verdict["reason"]) == (odd.kind, odd.reason), verdict["sentence"]
    assert row(odd, verdict) in PAGE.read_text("utf-8")


def test_the_docs_hold_no_other_situation() -> None:
    part = PAGE.read_text("utf-8").partition("| situation | verdict |")[2].partition("\n\n")[0]
    assert len(part.splitlines()) - 2 == len(ODD)
