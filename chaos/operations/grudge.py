"""Packets between nodes that are dropped where they arrive: one table of nftables at each node that is not to hear
somebody, with one counter for each it is not to hear."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.operation import Before, Operation
from aiobs.chaos.operations.nft import GATE, Table
from aiobs.errors import FaultError

PROBE, DISCARD = 41, 9
"""Ports of our own packet, by which the cut of a direction in which nobody speaks is proved as well."""
_BEFORE_OTHERS = -150


@dataclass(frozen=True)
class Seen:
    """What the counters of one direction say: packets of others, and of ours."""

    sender: str
    hearer: str
    packets: int
    probes: int

    def __str__(self) -> str:
        return f"{self.sender}>{self.hearer} {self.packets} packets" + (" and our probe" if self.probes else "")


@dataclass(frozen=True)
class Grudge(Operation):
    """Drop, at each hearer, what comes from the senders it is cut from. Undone, the tables are deleted.

    Attributes:
        table: name of the tables.
        nodes: of each node ``<name> <address> <inode> <path of its network namespace>``.
        cuts: ``a>b``: what a sends does not arrive at b.
        port: on either side, 0 for all.
        ttl_s: after which the kernel ends it by itself; put off when the hold begins.
    """

    kind = "grudge.cut"

    table: str
    nodes: tuple[str, ...]
    cuts: tuple[str, ...]
    port: int
    ttl_s: float

    def _places(self) -> dict[str, tuple[str, Namespace]]:
        found = {}
        for line in self.nodes:
            name, address, inode, path = line.split(" ", 3)
            found[name] = address, Namespace(path, int(inode))
        return found

    def _tables(self) -> Iterator[tuple[str, list[str], Table]]:
        """Each hearer, whom it is cut from, and its table."""
        places = self._places()
        for hearer, (_, namespace) in places.items():
            senders = [it.partition(">")[0] for it in self.cuts if it.partition(">")[2] == hearer]
            if not senders:
                continue
            lines = []
            for sender in senders:
                head = f"{GATE} ip saddr {places[sender][0]}"
                lines.append(f'{head} udp sport {PROBE} udp dport {DISCARD} counter drop comment "probe {sender}"')
                sides = [f"th {side} {self.port}" for side in ("sport", "dport")] if self.port else [""]
                lines += [f'{head} {side} counter drop comment "{sender}"' for side in sides]
            body = "\n".join(lines)
            chain = f"chain input {{ type filter hook input priority {_BEFORE_OTHERS}; policy accept;\n{body}\n}}"
            yield hearer, senders, Table(namespace.path, namespace.inode, self.table, (chain,), self.ttl_s)

    def describe(self) -> str:
        what = f" (port {self.port})" if self.port else ""
        said = [f"at {hearer} drop what {', '.join(senders)} send{what}" for hearer, senders, _ in self._tables()]
        return f"nft add table inet {self.table}: {'; '.join(said)}"

    def describe_undo(self) -> str:
        return f"nft delete table inet {self.table} at {', '.join(hearer for hearer, _, _ in self._tables())}"

    def before(self) -> Before:
        for _, _, table in self._tables():
            table.before()
        return {}

    def act(self, before: Before) -> None:
        for _, _, table in self._tables():
            table.act(before)

    def seen(self) -> list[Seen]:
        """What the counters say, one entry a direction. Raises FaultError."""
        found = []
        for hearer, senders, table in self._tables():
            counted = table.counted()
            found += [Seen(it, hearer, counted.get(it, 0), counted.get(f"probe {it}", 0)) for it in senders]
        return found

    def effective(self, before: Before) -> str:  # noqa: ARG002
        seen = self.seen()
        if silent := [it for it in seen if not it.packets and not it.probes]:
            self._probe(silent)
            return ""
        # Our own packets prove that the cut is there, but only others' that it matters to anybody.
        return "dropped: " + ", ".join(map(str, seen)) if any(it.packets for it in seen) else ""

    def _probe(self, directions: list[Seen]) -> None:
        places = self._places()
        for sender in dict.fromkeys(it.sender for it in directions):
            addresses = [places[it.hearer][0] for it in directions if it.sender == sender]

            def send(addresses: list[str] = addresses) -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
                    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    it.bind(("", PROBE))
                    for address in addresses:
                        it.sendto(b"", (address, DISCARD))

            places[sender][1].inside(send)

    def renew(self, before: Before, seconds: float) -> None:
        for _, _, table in self._tables():
            table.renew(before, seconds)

    def undo(self, before: Before) -> None:
        failed: list[str] = []
        for _, _, table in self._tables():
            try:
                table.undo(before)
            except FaultError as error:  # the others all the same
                failed.append(str(error))
        if failed:
            raise FaultError("undo", "; ".join(failed))

    def residue(self, before: Before) -> str:
        return "; ".join(filter(None, (table.residue(before) for _, _, table in self._tables())))
