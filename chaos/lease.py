"""What an experiment holds: an injector of its own, kept alive by renewing the lease; faults end with it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from aiobs.errors import AiobsError, ArmError, FaultError, PlanError
from aiobs.settings import Settings, load_settings

from .place import open_place
from .plan import Plan, build_plan
from .recovery import recover
from .safety import require_permission
from .target import Target
from .undoing import PROOF_S
from .wire import Wire

START_S = 15.0
INJECTOR = "aiobs.chaos.injector"
ABORTED = "aborted: "
"""Begin of the reason of an undo that a watch asked for."""


class Watching(Protocol):
    """What looks on while a fault is held, such as :class:`~aiobs.chaos.containment.watch.Watch`."""

    def begin(self, plan: Plan, stop: Callable[[str], None]) -> None:
        """Before the injection: watch, and call `stop` with a reason to undo it. Raises AiobsError to refuse it."""
        ...

    def ended(self, injection: Injection) -> None:
        """It is undone, or came to nothing."""
        ...


@dataclass
class Injection:
    """A fault that is or was held; times are Unix ns, 0 as long as it has not happened.

    Attributes:
        evidence: what proved that it acts, one line an operation.
        because: why it was undone.
        residue: what undoing left; empty: everything is as it was.
        trace_id, span_id: of its span, hex.
    """

    plan: Plan
    injected_ns: int = 0
    effective_ns: int = 0
    undone_ns: int = 0
    evidence: list[str] = field(default_factory=list)
    because: str = ""
    residue: list[str] = field(default_factory=list)
    error: AiobsError | None = None
    trace_id: str = ""
    span_id: str = ""
    _lease: Lease | None = field(default=None, repr=False)

    @property
    def active(self) -> bool:
        """Whether it is in force."""
        return bool(self.effective_ns) and not self.undone_ns

    @property
    def aborted(self) -> str:
        """Why a watch stopped it before its time; "" where none did."""
        return self.because.removeprefix(ABORTED) if self.because.startswith(ABORTED) else ""

    def undo(self) -> Injection:
        """Undo it now and wait until that is proved.

        Raises:
            FaultError: something is left; its attribute `residue` says what.
        """
        assert self._lease is not None
        self._lease.undo(self)
        return self

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has been undone, by whatever; false where `timeout_s` passed first."""
        assert self._lease is not None
        return self._lease.wait(lambda: bool(self.undone_ns), timeout_s)

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lease is not None
        try:
            self.undo()
        finally:
            self._lease.release(self)


