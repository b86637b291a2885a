"""Sends what waits in a lane, oldest first, for as long as it takes; one thread for each remote exporter."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from aiobs.agent.spool import Entry, Lane
from aiobs.errors import ExportError
from aiobs.guard import say_once, swallow
from aiobs.ports import Body, RemoteExporter

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
LONGEST_WISH_S = 600.0
"""A receiver's Retry-After is honoured up to this."""
FAULTS_PER_BODY = 3

REFUSED, PARTLY, FAULT = "refused", "partly_refused", "exporter_fault"
"""Why items were dropped: refused for good; refused in a partial success; our own exporter failed on them."""


class Delivery:
    """The sending side of a lane.

    Attributes:
        exported: items taken by the receiver, by signal.
        dropped: items given up, by reason.
        in_flight: items of the request under way.
        last_error: why the last try failed, "" after a success.
        busy_s: seconds spent in requests.
    """

    def __init__(
        self, name: str, exporter: RemoteExporter, lane: Lane, *, wake: Callable[[], None] = lambda: None
    ) -> None:
        """Start sending.

        Args:
            name: of the exporter, for messages.
            exporter: closed when the sending has stopped.
            lane: what to send.
            wake: called after each body, taken or dropped.
        """
        self.exported: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.in_flight = 0
        self.last_error = ""
        self.busy_s = 0.0
        self._name, self._exporter, self._lane, self._wake = name, exporter, lane, wake
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        # Jitter from a private source: in thread mode the global stream belongs to the user.
        self._random = random.Random()  # noqa: S311 - spreads retries
        self._thread = threading.Thread(target=self._run, name=f"aiobs-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            self._exporter.close()

    def _deliver(self) -> None:
        pause_s = FIRST_PAUSE_S
        faults = 0
        while not self._stopping.is_set():
            found = self._lane.next(1.0)
            if found is None:
                continue
            entry, body = found
            wish_s: float | None = None
            try:
                self._send(entry, body)
            except ExportError as error:
                self._failed(error)
                if error.permanent:
                    self._drop(entry, REFUSED)
                    continue
                wish_s = error.retry_after_s
            except Exception as error:
                self.last_error = f"{type(error).__name__}: {error}"
                faults += 1
                if faults >= FAULTS_PER_BODY:
                    self._drop(entry, FAULT)
                    faults = 0
                swallow(f"agent.delivery.{self._name}", error)
            else:
                pause_s, faults = FIRST_PAUSE_S, 0
                continue
            wait_s = pause_s * self._random.uniform(0.5, 1.0)
            if wish_s is not None:
                wait_s = max(wait_s, min(wish_s, LONGEST_WISH_S))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            self._hurry.wait(wait_s)
            self._hurry.clear()

    def _send(self, entry: Entry, body: Body) -> None:
        self.in_flight = body.items
        began = time.monotonic()
        try:
            receipt = self._exporter.send(body)
        finally:
            self.in_flight = 0
            self.busy_s += time.monotonic() - began
        # Counted before the file goes: whoever sees the spool empty finds it all in the figures.
        self.exported[body.signal] += body.items - receipt.rejected
        self.last_error = receipt.message
        if receipt.rejected:
            self.dropped[PARTLY] += receipt.rejected
        self._lane.remove(entry)
        if receipt.message:
            say_once(f"delivery:{self._name}:partly", "aiobs: %s: the receiver refused %d items: %s", self._name, receipt.rejected, receipt.message)  # fmt: skip
        self._wake()

    def _failed(self, error: ExportError) -> None:
        self.last_error = str(error)
        if error.permanent:
            say_once(f"delivery:{self._name}:refused", "aiobs: %s: dropped, %s", self._name, error)
        else:
            say_once(f"delivery:{self._name}", "aiobs: %s: %s; kept in the spool and tried again", self._name, error)

    def _drop(self, entry: Entry, reason: str) -> None:
        self.dropped[reason] += entry.items
        self._lane.remove(entry)
        self._wake()

    def hurry(self) -> None:
        """Try again now instead of after the pause."""
        self._hurry.set()

    def stop(self, timeout_s: float) -> None:
        """Stop after the request under way, waiting for it up to `timeout_s`; what is left stays in the spool."""
        self._stopping.set()
        self._hurry.set()
        self._lane.wake()
        self._thread.join(timeout_s)
