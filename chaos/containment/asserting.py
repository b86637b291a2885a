"""The verdict in a test: ``assert containment.holds("spec.yaml", folder)``, with a failure that says what leaked.

::

    from aiobs.chaos.containment import asserting as containment
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.containment.judging import judge_faults
from aiobs.chaos.containment.model import Verdict
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.spec import read_spec


@dataclass(frozen=True, repr=False)
class Holding:
    """True where every verdict is contained, and there is one; shown as the verdicts and their sentences."""

    verdicts: tuple[Verdict, ...]

    def __bool__(self) -> bool:
        return bool(self.verdicts) and all(it.kind == "contained" for it in self.verdicts)

    def __repr__(self) -> str:
        lines = [f"{it.kind}: {it.sentence}" for it in self.verdicts]
        lines += [
            f"  {c.stratum}, {c.slo}: {c.reason}" for it in self.verdicts for c in it.cells if _tells(c.side, c.result)
        ]
        return "\n".join(lines)


def holds(spec: str | Path, folder: str | Path) -> Holding:
    """Judge each fault on the record of the run folder `folder` by `spec`.

    Raises:
        NotEnabledError: the extra ``containment`` is not installed.
        PlanError: the spec cannot be used, or does not fit what the folder holds.
        RecordError: the folder cannot be read.
    """
    source = RunFolder(Path(folder), read_spec(Path(spec)))
    try:
        return Holding(tuple(judge_faults(source, source.faults())))
    finally:
        source.close()


def _tells(side: str, result: str) -> bool:
    return side == "outside" and result != "held"