class Lease:
    """An injector and what it holds. A context manager; leaving it undoes everything.

    Args:
        armed: allow injection though AIOBS_CHAOS does not say so.
        lease_s: if this process is silent for so long (stopped, hung), everything is undone.
        settings: by default those of the environment.
        who: for the audit trail.
        watch: looks on while a fault is held, and may refuse it or stop it.

    Attributes:
        injections: everything injected through it, by id, in order.

    Raises:
        ArmError: not allowed here, or another experiment holds the host.
    """

    def __init__(
        self, *, armed: bool = False, lease_s: float = 5.0, settings: Mapping[str, Any] | None = None, who: str = "",
        watch: Watching | None = None,
    ) -> None:  # fmt: skip
        self._watch = watch
        chosen: Settings = load_settings(settings)
        self._place = open_place(chosen)
        require_permission(chosen, self._place, armed=armed)
        recover(chosen)
        self.session = f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}"
        ours, theirs = socket.socketpair()
        options = {
            "settings": dict(settings or {}), "session": self.session, "lease_s": lease_s, "armed": armed,
            "who": who or sys.argv[0] or "python",
        }  # fmt: skip
        log_path = self._place.path / "injector.log"
        with theirs, open(log_path, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", INJECTOR, str(theirs.fileno()), json.dumps(options)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._wire = Wire(ours)
        self._changed = threading.Condition()
        self.injections: dict[str, Injection] = {}
        self._own: set[str] = set()
        self._stopped: dict[str, str] = {}
        self._ready = False
        self._refused: AiobsError | None = None
        self._over = ""
        self._thread = threading.Thread(target=self._serve, args=(lease_s / 4,), name="aiobs-chaos-lease", daemon=True)
        self._thread.start()
        if not self.wait(lambda: self._ready or self._refused is not None, START_S) or self._refused is not None:
            self.close()
            raise self._refused or ArmError(f"the injector did not start; see {log_path}")

    # -- the experiment's side -----------------------------------------------------------------------------
    def inject(self, plan: Plan) -> Injection:
        """Inject and wait until the fault is seen to act.

        Raises:
            PlanError: it cannot be done as planned; nothing was touched.
            ArmError: it must not be done.
            FaultError: it failed, or had no effect within ``plan.effect_s``; it has been undone. Or it was stopped
                before that by the watch.
        """
        injection = Injection(plan, _lease=self)
        if self._watch is not None:
            self._watch.begin(plan, lambda why: self._stop(plan.id, why))
        with self._changed:
            self.injections[plan.id] = injection
        it = injection
        patience = plan.effect_s + PROOF_S + START_S
        try:
            self._say({"do": "inject", "plan": plan.to_data()})
            if plan.id in self._stopped:  # the injector did not know it yet when it was told to stop
                self._stop(plan.id, self._stopped[plan.id])
            answered = self.wait(lambda: bool(it.effective_ns or it.undone_ns or it.error), patience)
        except BaseException:
            # Whoever is interrupted here (a signal's handler raised) never learns of the injection.
            self._wire.say({"do": "undo", "injection": plan.id})
            raise
        if it.error is not None:
            raise it.error
        if not answered:
            raise FaultError("inject", f"the injector does not answer; see {self._place.path / 'injector.log'}")
        if not it.effective_ns:
            raise FaultError("effect", f"{plan.fault.kind} was not seen to act: {it.because}", tuple(it.residue))
        return injection

    def undo(self, injection: Injection) -> None:
        """Undo one injection and wait until that is proved. Raises FaultError where something is left."""
        if not injection.undone_ns:
            self._say({"do": "undo", "injection": injection.plan.id})
            if not injection.wait(PROOF_S + START_S):
                raise FaultError("undo", "the injector does not answer; run  aiobs chaos recover")
        if injection.residue:
            raise FaultError("undo", "left behind: " + "; ".join(injection.residue), tuple(injection.residue))

    def wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait for `condition` to become true, as messages of the injector arrive."""
        with self._changed:
            return self._changed.wait_for(lambda: condition() or bool(self._over), timeout_s) and condition()

    def _stop(self, injection: str, why: str) -> None:
        self._stopped[injection] = why
        self._wire.say({"do": "undo", "injection": injection, "because": f"{ABORTED}{why}"})

    def let_go(self) -> None:
        """Have everything undone, without waiting: for a signal's handler."""
        for it in self.injections.values():
            if not it.undone_ns:
                self._wire.say({"do": "undo", "injection": it.plan.id})

    def own(self, injection: Injection) -> Injection:
        """Close this lease when `injection` is left."""
        self._own.add(injection.plan.id)
        return injection

    def release(self, injection: Injection) -> None:
        """An injection has been left."""
        if injection.plan.id in self._own:
            self.close()

    def close(self) -> None:
        """Undo everything and end the injector; again: nothing. Raises FaultError where something is left."""
        if self._process.returncode is None:
            self._wire.say({"do": "end"})
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._thread.join(START_S)
        self._wire.close()
        residue = [line for it in self.injections.values() for line in it.residue]
        if residue:
            raise FaultError("undo", "left behind: " + "; ".join(residue), tuple(residue))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the injector's side -------------------------------------------------------------------------------
    def _say(self, message: Mapping[str, Any]) -> None:
        if self._over or not self._wire.say(message):
            raise FaultError("inject", f"the injector is gone ({self._over or 'it does not listen'})")

    def _serve(self, every_s: float) -> None:
        parent = os.getpid()
        while os.getpid() == parent:  # a forked child does not renew what its parent holds
            ready, _, _ = select.select([self._wire], [], [], every_s)
            messages = self._wire.hear() if ready else []
            with self._changed:
                for message in messages or ():
                    self._take(message)
                if messages is None:
                    self._over = self._over or "its process is gone; its watchdog has undone what it held"
                self._changed.notify_all()
            if messages is None:
                return
            if not ready:
                self._wire.say({"do": "renew"})

    def _take(self, message: dict[str, Any]) -> None:
        what, injection = message["is"], self.injections.get(message.get("injection", ""))
        if what == "ready":
            self._ready = True
        elif what == "ended":
            self._over = message["because"]
        elif what == "refused":
            error = _error(message)
            if injection is None:
                self._refused = error
            else:
                injection.error = error
                injection.residue = list(message.get("residue", ()))
                self._ended(injection)
        elif injection is None:
            return
        elif what == "injected":
            injection.injected_ns = message["at"]
            injection.trace_id, injection.span_id = message["span"]
        elif what == "effective":
            injection.effective_ns, injection.evidence = message["at"], message["evidence"]
        elif what == "undone":
            injection.undone_ns, injection.because = message["at"], message["because"]
            injection.residue = message["residue"]
            if message["silent"]:
                injection.because += ": " + "; ".join(message["silent"])
            self._ended(injection)

    def _ended(self, injection: Injection) -> None:
        if self._watch is not None:
            self._watch.ended(injection)


def _error(message: Mapping[str, Any]) -> AiobsError:
    if message["error"] == "PlanError":
        return PlanError(message["field"], message["value"], message["remedy"])
    if message["error"] == "FaultError":
        return FaultError(message["stage"], message["message"], tuple(message["residue"]))
    return ArmError(message["message"])


def inject(
    fault: str,
    target: str | Target,
    *,
    armed: bool = False,
    lease: Lease | None = None,
    **values: Any,
) -> Injection:
    """Inject a fault and wait until it is seen to act; use it in ``with``, which undoes it.

    Args:
        fault: its kind, such as ``network.latency``.
        target: to whom, such as ``pid:4711``.
        armed: allow injection though AIOBS_CHAOS does not say so.
        lease: an injector that is held already; by default one of its own, ended with the injection.
        values: fields of :class:`Plan` (``duration_s``, ``seed``, ``why``, …) and parameters of the fault.

    Raises:
        PlanError, ArmError, FaultError: see :meth:`Lease.inject`.
    """
    known = {it.name for it in fields(Plan)}
    plan = build_plan({
        "fault": fault,
        "target": str(target),
        "parameters": {name: value for name, value in values.items() if name not in known},
        **{name: value if name != "within" else str(value) for name, value in values.items() if name in known},
    })  # fmt: skip
    if lease is not None:
        return lease.inject(plan)
    own = Lease(armed=armed)
    try:
        return own.own(own.inject(plan))
    except BaseException:
        own.close()
        raise
