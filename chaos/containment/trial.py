"""An experiment inside a test: what ran in a ``with`` block is judged when it is over.

::

    def test_the_other_replicas_do_not_notice(chaos, containment, service):
        with containment("spec.yaml", service.run_folder) as run:
            service.load(seconds=10)
            with chaos("process.pause", service.replica("b"), boundary="aiobs.replica=b"):
                service.load(seconds=10)
            service.load(seconds=10)
        assert run.holds()
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs.chaos.containment.asserting import Holding, judged
from aiobs.chaos.containment.model import Fault
from aiobs.chaos.containment.spec import read_spec
from aiobs.errors import PlanError

if TYPE_CHECKING:
    from aiobs.chaos.lease import Injection

QUIET_S = 1.0
"""So long nothing is added to the folder: what was recorded has arrived. An agent writes ten times a second."""
LIMIT_S = 20.0
_TAIL = 1 << 20
_LATER_NS = 500_000_000
_ENDS = re.compile(rb'"endTimeUnixNano"\s*:\s*"?(\d+)')
_ORDERLY = ("", "its time is over", "the experiment asked for it", "no effect was seen")
"""Reasons of an undo that came as planned."""


class Trial:
    """What ran between `begun_ns` and `ended_ns` (Unix ns; 0: not over yet).

    Attributes:
        spec, folder: what it is judged by, and the run folder of the service under test.
    """

    def __init__(self, spec: Path, folder: Path, begun_ns: int) -> None:
        self.spec = spec
        self.folder = folder
        self.begun_ns = begun_ns
        self.ended_ns = 0
        self._judge: Callable[[Trial], Holding] = _unjudged

    def holds(self) -> Holding:
        """The verdict; asked again it is the same.

        Raises:
            PlanError: the block is not over, a fault of it is still held, or the spec does not fit what was recorded.
            RecordError: the folder cannot be read.
            NotEnabledError: the extra ``containment`` is not installed.
        """
        return self._judge(self)


def _unjudged(trial: Trial) -> Holding:
    raise PlanError("containment", str(trial.folder), "the experiment is not over: leave the `with` block first")


class Containment:
    """The fixture ``containment``.

    Args:
        folder: the run folder where none is named.
        reports: folder for reports of what does not hold.
        injections: the faults that the test injected so far, for folders that have no span of them.
        tell: called with each verdict that was found.
    """

    def __init__(
        self,
        folder: Path,
        reports: Path,
        injections: Callable[[], Sequence[Injection]],
        tell: Callable[[Holding], None],
    ) -> None:
        self._folder = folder
        self._reports = reports
        self._injections = injections
        self._tell = tell
        self._found = 0

    @contextmanager
    def __call__(self, spec: str | Path, folder: str | Path | None = None) -> Generator[Trial]:
        """Judge what happens in the block by `spec`, from the run folder of the service under test.

        Raises:
            PlanError: the spec cannot be used; said before anything is injected.
            NotEnabledError: the extra ``containment`` is not installed.
        """
        read_spec(Path(spec))
        trial = Trial(Path(spec), Path(folder or self._folder), time.time_ns())
        yield trial
        trial.ended_ns = time.time_ns()
        _settled(trial.folder, trial.ended_ns)
        trial._judge = self._once

    def holds(self, spec: str | Path, folder: str | Path | None = None) -> Holding:
        """Judge every fault on the record of a run folder, and those this test injected; errors as :meth:`Trial.holds`."""
        return self._judged(Path(spec), Path(folder or self._folder), 0, 0)

    def _once(self, trial: Trial) -> Holding:
        found = self._judged(trial.spec, trial.folder, trial.begun_ns, trial.ended_ns)
        trial._judge = lambda _: found
        return found

    def _judged(self, spec: Path, folder: Path, begun_ns: int, ended_ns: int) -> Holding:
        held = [it for it in self._injections() if it.injected_ns >= begun_ns and (not ended_ns or it.injected_ns <= ended_ns)]  # fmt: skip
        for it in held:
            if it.effective_ns and not it.undone_ns:
                raise PlanError(
                    "containment", it.plan.fault.kind, "this fault is still held: undo it before it is judged"
                )

        def choose(on_record: Sequence[Fault]) -> Sequence[Fault]:
            during = [it for it in on_record if it.injected_ns >= begun_ns and (not ended_ns or it.injected_ns <= ended_ns)]  # fmt: skip
            known = {it.id for it in during}
            # The service may record elsewhere than the injector, with another SDK: then the test itself is the record.
            return sorted(
                during + [fault_of_injection(it) for it in held if it.plan.id not in known],
                key=lambda it: it.injected_ns,
            )

        self._found += 1
        report = self._reports / f"containment{'' if self._found == 1 else f'-{self._found}'}.html"
        found = judged(spec, folder, choose, report)
        self._tell(found)
        return found


def fault_of_injection(injection: Injection) -> Fault:
    """The fault as its injection tells it, without a span."""
    plan = injection.plan
    return Fault(
        plan.id, plan.fault.kind, injection.injected_ns, injection.effective_ns or injection.injected_ns, injection.undone_ns,
        plan.boundary, plan.experiment, str(plan.target), bool(injection.effective_ns), tuple(injection.residue),
        "" if injection.because in _ORDERLY else injection.because,
    )  # fmt: skip


def _settled(folder: Path, ended_ns: int) -> None:
    """Wait until what was recorded up to `ended_ns` is in the folder: later spans are, or nothing more arrives."""
    deadline = time.monotonic() + LIMIT_S
    read: dict[Path, int] = {}
    since = time.monotonic()
    while time.monotonic() < min(deadline, since + QUIET_S):
        for path in folder.glob("traces*.jsonl") if folder.is_dir() else ():
            size = path.stat().st_size
            known = read.setdefault(path, max(0, size - _TAIL))
            if size == known:
                continue
            since = time.monotonic()
            with path.open("rb") as file:
                file.seek(known)
                told = file.read(size - known)
            read[path] = size
            if any(int(moment) > ended_ns + _LATER_NS for moment in _ENDS.findall(told)):
                return
        time.sleep(0.05)
