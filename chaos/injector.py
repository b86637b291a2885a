"""The injector: a process of its own that holds faults for an experiment, and undoes them in every case.

It ends what it holds when the experiment asks, dies, or does not renew its lease; when the duration is over; on
SIGTERM (``aiobs chaos stop``) and when the stop file appears. Should it die or hang itself, its watchdog does.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

from aiobs.clock import wall_offset_ns
from aiobs.errors import AiobsError, ArmError, FaultError, PlanError
from aiobs.guard import say_once
from aiobs.settings import Settings, load_settings

from .audit import append
from .held import Held
from .identity import ProcessIdentity
from .journal import Journal
from .place import Owner, Place, chaos_path, lock, open_place, write_owner
from .plan import build_plan
from .record import FaultRecord
from .safety import require_harmless, require_permission
from .watchdog import ACTING, GOODBYE, HEARTBEAT_S, start_watchdog
from .wire import Wire

EFFECT_TICK_S = 0.005
"""How often a fault that is not yet effective is looked at."""


class Injector:
    """See the module's text."""

    def __init__(self, wire: Wire, settings: Settings, place: Place, session: str, lease_s: float, armed: bool) -> None:
        self._wire, self._settings, self._place, self._armed = wire, settings, place, armed
        self._session = place.session(session)
        self._lease_s = lease_s
        self._wall = wall_offset_ns()
        self._lease_ends = time.monotonic() + lease_s
        self._locks = {place.lock_host(session)}
        self._session.mkdir(mode=0o700)
        own = lock(self._session / "lock")
        assert own is not None
        self._locks.add(own)
        self._journal = Journal(self._session)
        self._held: dict[str, tuple[Held, FaultRecord]] = {}
        self._residue: list[str] = []
        self._stopping = ""
        self._heartbeat = -1
        self._guard()

    def _guard(self) -> None:
        if self._heartbeat >= 0:
            os.close(self._heartbeat)
        self._watchdog, self._heartbeat = start_watchdog(
            self._place, self._session, max(1.0, self._lease_s), self._locks
        )

    def run(self) -> None:
        """Serve the experiment until it ends or everything has to be undone."""
        signal.signal(signal.SIGTERM, self._stop)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._wire.say({"is": "ready", "session": self._session.name, "injector": os.getpid()})
        while not self._stopping:
            self._turn()
        self._end(self._stopping)

    def _stop(self, *_: object) -> None:
        self._stopping = "stopped by aiobs chaos stop"

    def _turn(self) -> None:
        timeout = HEARTBEAT_S
        for held, _ in self._held.values():
            tick = timeout if held.effective_ns else EFFECT_TICK_S
            timeout = min(timeout, tick, max(0.0, held.ends - time.monotonic()))
        ready, _, _ = select.select([self._wire], [], [], timeout)
        began = time.monotonic()
        self._beat(ACTING)
        if ready:
            messages = self._wire.hear()
            if messages is None:
                self._stopping = "the experiment is gone"
                return
            for message in messages:
                self._obey(message)
        now = time.monotonic()
        for key, (held, record) in list(self._held.items()):
            if held.look():
                record.effective(held)
                self._wire.say({
                    "is": "effective", "injection": key, "at": held.effective_ns + self._wall, "evidence": held.evidence,
                })  # fmt: skip
            elif now >= held.ends:
                self._undo(key, "its time is over" if held.effective_ns else "no effect was seen")
        self._lease_ends += time.monotonic() - began  # it may have been renewed while nobody listened
        self._beat()
        if time.monotonic() >= self._lease_ends:
            self._stopping = f"the experiment did not renew its lease for {self._lease_s:g} s"
        elif self._place.stop_file.exists():
            self._stopping = f"{self._place.stop_file} appeared"

    def _beat(self, what: bytes = b".") -> None:
        try:
            os.write(self._heartbeat, what)
        except BlockingIOError:
            return  # it has enough to read
        except OSError:
            # Reap it, and never be without one while something is held.
            try:
                os.waitpid(self._watchdog, os.WNOHANG)
                self._guard()
            except OSError as error:
                self._stopping = f"the watchdog is gone and cannot be replaced: {error}"

    def _obey(self, message: dict[str, Any]) -> None:
        what = message.get("do")
        self._lease_ends = time.monotonic() + self._lease_s
        if what == "inject":
            self._inject(message["plan"])
        elif what == "undo":
            self._undo(message["injection"], message.get("because") or "the experiment asked for it")
        elif what == "end":
            self._stopping = "the experiment ended"

    def _inject(self, data: dict[str, Any]) -> None:
        key = str(data.get("id", ""))
        try:
            require_permission(self._settings, self._place, armed=self._armed)
            plan = build_plan(data)
            units = plan.units()
            require_harmless(plan, units, self._settings)
            if missing := plan.missing(units):
                raise PlanError("fault", plan.fault.kind, "cannot be injected here: " + "; ".join(missing))
            held = Held.prepare(plan, units, self._session)
            self._audit("inject", plan=plan.to_data(), units=[unit.label for unit in units])
            record = FaultRecord(plan, units)
            try:
                held.inject(self._journal)
            except BaseException as error:
                record.failed(error)
                raise
        except AiobsError as error:
            self._refuse(key, error)
            return
        except OSError as error:
            self._refuse(key, FaultError("inject", str(error)))
            return
        self._held[key] = held, record
        record.injected(held)
        self._wire.say({
            "is": "injected", "injection": key, "at": held.injected_ns + self._wall, "span": record.ids,
        })  # fmt: skip

    def _refuse(self, key: str, error: AiobsError) -> None:
        said: dict[str, Any] = {"is": "refused", "injection": key, "error": type(error).__name__, "message": str(error)}
        if isinstance(error, PlanError):
            said |= {"field": error.field, "value": error.value, "remedy": error.remedy}
        if isinstance(error, FaultError):
            said |= {"stage": error.stage, "residue": list(error.residue)}
            self._residue += error.residue
        self._audit("refused", injection=key, message=str(error))
        self._wire.say(said)

    def _undo(self, key: str, because: str) -> None:
        if key not in self._held:
            return
        held, record = self._held.pop(key)
        silent = [] if held.effective_ns else held.silent()
        residue = held.undo(self._journal)
        self._residue += residue
        record.undone(held, because)
        self._audit("undone", injection=key, because=because, residue=residue, by="injector")
        self._wire.say({
            "is": "undone", "injection": key, "at": held.undone_ns + self._wall, "because": because, "residue": residue,
            "silent": silent,
        })  # fmt: skip

    def _audit(self, what: str, **values: Any) -> None:
        try:
            append(self._place.audit_file, {"what": what, "session": self._session.name, **values})
        except OSError as error:
            if what == "inject":
                raise FaultError("inject", f"the audit trail cannot be written: {error}") from error
            say_once("chaos.audit", "aiobs: the audit trail cannot be written: %s", error)

    def _end(self, because: str) -> None:
        for key in reversed(list(self._held)):
            self._beat(ACTING)
            self._undo(key, because)
        self._wire.say({"is": "ended", "because": because, "residue": self._residue})
        os.write(self._heartbeat, GOODBYE)
        os.waitpid(self._watchdog, 0)
        self._journal.close()
        if not self._residue:
            shutil.rmtree(self._session, ignore_errors=True)


def main() -> int:
    """``python -m aiobs.chaos.injector <descriptor> <JSON options>``, as :mod:`aiobs.chaos.lease` starts it."""
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    options = json.loads(sys.argv[2])
    settings = load_settings(options["settings"])
    place = Place(chaos_path(settings))
    try:
        place = open_place(settings)
        require_permission(settings, place, armed=options["armed"])
        injector = Injector(wire, settings, place, options["session"], options["lease_s"], options["armed"])
        own = ProcessIdentity.of(os.getpid())
        owner = Owner(options["who"], os.getppid(), own.pid, own.start, time.time())
        write_owner(place.session(options["session"]), owner)
    except (ArmError, FaultError, OSError) as error:
        said = error if isinstance(error, ArmError) else (
            f"{error}: make room where chaos keeps its journal, or name another folder (AIOBS_CHAOS_DIR)"
        )  # fmt: skip
        wire.say({"is": "refused", "error": "ArmError", "message": str(said)})
        if not isinstance(error, ArmError):
            shutil.rmtree(place.session(options["session"]), ignore_errors=True)
        return 1
    injector.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
