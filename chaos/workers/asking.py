"""Send HTTP requests to one service: at random times at a rate, or the same one every so often."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

from aiobs.chaos.workers.life import Worker

_TICK_S = 0.05
_CUT, _LATE, _UNREACHED = "cut", "late", "not reached"
_UNREAD = ("401", "403", "404", "405", "429")
"""Statuses that say that nobody looked at the request: no poison could act."""


class Asker:
    """Sends them and counts what becomes of them.

    Attributes:
        sent: requests that were written out whole. left_out: those for which there was no room.
        outcomes: how many ended with which status, cut by the service, late, or without a connection.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._told = worker, worker.arguments
        self.sent = self.left_out = 0
        self.outcomes: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()
        self._request = _request(self._told)
        self._said = -1.0

    async def run(self) -> None:
        """Until the worker is asked to end."""
        told, random = self._told, Random(self._told["seed"])  # noqa: S311 - to be repeatable
        due, left = time.monotonic(), told["most"]
        while not self._worker.ended:
            now = time.monotonic()
            while left and now >= due:
                left -= 1
                due += 1 / told["rate"] if told["poison"] else random.expovariate(told["rate"])
                if len(self._under_way) >= told["at_once"]:
                    self.left_out += 1
                    continue
                task = asyncio.create_task(self._ask())
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            self._say()
            await asyncio.sleep(min(_TICK_S, max(0.001, due - time.monotonic())) if left else _TICK_S)
        for task in self._under_way:
            task.cancel()

    async def _ask(self) -> None:
        told = self._told
        try:
            outcome = await asyncio.wait_for(self._answer(), told["answer_s"])
        except asyncio.TimeoutError:
            outcome = _LATE
        self.outcomes[outcome] += 1

    async def _answer(self) -> str:
        try:
            reader, writer = await asyncio.open_connection(self._told["host"], self._told["port"])
        except OSError:
            return _UNREACHED
        try:
            writer.write(self._request)
            await writer.drain()
            self.sent += 1
            words = (await reader.readline()).split(None, 2)
            while await reader.read(1 << 16):
                continue
        except (OSError, ValueError):
            return _CUT
        finally:
            writer.close()
        return words[1].decode("ascii", "replace") if len(words) > 1 else _CUT

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said < _TICK_S:
            return
        self._said = now
        counts = ", ".join(f"{count} x {name}" for name, count in sorted(self.outcomes.items()))
        text = f"{self.sent} requests sent: {counts or 'no answer yet'}, {len(self._under_way)} under way"
        text += f", {self.left_out} left out" if self.left_out else ""
        self._worker.say(text if self._acts() else "", sent=self.sent, outcomes=dict(self.outcomes))

    def _acts(self) -> bool:
        if self._told["poison"]:
            return any(name == _CUT or (name[:1] in "45" and name not in _UNREAD) for name in self.outcomes)
        answered = sum(count for name, count in self.outcomes.items() if name != _UNREACHED)
        return bool(answered) or (self.sent > 0 and len(self._under_way) >= self._told["at_once"])


def _request(told: dict[str, Any]) -> bytes:
    host = f"[{told['host']}]" if ":" in told["host"] else told["host"]
    body: bytes = told["body"].encode()
    lines = [
        f"{'POST' if body else 'GET'} {told['path']} HTTP/1.1",
        f"host: {host}:{told['port']}",
        "connection: close",
    ]
    lines += [f"{name}: {value}" for name, value in told["headers"].items()]
    lines += ["content-type: application/json", f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def main() -> None:
    """Ask until asked to end."""
    worker = Worker()
    worker.say()
    asyncio.run(Asker(worker).run())


if __name__ == "__main__":
    main()
