"""What a containment verdict is made of: boundary, SLO, windows, samples, cells, recoveries, verdict.

Times are wall-clock Unix nanoseconds, intervals are (first, end) with the end left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

Interval = tuple[int, int]
Kind = Literal["ratio", "threshold", "mean", "rate", "rare"]
Side = Literal["inside", "outside"]
CellResult = Literal["held", "harmed", "unsure", "no_data", "baseline"]
VerdictKind = Literal["contained", "leaked", "not_recovered", "inconclusive", "invalid", "aborted", "residue"]

InvariantKind = Literal["unique", "answered", "monotonic", "equal"]

REST = "everything else"
"""The stratum of all telemetry that is in no declared boundary."""


@dataclass(frozen=True)
class Boundary:
    """Units that may fail together.

    Attributes:
        where: attribute (of the resource or the span) to one of its values; ``*`` and ``?`` are wildcards. All must match.
        interfaces: names of boundaries its units talk to; told to the reader, nothing is computed from it.
        line: where in the spec it stands, 0 for one made in Python.
    """

    name: str
    where: Mapping[str, tuple[str, ...]]
    interfaces: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True)
class Indicator:
    """Which spans count, and what of them.

    Attributes:
        spans: attribute to one of its values, as in :class:`Boundary`; the span's own name is under ``span.name``.
        value: the number looked at, in seconds for ``duration``, else an attribute; "" where only good or bad counts.
        bad: for ``ratio`` and ``rare``: what makes a span bad (or an event): attribute to values; ``error`` is the span's status.
        above: for ``threshold``: a value above it is bad.
        queries: in place of spans: ``value``, or ``total`` and one of ``good`` and ``bad``, in Prometheus' language.
    """

    spans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value: str = ""
    bad: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    above: float | None = None
    queries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slo:
    """An objective, and by how much a bystander may miss it.

    Attributes:
        kind: ``ratio`` and ``threshold`` give good or bad for each span; ``mean`` the mean of a value (more is worse);
            ``rate`` good spans a second (less is worse); ``rare`` counts of events that should not be.
        objective: share of good spans that is promised, such as 0.99; None for ``mean`` and ``rate``.
        margin: degradation below it counts as none: a difference of shares for ``ratio`` and ``threshold``, a share of
            the baseline for ``mean`` and ``rate``, a factor on the rate for ``rare``.
        allowed: the same for the inside; None: anything, total failure too.
        required: whether it must hold for ``contained``; others are told only.
    """

    name: str
    kind: Kind
    indicator: Indicator
    objective: float | None = None
    margin: float = 0.01
    allowed: float | None = None
    required: bool = True
    budget_days: float = 28.0
    line: int = 0


@dataclass(frozen=True)
class Invariant:
    """What must hold of the work itself.

    Attributes:
        kind: ``unique``: no value of `attribute` on two spans that went well; ``answered``: every value on `spans` is on a
            span of `by` that went well; ``monotonic``: within each value of `each` it never falls by more than `back`, or
            behind the highest on a span of `by` that went well before; ``equal``: it is the same, but for `tolerance`, on all
            spans with the same value of `at`.
    """

    name: str
    kind: InvariantKind
    attribute: str
    spans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    each: str = ""
    at: str = ""
    back: float = 0.0
    tolerance: float = 0.0

    @property
    def numeric(self) -> bool:
        """Whether the attribute is compared as a number; else only as what is written."""
        return self.kind == "monotonic" or (self.kind == "equal" and self.tolerance > 0)


@dataclass(frozen=True)
class Windows:
    """One fault and the time around it. What lies between the windows is guard, and not looked at."""

    baseline: Interval
    fault: Interval
    recovery: Interval
    hold_ns: int
    injected_ns: int
    undone_ns: int
    fault_id: str = ""

    @property
    def whole(self) -> Interval:
        """From the first to the last moment looked at."""
        return (self.baseline[0], self.recovery[1])

    @property
    def guards(self) -> tuple[Interval, ...]:
        """What is looked at in no window."""
        return ((self.baseline[1], self.fault[0]), (self.fault[1], self.recovery[0]))


@dataclass(frozen=True)
class Fault:
    """A fault as its span tells it.

    Attributes:
        boundary: the boundary it may hurt.
        valid: whether it was seen to act; None where nothing says so.
        residue: what its undo left behind.
        aborted: why it was stopped before its time, else "".
    """

    id: str
    kind: str
    injected_ns: int
    effective_ns: int
    undone_ns: int
    boundary: str = ""
    experiment: str = ""
    target: str = ""
    valid: bool | None = None
    residue: tuple[str, ...] = ()
    aborted: str = ""
    trace_id: str = ""
    span_id: str = ""


@dataclass(frozen=True)
class Spec:
    """What is to be judged, and how strictly.

    Attributes:
        permitted: boundaries the fault may hurt; empty: the one its fault span names.
        control: a boundary that the fault cannot reach, judged beside the others: its drift is taken off theirs.
        windows: given by hand, else None: from the fault spans.
        baseline_s, guard_s, recovery_s, hold_s: lengths; None: the fault's length, 5 % of it (1 s at most), the fault's
            length, half of it.
        alpha: error rate of one test; see docs/containment.md for what it comes to on telemetry.
        absorbed: the fault is declared to have no effect that an SLI shows.
        rest: whether telemetry outside every declared boundary is a stratum too.
        invariants: what must hold of the work itself, inside as well as outside.
        path: where it was read from.
    """

    boundaries: tuple[Boundary, ...]
    slos: tuple[Slo, ...]
    permitted: tuple[str, ...] = ()
    control: str = ""
    windows: Windows | None = None
    baseline_s: float | None = None
    guard_s: float | None = None
    recovery_s: float | None = None
    hold_s: float | None = None
    alpha: float = 0.005
    absorbed: bool = False
    rest: bool = True
    path: str = ""
    invariants: tuple[Invariant, ...] = ()


@dataclass(frozen=True)
class Samples:
    """What one SLO is judged by, in one stratum: a row for each span that counts, by start time.

    Attributes:
        start_ns: when each began, ascending.
        bad: whether it was bad (all False for ``mean``).
        value: the number looked at; NaN where the span has none. Empty for ``ratio``, ``rate`` and ``rare``.
        dropped: spans that count but carry no value, and say nothing.
        took: seconds from begin to end, NaN where it never ended; None where the source knows of begins only.
    """

    stratum: str
    slo: str
    side: Side
    start_ns: NDArray[Any]
    bad: NDArray[Any]
    value: NDArray[Any]
    dropped: int = 0
    took: NDArray[Any] | None = None


@dataclass(frozen=True)
class Facts:
    """What one invariant is judged by: a row for each span that carries its attribute, by start time.

    Attributes:
        value: the attribute: a 64-bit mark of its text, or a number for ``monotonic`` and for ``equal`` with a tolerance.
        well: whether the span went well.
        asked, answer: whether it is one of the invariant's `spans`, and of its `by`.
        group, at: marks of the attributes that `each` and `at` name, 0 where there is none.
        texts: up to so many values as they are written.
    """

    start_ns: NDArray[Any]
    value: NDArray[Any]
    well: NDArray[Any]
    asked: NDArray[Any]
    answer: NDArray[Any]
    group: NDArray[Any]
    at: NDArray[Any]
    texts: Callable[[Any], list[str]]


@dataclass(frozen=True)
class Kept:
    """Whether an invariant was kept.

    Attributes:
        looked: values or spans that were looked at.
        broken: how many of them broke it.
        examples: some of those.
    """

    name: str
    kind: InvariantKind
    result: Literal["kept", "broken", "unseen"]
    reason: str
    looked: int = 0
    broken: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the telemetry holds, before any SLO is asked.

    Attributes:
        spans: how many, each once.
        duplicates: copies that were left out.
        alive: starts of spans of any kind, coarsely (one for each second and stratum or less): is anyone reporting?
        values: attribute to its values (a hundred at most), of resources and spans, for messages and suggestions.
        trouble: what is wrong with it, one sentence each, such as a clock that stepped or lines that cannot be read.
        backwards: spans that end before they begin.
        unreadable: share of its lines that cannot be read, but for one torn off in each file.
    """

    spans: int
    duplicates: int
    span: Interval
    alive: NDArray[Any]
    values: Mapping[str, tuple[str, ...]]
    trouble: tuple[str, ...] = ()
    backwards: int = 0
    unreadable: float = 0.0


