"""Every fault on the record of one source, judged."""

from __future__ import annotations

from collections.abc import Sequence

from aiobs.chaos.containment.boundaries import check
from aiobs.chaos.containment.judge import judge
from aiobs.chaos.containment.model import Fault, Source, Verdict
from aiobs.chaos.containment.sources.prometheus import Prometheus
from aiobs.errors import PlanError


def permitted_of(source: Source, faults: Sequence[Fault]) -> tuple[str, ...]:
    """The boundaries that may be hurt: those the spec names, else those the faults were aimed at."""
    return source.spec.permitted or tuple({it.boundary for it in faults if it.boundary})


def judge_faults(source: Source, faults: Sequence[Fault]) -> list[Verdict]:
    """A verdict for each fault; one without a fault where there is none.

    Raises:
        PlanError: the spec does not fit what the source holds.
    """
    spec = source.spec
    asked = [slo.name for slo in spec.slos if slo.indicator.queries]
    if asked and not isinstance(source, Prometheus):
        raise PlanError("slos", ", ".join(asked), "they ask Prometheus, and this is a run folder: name prometheus:URL")
    check(spec, source.seen(), source.carriers(), permitted_of(source, faults))
    each: list[Fault | None] = [*faults] or [None]
    if spec.windows is not None and len(faults) > 1:
        each = [None]  # windows by hand are about one fault, and nothing says about which of these
    return [judge(spec, source, it) for it in each]
