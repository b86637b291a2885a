"""The verdict in a test: ``assert containment.holds("spec.yaml", folder)``, with a failure that says what leaked.

::

    from aiobs.chaos.containment import asserting as containment
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.containment.boundaries import check
from aiobs.chaos.containment.judge import judge
from aiobs.chaos.containment.model import Fault, Verdict
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
        faults = source.faults()
        permitted = source.spec.permitted or tuple({it.boundary for it in faults if it.boundary})
        check(source.spec, source.seen(), source.carriers(), permitted)
        each: list[Fault | None] = [*faults] or [None]
        if source.spec.windows is not None and len(faults) > 1:
            each = [None]
        return Holding(tuple(judge(source.spec, source, it) for it in each))
    finally:
        source.close()


def _tells(side: str, result: str) -> bool:
    return side == "outside" and result != "held"