class Source(Protocol):
    """Where telemetry comes from."""

    spec: Spec
    """What is asked of it, with its boundaries filled in."""

    def close(self) -> None:
        """Let go of what it holds."""
        ...

    def carriers(self) -> Mapping[str, int]:
        """How many spans (or events) each boundary holds."""
        ...

    def seen(self) -> Seen:
        """What there is."""
        ...

    def faults(self) -> tuple[Fault, ...]:
        """Faults on the record, by time."""
        ...

    def samples(self, spec: Spec, permitted: Sequence[str]) -> tuple[Samples, ...]:
        """Each stratum's rows for each SLO: inside are the permitted boundaries together, outside one for each other
        boundary and :data:`REST`; a span inside is in no other stratum. Strata without rows are there, empty."""
        ...


@dataclass(frozen=True)
class Cell:
    """One boundary × SLO: how much worse it got, and how sure that is.

    Attributes:
        estimate, low, high: of the degradation (unit of the margin), one-sided bounds at the level used.
        baseline, fault: the figure itself in both windows.
        n_eff: independent samples in the weaker window.
        reason: one sentence.
        more_needed: times as much data in each window to settle it; 0: settled, inf: no amount.
        holm: the harm still stands when all strata are looked at together, and so names the leak.
    """

    boundary: str
    stratum: str
    slo: str
    side: Side
    result: CellResult
    estimate: float
    low: float
    high: float
    margin: float
    baseline: float
    fault: float
    n_baseline: int
    n_fault: int
    n_eff: float
    reason: str
    more_needed: float = 0.0
    required: bool = True
    method: str = ""
    p_harm: float = 1.0
    holm: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the degradation."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Recovery:
    """When an SLI was well again after the undo.

    Attributes:
        last_bad_s, first_good_s: seconds from the verified undo; recovery lies between them. 0, 0: never was ill.
        censored: it had not recovered when the looking ended, `first_good_s` is then that moment.
        relapse: it was well for a while and fell ill again within the hold: a metastable state.
        unseen: too few requests to tell.
    """

    boundary: str
    stratum: str
    slo: str
    side: Side
    last_bad_s: float
    first_good_s: float
    censored: bool = False
    relapse: bool = False
    unseen: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        reason: which kind of inconclusive, invalid or aborted; "" for the others.
        strata: where it leaked to, or what did not recover.
        beside: the verdict without the residue, where `kind` is ``residue``.
        observed: share of outside requests that were in strata harmed, or not shown unharmed.
        budget: SLO to the share of its error budget that the fault window burned outside, per SLO.
        invariants: the invariants, kept or broken.
        raw: figures for machines: windows, counts, versions.
    """

    kind: VerdictKind
    sentence: str
    cells: tuple[Cell, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    reason: str = ""
    strata: tuple[str, ...] = ()
    beside: str = ""
    certifies: tuple[str, ...] = ()
    does_not_certify: tuple[str, ...] = ()
    fault: Fault | None = None
    windows: Windows | None = None
    more_needed: float = 0.0
    observed: float = 0.0
    budget: Mapping[str, float] = field(default_factory=dict)
    invariants: tuple[Kept, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
