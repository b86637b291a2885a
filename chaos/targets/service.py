"""A service by the address it listens at: a registry, a scheduler, a rendezvous store, a telemetry endpoint."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiobs.chaos.identity import ProcessIdentity, all_processes
from aiobs.chaos.target import Target, Unit
from aiobs.errors import PlanError

_LISTENS = "0A"


def address_of(field: str, value: str, host: str, port: str) -> tuple[str, int]:
    """IP address and port of a service.

    Raises:
        PlanError: no port, or a host that no name service knows.
    """
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise PlanError(field, value, "write <host>:<port>, the port from 1 to 65535")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PlanError(field, value, f"the host cannot be resolved: {error}") from None
    return str(found[0][4][0]), int(port)


def listeners(address: str, port: int) -> list[ProcessIdentity]:
    """The processes of this network namespace that listen there; only those whose files we may look at."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(address, port)}
    if not wanted:
        return []
    return [it for it in all_processes() if any(link in wanted for link in _open_files(it.pid))]


def _open_files(pid: int) -> Iterator[str]:
    """What a process has open; nothing where we may not look. It opens and closes others meanwhile."""
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                yield os.readlink(f"{folder}/{name}")


def _inodes(address: str, port: int) -> list[str]:
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = Path(f"/proc/net/{table}").read_text("utf-8").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            raw, _, number = fields[1].partition(":")
            if fields[3] == _LISTENS and int(number, 16) == port:
                # The kernel prints each word of the address in this machine's byte order.
                words = [bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8)]
                bound = socket.inet_ntop(family, b"".join(words))
                if bound in (address, "0.0.0.0", "::", f"::ffff:{address}"):  # noqa: S104 - read, not bound
                    found.append(fields[9])
    return found


@dataclass(frozen=True)
class Service(Target):
    """Whoever listens at a host and port; on this host also the process that does."""

    scheme = "service"
    example = "127.0.0.1:29500"

    def resolve(self) -> list[Unit]:
        host, _, port = self.value.rpartition(":")
        address, number = address_of("target", str(self), host or "127.0.0.1", port)
        shown = f"[{address}]" if ":" in address else address
        return [Unit(self.value, tuple(listeners(address, number)), address=f"{shown}:{number}")]
