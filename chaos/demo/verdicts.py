"""The verdicts on a scenario, by the same words as anybody's: ``aiobs verdict FOLDER --spec FOLDER/spec.yaml``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobs.chaos.demo.scenarios import Act
from aiobs.errors import FaultError

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Judged:
    """One act with what was found.

    Attributes:
        kind: the verdict; `sentence` and `strata` (where it leaked to) say it in full.
        trace: id of the trace that the fault's span is in, "" where there is none.
    """

    act: Act
    kind: str
    sentence: str
    strata: tuple[str, ...] = ()
    trace: str = ""

    @property
    def as_expected(self) -> bool:
        """Whether it is the verdict that the scene was made for."""
        return self.kind == self.act.expected


def judged(folder: Path, acts: Sequence[tuple[Act, str]], jaeger: str) -> list[Judged]:
    """Judge a run folder and write its report; `acts` with the ids of their faults.

    Raises:
        FaultError: it could not be judged; the message says what `aiobs verdict` said.
    """
    command = [sys.executable, "-m", "aiobs.cli", *words(folder), "--json", "--html", str(folder / "report.html")]
    command += ["--junit", str(folder / "verdict.xml"), "--markdown", str(folder / "verdict.md")]
    command += ["--jaeger", jaeger] if jaeger else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise FaultError("verdict", f"no verdict: {said[-1] if said else f'exit code {done.returncode}'}") from None
    (folder / "verdict.json").write_text(done.stdout, "utf-8")
    by_fault = {it["fault"]["id"]: it for it in found if it.get("fault")}
    return [_judged(act, by_fault.get(fault)) for act, fault in acts]


def words(folder: Path) -> list[str]:
    """The command line, after ``aiobs``, that repeats the verdict."""
    return ["verdict", str(folder), "--spec", str(folder / "spec.yaml")]


def _judged(act: Act, found: dict[str, Any] | None) -> Judged:
    if found is None:
        return Judged(act, "invalid", "The fault is not on the record: its span was lost.")
    return Judged(act, found["kind"], found["sentence"], tuple(found["strata"]), found["fault"].get("trace_id", ""))
