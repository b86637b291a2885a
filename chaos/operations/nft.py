"""Packets dropped, refused or redirected by an nftables table of our own.

The table's rules act through a gate, a set of protocols whose elements the kernel itself takes out again after a
time: should everything of ours die, the fault still ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.operation import Before, Operation
from aiobs.errors import FaultError, PlanError

GATE = "meta l4proto @gate"
PROTOCOLS = ("tcp", "udp", "icmp", "ipv6-icmp")
SLACK_S = 0.7
"""How long after its end the kernel ends it, where nobody of ours has."""


@dataclass(frozen=True)
class Table(Operation):
    """Add a table ``inet <name>``; undone, it is deleted. Other tables are neither read nor touched.

    Attributes:
        namespace, inode: the network namespace.
        chains: each chain with its rules, in nft's language; a rule that is part of the fault begins with GATE
            and has a ``counter``.
        ttl_s: after which the kernel ends the fault by itself; put off when the hold begins.
    """

    kind = "nft.table"

    namespace: str
    inode: int
    name: str
    chains: tuple[str, ...]
    ttl_s: float

    @property
    def _in(self) -> Namespace:
        return Namespace(self.namespace, self.inode)

    def _there(self) -> bool:
        found = self._in.ask("nft", "-j", "list", "tables")
        tables = [it["table"] for it in found["nftables"] if "table" in it]
        return any(it["name"] == self.name and it["family"] == "inet" for it in tables)

    def describe(self) -> str:
        rules = " ; ".join(" ".join(chain.split()) for chain in self.chains)
        return f"nft add table inet {self.name} {{ {rules} }} in {self.namespace}"

    def describe_undo(self) -> str:
        return f"nft delete table inet {self.name} in {self.namespace}"

    def before(self) -> Before:
        if self._there():
            raise PlanError("nft table", self.name, "is there already and not ours; run  aiobs chaos recover")
        return {}

    def act(self, before: Before) -> None:  # noqa: ARG002
        elements = ", ".join(f"{it} timeout {_ms(self.ttl_s)}" for it in PROTOCOLS)
        chains = "\n".join(self.chains)
        self._in.run(
            "nft",
            "-f",
            "-",
            told=f"""table inet {self.name} {{
            set gate {{ type inet_proto; flags timeout; elements = {{ {elements} }} }}
            {chains}
        }}""",
        )

    def renew(self, before: Before, seconds: float) -> None:  # noqa: ARG002
        elements = ", ".join(f"{it} timeout {_ms(seconds + SLACK_S)}" for it in PROTOCOLS)
        self._in.run(
            "nft",
            "-f",
            "-",
            told=f"""
            flush set inet {self.name} gate
            add element inet {self.name} gate {{ {elements} }}
        """,
        )  # one transaction: no packet finds the gate empty

    def counted(self) -> dict[str, int]:
        """Packets the table's counters have seen, by the comment of the rule. Raises FaultError."""
        found = self._in.ask("nft", "-j", "list", "table", "inet", self.name)
        counts: dict[str, int] = {}
        for rule in (it["rule"] for it in found["nftables"] if "rule" in it):
            seen = sum(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
            counts[rule.get("comment", "")] = counts.get(rule.get("comment", ""), 0) + seen
        return counts

    def effective(self, before: Before) -> str:  # noqa: ARG002
        count = sum(self.counted().values())
        return f"{count} packets met the rules of table {self.name}" if count else ""

    def undo(self, before: Before) -> None:  # noqa: ARG002
        if self._in.find() and self._there():
            try:
                self._in.run("nft", "delete", "table", "inet", self.name)
            except FaultError:
                if self._there():
                    raise

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return f"nft table inet {self.name} is still there" if self._in.find() and self._there() else ""


def _ms(seconds: float) -> str:
    return f"{math.ceil(seconds * 1000)}ms"
