"""The verdict in a test: ``assert containment.holds("spec.yaml", folder)``, with a failure that says what leaked.

::

    from aiobs.chaos.containment import asserting as containment

In pytest the fixture ``containment`` does more: see :mod:`aiobs.chaos.containment.trial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiobs.chaos.containment.judging import judge_faults
from aiobs.chaos.containment.model import Fault, Verdict
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.signs import RESULTS, VERDICTS, absent, spoken, state
from aiobs.chaos.containment.spec import read_spec
from aiobs.chaos.containment.written import amount, title


@dataclass(frozen=True, repr=False)
class Holding:
    """True where every verdict is contained, and there is one; shown as the verdicts and what did not hold.

    Attributes:
        report: where the whole report is; None where none was written.
    """

    verdicts: tuple[Verdict, ...]
    report: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.verdicts) and all(it.kind == "contained" for it in self.verdicts)

    def __repr__(self) -> str:
        lines = [] if self.verdicts else ["no fault is on the record: nothing was judged, and that is no pass"]
        for verdict in self.verdicts:
            lines.append(f"{spoken(verdict.kind)}: {verdict.sentence}")
            lines += _open(verdict)
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)


def holds(spec: str | Path, folder: str | Path, *, report: str | Path | None = None) -> Holding:
    """Judge each fault on the record of the run folder `folder` by `spec`.

    Args:
        report: where the whole report is to be written, if something does not hold.

    Raises:
        NotEnabledError: the extra ``containment`` is not installed.
        PlanError: the spec cannot be used, or does not fit what the folder holds.
        RecordError: the folder cannot be read.
        OSError: the report cannot be written.
    """
    return judged(spec, folder, lambda on_record: on_record, report)


def judged(
    spec: str | Path,
    folder: str | Path,
    choose: Callable[[Sequence[Fault]], Sequence[Fault]],
    report: str | Path | None,
) -> Holding:
    """As :func:`holds`, of the faults that `choose` makes of those on the record."""
    source = RunFolder(Path(folder), read_spec(Path(spec)))
    try:
        faults = choose(source.faults())
        if not faults and source.spec.windows is None:
            return Holding(())
        found = Holding(tuple(judge_faults(source, faults)))
        if found or report is None:
            return found
        from aiobs.chaos.containment.report.page import write_reports

        write_reports(Path(report), found.verdicts, source.spec, partial(source.samples, source.spec), files=source.files())  # fmt: skip
        return replace(found, report=Path(report))
    finally:
        source.close()


def _open(verdict: Verdict) -> list[str]:
    """What did not hold, as lines that stand below each other."""
    cells = [it for it in verdict.cells if it.side == "outside" and it.result != "held"]
    # What was never measured is of interest only where the verdict rests on it.
    cells = [it for it in cells if not absent(it) or (verdict.kind == "inconclusive" and it.stratum in verdict.strata)]
    rows = [(f"{RESULTS[it.result][0]} {RESULTS[it.result][1]}", it.stratum, it.slo, amount(verdict, it) or it.reason) for it in cells]  # fmt: skip
    rows += [
        (f"{VERDICTS['not_recovered'][0]} {state(it)[0]}", it.stratum, it.slo, it.reason)
        for it in verdict.recoveries
        if it.censored or it.relapse or it.unseen
    ]
    rows += [(f"{RESULTS['harmed'][0]} {it.result}", "invariant", it.name, it.reason) for it in verdict.invariants if it.result != "kept"]  # fmt: skip
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(3)]
    lines = ["  " + "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in rows]  # fmt: skip
    return [f"  {title(verdict)}", *lines] if lines else []
