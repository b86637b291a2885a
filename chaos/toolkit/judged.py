"""What one Chaos Toolkit run is judged by: its spec, the telemetry that comes in, and the watch over the bystanders."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobs.errors import AiobsError, PlanError

if TYPE_CHECKING:
    from aiobs.chaos.containment.model import Verdict
    from aiobs.chaos.containment.watch import Watch

_log = logging.getLogger("chaostoolkit")
_LATE_S = 5.0
"""How much longer than the recovery telemetry may take to arrive."""


class Judged:
    """Opened by the control when it is given a spec, closed when it has judged.

    Raises:
        PlanError: the spec cannot be used, does not fit what the folder holds, or there is no telemetry.
        RecordError: the folder cannot be followed.
        NotEnabledError: an extra is missing.
    """

    def __init__(self, spec: str, folder: str, listen: Sequence[str]) -> None:
        from aiobs.chaos.containment.sources.opened import live_telemetry
        from aiobs.chaos.containment.spec import read_spec
        from aiobs.chaos.containment.watch import Watch

        self.spec_path = spec
        self.spec = read_spec(spec)
        if not listen and folder:
            self._fits(Path(folder))
        self._stack = ExitStack()
        try:
            live, self.endpoints = live_telemetry(self._stack, listen, folder)
            self.watch: Watch = self._stack.enter_context(Watch(self.spec, live, on_stop=_interrupt))
        except BaseException:
            self._stack.close()
            raise
        self.folder = Path(live.folder)
        for endpoint in self.endpoints:
            _log.info("aiobs: OTLP is received at %s, into %s", endpoint, self.folder)

    def _fits(self, folder: Path) -> None:
        """Refuse boundaries that the telemetry so far does not know: nobody wants to hear it after the experiment."""
        from aiobs.chaos.containment.boundaries import check
        from aiobs.chaos.containment.run_folder import RunFolder

        if not any(path.stat().st_size for path in folder.glob("traces*.jsonl")):
            return
        source = RunFolder(folder, self.spec)
        try:
            check(source.spec, source.seen(), source.carriers(), source.spec.permitted)
        finally:
            source.close()

    def settle(self, last_undone_ns: int, length_s: float) -> None:
        """Wait until the recovery after the last fault can be seen, as long as that may take."""
        recovery_s = self.spec.recovery_s or length_s
        deadline = last_undone_ns / 1e9 + recovery_s + _LATE_S
        while time.time() < deadline and self.watch.heard_ns < last_undone_ns + recovery_s * 1e9 and not self.watch.why:
            time.sleep(0.05)

    def verdicts(self) -> list[Verdict]:
        """A verdict for each fault so far. Raises AiobsError where the telemetry cannot be judged."""
        from aiobs.chaos.containment.judging import judge_faults
        from aiobs.chaos.containment.run_folder import RunFolder

        source = RunFolder(self.folder, self.spec)
        try:
            faults = source.faults()
            if not faults:
                raise PlanError("faults", str(self.folder), "no fault is on the record: nothing was injected")
            return judge_faults(source, faults)
        finally:
            source.close()

    def told(self) -> dict[str, Any]:
        """The verdicts as the journal has them."""
        from aiobs.chaos.containment.exit_codes import gravest
        from aiobs.chaos.containment.written import as_json

        found: dict[str, Any] = {"spec": self.spec_path, "folder": str(self.folder), "aborted": self.watch.why}
        try:
            verdicts = self.verdicts()
        except AiobsError as error:
            return {**found, "verdict": "", "sentence": f"It could not be judged: {error}", "verdicts": []}
        worst = gravest(verdicts)
        _log.log(
            logging.INFO if worst.kind == "contained" else logging.ERROR, "aiobs: %s: %s", worst.kind, worst.sentence
        )
        return {
            **found,
            "verdict": worst.kind,
            "sentence": worst.sentence,
            "verdicts": [as_json(it) for it in verdicts],
        }

    def close(self) -> None:
        """Stop watching and receiving; again: nothing."""
        self._stack.close()


def _interrupt(why: str) -> None:
    """Have Chaos Toolkit end the run: its own way is a signal, which it listens to only while one is running."""
    _log.error("aiobs: the experiment is stopped: %s", why)
    if callable(signal.getsignal(signal.SIGUSR1)):
        from chaoslib.exit import exit_gracefully

        exit_gracefully()
