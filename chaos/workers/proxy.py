"""Carry TCP connections on, later, slower, or not at all.

It listens for an explicit upstream, or for connections that the kernel redirected here, whose first destination it
asks the kernel for. Each direction is one queue: what comes first leaves first, the end of the stream included.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiobs.chaos.workers.life import Worker

MARK = 0xA10B
"""On what the proxy itself sends, so that it is not redirected to it again."""
DISTRIBUTIONS = ("uniform", "normal", "pareto")
_TAIL = 3.0
"""Shape of the heavy tail: one in 27 is later than twice the jitter."""
_ORIGINAL_DST = 80
_LIMIT = 1 << 20
_CHUNK = 1 << 16


@dataclass
class Tally:
    """What has been done so far."""

    worker: Worker
    connections: int = 0
    hit: int = 0
    size: int = 0
    said: tuple[int, int] = field(default=(0, -1))

    def say(self) -> None:
        """Say it, where it has changed much."""
        now = self.hit, self.size.bit_length()
        if now != self.said:
            self.said = now
            text = f"{self.hit} of {self.connections} connections, {self.size} bytes" if self.hit else ""
            self.worker.say(text, connections=self.connections, hit=self.hit, bytes=self.size)


class Toxic:
    """What happens to one connection. All of it is 0 or false for one that is left alone."""

    def __init__(self, told: dict[str, Any], random: Random) -> None:
        self.hit = random.random() < told["share"]
        self._delay_s = told["delay_s"] if self.hit else 0.0
        self._jitter_s = told["jitter_s"] if self.hit else 0.0
        self._distribution: str = told["distribution"]
        self.close_s: float = told["close_s"] if self.hit else 0.0
        self._rate = told["rate_bytes"] if self.hit else 0.0
        self.blackhole = bool(told["blackhole"]) and self.hit
        self.reset_after: int = told["reset_after_bytes"] if self.hit else -1
        self._random = random

    def later_s(self) -> float:
        """Seconds that a piece is held back."""
        if not self._jitter_s:
            return self._delay_s
        if self._distribution == "normal":
            times = self._random.gauss(0, 1)
        elif self._distribution == "pareto":
            times = self._random.paretovariate(_TAIL) - 1
        else:
            times = self._random.uniform(-1, 1)
        return max(0.0, self._delay_s + times * self._jitter_s)

    def transfer_s(self, size: int) -> float:
        """Seconds that a piece occupies the line."""
        return size / self._rate if self._rate else 0.0


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxic: Toxic, tally: Tally, *, back: bool = False
) -> None:
    """Carry one direction; on the way `back` only the end of the connection is held."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(64)

    async def take() -> None:
        due = 0.0
        content: bytes | None
        while True:
            try:
                content = await reader.read(_CHUNK)
            except OSError:
                content = None  # a reset
            if not back:
                due = max(due, loop.time() + toxic.later_s())
            if not content:
                due = max(due, loop.time() + toxic.close_s)
            await queue.put((due, content))
            if not content:
                return

    taking = asyncio.ensure_future(take())
    passed, free = 0, 0.0
    try:
        while True:
            due, content = await queue.get()
            if not back:
                due = max(due, free) + toxic.transfer_s(len(content or b""))
                free = due
            if due:
                await asyncio.sleep(max(0.0, due - loop.time()))
            if not back:
                passed += len(content or b"")
                if toxic.blackhole:
                    continue
                if 0 <= toxic.reset_after <= passed:
                    raise ConnectionResetError
            if content is None:
                raise ConnectionResetError
            if not content:
                writer.write_eof()
                return
            writer.write(content)
            await writer.drain()
            tally.size += len(content)
            tally.say()
    except OSError:
        if toxic.close_s and not taking.done():  # the writer's side is gone, and the reader's must not hear of it yet
            await asyncio.sleep(toxic.close_s)
        raise
    finally:
        taking.cancel()


def _destination(writer: asyncio.StreamWriter) -> tuple[str, int]:
    connection: socket.socket = writer.get_extra_info("socket")
    port, address = struct.unpack_from("!2xH4s", connection.getsockopt(socket.SOL_IP, _ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port


def _break(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _upstream(told: dict[str, Any], writer: asyncio.StreamWriter) -> socket.socket:
    host, port = (told["host"], told["port"]) if told["host"] else _destination(writer)
    connection = socket.socket(socket.AF_INET if "." in host else socket.AF_INET6, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        if not told["host"]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _serve(worker: Worker) -> None:
    told, tally = worker.arguments, Tally(worker)
    random = Random(told["seed"])  # noqa: S311 - to be repeatable

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tally.connections += 1
        toxic = Toxic(told, random)
        tally.hit += toxic.hit
        tally.say()
        try:
            if toxic.reset_after == 0:
                raise ConnectionResetError
            connection = await _upstream(told, writer)
            far_reader, far_writer = await asyncio.open_connection(sock=connection, limit=_LIMIT)
            directions = _pump(reader, far_writer, toxic, tally), _pump(far_reader, writer, toxic, tally, back=True)
            try:
                await asyncio.gather(*directions)
            finally:
                far_writer.close()
        except OSError:
            _break(writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, told["listen_host"], told["listen_port"], limit=_LIMIT, backlog=1024)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    worker.say()
    async with server:
        await over.wait()


def main() -> None:
    """Carry connections until asked to end."""
    worker = Worker()
    try:
        asyncio.run(_serve(worker))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
