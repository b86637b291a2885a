"""Watching the bystanders of a fault while it is held: it is undone at once when one of them suffers or falls silent.

::

    with Receiver("127.0.0.1:4318", folder) as live, Watch(read_spec("spec.yaml"), live) as watch:
        with Lease(watch=watch) as lease:
            lease.inject(plan).wait()
    print(watch.why or "nobody else noticed")
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiobs.chaos.containment.bystanders import Bystanders, outside
from aiobs.chaos.containment.limits import Ordinary, watchers
from aiobs.chaos.containment.model import Spec
from aiobs.chaos.containment.sequential import SILENCE_S, Abort
from aiobs.chaos.containment.sources.fault_line import fault_line
from aiobs.chaos.containment.sources.observed import Observed
from aiobs.errors import AiobsError, ArmError, PlanError

if TYPE_CHECKING:
    from aiobs.chaos.lease import Injection
    from aiobs.chaos.plan import Plan

READY = 20
"""Requests of a bystander, before the fault, by which it counts as heard."""
_REMEMBERED = 50_000
"""Spans remembered, so that one sent twice counts once."""
_TURN_S = 0.1


class Live(Protocol):
    """Telemetry while it arrives, as a :class:`Watch` takes it.

    Attributes:
        folder: the run folder it ends up in.
    """

    folder: Path

    def spans(self, timeout_s: float) -> list[Observed]:
        """What has arrived since the last call, at the latest after `timeout_s`.

        Raises:
            AiobsError, OSError: nothing can be heard any more.
        """
        ...

    def keep(self, line: bytes) -> None:
        """Add a line of OTLP JSON to the folder."""
        ...


class Watch:
    """A context manager; hand it to a :class:`~aiobs.chaos.lease.Lease`.

    Each required ratio or threshold of each stratum outside is watched by an
    :class:`~aiobs.chaos.containment.sequential.Abort`, from the injection on. A fault is refused while a bystander
    has not been heard of, or is ill already.

    Args:
        live: what arrives; the watch does not close it.
        silence_s: a bystander that says nothing for so long stops the experiment; longer by itself for one that
            reported more rarely before the fault.
        ready_s: how long to wait for the bystanders before a fault is refused.
        on_stop: called with the reason, once, after the faults have been told to end.

    Attributes:
        why: why the experiment was stopped; "": it was not.
        heard_ns: end of the latest span that has come in, Unix time.
    """

    def __init__(
        self,
        spec: Spec,
        live: Live,
        *,
        silence_s: float = SILENCE_S,
        ready_s: float = 30.0,
        on_stop: Callable[[str], None] | None = None,
    ) -> None:
        if not silence_s > 0:
            raise PlanError("silence_s", silence_s, "a length above 0: without telemetry nobody watches")
        self.why = ""
        self.heard_ns = 0
        self.spec, self.live = spec, live
        self._on_stop = on_stop
        self._bystanders = Bystanders(spec)
        self._silence_s, self._ready_s = silence_s, ready_s
        self._ordinary: dict[tuple[str, str], Ordinary] = {}
        self._aborts: dict[tuple[str, str], Abort] = {}
        self._stops: dict[str, Callable[[str], None]] = {}
        self._permitted: tuple[str, ...] = ()
        self._since_ns = 0
        self._known: OrderedDict[str, None] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="aiobs-chaos-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the watching; again: nothing."""
        self._closing = True
        self._thread.join()

    # -- the lease's side ----------------------------------------------------------------------------------
    def begin(self, plan: Plan, stop: Callable[[str], None]) -> None:
        """Wait until every bystander has been heard, then watch them: `stop` is called with the reason to stop.

        Raises:
            PlanError: nothing says which boundaries the fault may hurt.
            ArmError: a bystander is silent or ill, or the experiment has been stopped.
        """
        permitted = self.spec.permitted or ((plan.boundary,) if plan.boundary else ())
        if not permitted:
            raise PlanError("permitted", "", "name in the spec the boundaries that the fault may hurt, or give it a boundary")  # fmt: skip
        with self._changed:
            self._changed.wait_for(lambda: self.why or not self._missing(permitted), self._ready_s)
            missing = self._missing(permitted)
            if self.why:
                raise ArmError(f"the watch has stopped this experiment: {self.why}")
            if missing:
                raise ArmError(f"the watch is blind: {missing}; nothing was injected")
            self._permitted = (*self._permitted, *permitted) if self._stops else permitted
            heard = {key: it for key, it in self._ordinary.items() if outside((key[0],), self._permitted)}
            if self._stops:  # two at once: what this one may hurt is no bystander of the other any more
                self._aborts = {key: it for key, it in self._aborts.items() if key in heard}
            else:
                self._aborts = watchers(heard, self._bystanders.slos, self._silence_s, time.monotonic())
                self._since_ns = time.time_ns()
            self._stops[plan.id] = stop

    def ended(self, injection: Injection) -> None:
        """The injection is over, or came to nothing: it is put on the record, and no longer watched."""
        with self._changed:
            self._stops.pop(injection.plan.id, None)
        if injection.injected_ns and injection.undone_ns:
            self.live.keep(fault_line(injection))

    def _missing(self, permitted: Sequence[str]) -> str:
        now_s = time.monotonic()
        heard = {
            stratum
            for (stratum, _), it in self._ordinary.items()
            if len(it.bad(now_s)) >= READY and it.alive(self._silence_s, now_s)
        }
        others = [name for name in self._bystanders.named if name not in permitted and name not in heard]
        if others or not any(outside((name,), permitted) for name in heard):
            wanted = ", ".join(others) or "any boundary outside the permitted ones"
            some = ", ".join(sorted(heard)) or "nobody"
            return f"fewer than {READY} requests were heard of {wanted} (of {some} there were more), waiting {self._ready_s:g} s"
        return ""

    # -- its own thread ------------------------------------------------------------------------------------
    def _run(self) -> None:
        broke = "the watch itself broke, see the traceback"
        try:
            while not self._closing:
                try:
                    spans = self.live.spans(_TURN_S)
                except (AiobsError, OSError) as error:
                    broke = f"telemetry cannot be heard any more: {error}"
                    return
                with self._changed:
                    self._take(spans, time.monotonic())
                    self._changed.notify_all()
            broke = ""
        finally:
            if broke:
                with self._changed:
                    self._fire(broke)
                    self._changed.notify_all()

    def _take(self, spans: Sequence[Observed], now_s: float) -> None:
        for span in spans:
            self.heard_ns = max(self.heard_ns, span.end_ns)
            if span.key in self._known:
                continue
            self._known[span.key] = None
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            answers = self._bystanders.answers(span)
            if not self._stops:
                for it in answers:
                    self._ordinary.setdefault((it.stratum, it.slo), Ordinary()).see(it.bad, now_s)
            elif span.end_ns >= self._since_ns and outside([it.stratum for it in answers], self._permitted):
                for it in answers:
                    self._abort(it.stratum, it.slo).see((it.bad,), now_s)
        if self._stops and not self.why:
            why = next((it.why for it in self._aborts.values() if it.check(now_s)), "")
            if why:
                self._fire(why)

    def _abort(self, stratum: str, slo: str) -> Abort:
        key = (stratum, slo)
        if key not in self._aborts:  # it was not there before the fault
            self._aborts |= watchers({key: Ordinary()}, self._bystanders.slos, 0.0, 0.0)
        return self._aborts[key]

    def _fire(self, why: str) -> None:
        first, self.why = not self.why, self.why or why
        for stop in self._stops.values():
            stop(why)
        if first and self._on_stop is not None:
            self._on_stop(why)
