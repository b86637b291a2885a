"""Which packets: what a network fault is about, as rules of nftables inside a namespace."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aiobs.errors import PlanError
from aiobs.settings import load_settings

from .cgroups import hierarchies
from .enclosed import enclosed
from .fault import Setting
from .namespaces import Namespace, default_interface
from .operation import Operation
from .operations.nft import GATE, SLACK_S, Table
from .place import Place, chaos_path
from .target import Unit
from .testbed.bed import find_bed
from .testbed.record import NODE_NAME

DIRECTIONS = ("both", "in", "out")
BEFORE_OTHERS = -150
"""Priority of our filter chains: before filters people have, after connection tracking."""


@dataclass(frozen=True)
class Traffic:
    """What of a unit's traffic is meant.

    Attributes:
        port: TCP or UDP port, on either side; 0: all.
        peer: address or network of the other side, on a testbed also a node's name, several with commas; "": all.
        direction: as the unit sees it: ``in``, ``out`` or ``both``.
        user: numeric user id of the sending process (only ``out``); -1: all.
    """

    port: int = 0
    peer: str = ""
    direction: str = "both"
    user: int = -1

    def check(self, kind: str) -> None:
        """Look at the values. Raises PlanError."""
        if not 0 <= self.port <= 65535:
            raise PlanError(f"{kind}: port", self.port, "use 1 to 65535, or 0 for all")
        if self.direction not in DIRECTIONS:
            raise PlanError(f"{kind}: direction", self.direction, "use both, in or out")
        if self.user >= 0 and self.direction != "out":
            raise PlanError(f"{kind}: user", self.user, "who sends is known for direction=out only")
        for peer in self._peers():
            if not _is_address(peer) and not NODE_NAME.fullmatch(peer):
                raise PlanError(f"{kind}: peer", peer, "use an IP address or a network such as 10.0.0.0/24")

    def resolved(self, unit: Unit, kind: str) -> Traffic:
        """The same, with addresses for the names of nodes of the unit's testbed. Raises PlanError."""
        names = [it for it in self._peers() if not _is_address(it)]
        if not names:
            return self
        bed_name = dict(unit.attributes).get("testbed")
        if bed_name is None:
            raise PlanError(
                f"{kind}: peer", names[0], "use an IP address or a network; names are those of a testbed's nodes"
            )
        bed = find_bed(Place(chaos_path(load_settings())), bed_name)
        addresses = {it.name: it.address for it in bed.nodes}
        for name in names:
            if name not in addresses:
                raise PlanError(f"{kind}: peer", name, f"testbed {bed_name} has {', '.join(addresses)}")
        return replace(self, peer=",".join(addresses.get(it, it) for it in self._peers()))

    def _peers(self) -> list[str]:
        return [it.strip() for it in self.peer.split(",") if it.strip()]

    def matches(self, way: str) -> list[str]:
        """The rule texts that match it on the way ``in`` or ``out``, without an action."""
        if self.direction not in ("both", way):
            return []
        heads = [""]
        if peers := self._peers():
            side = "saddr" if way == "in" else "daddr"
            heads = []
            for family, version in (("ip", 4), ("ip6", 6)):
                same = [it for it in peers if ipaddress.ip_network(it, strict=False).version == version]
                if same:
                    heads.append(f"{family} {side} {{ {', '.join(same)} }}")
        if self.user >= 0:
            heads = [f"{head} meta skuid {self.user}" for head in heads]
        if self.port:
            heads = [f"{head} th {side} {self.port}" for head in heads for side in ("sport", "dport")]
        return [" ".join(head.split()) for head in heads]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def scoped(unit: Unit, traffic: Traffic, setting: Setting, kind: str) -> tuple[list[Operation], Namespace, str]:
    """Where the rules go and how they are held to the unit: what to do first, the namespace, a text for each rule.

    In a namespace of the unit's own, everything there is its traffic. In ours, the traffic has to be named by
    port or peer, or the unit's processes are put into a cgroup of version 2 which the rules name.

    Raises:
        PlanError: nothing holds the fault to the unit, or it would cut this host's own way out.
    """
    namespace = Namespace.of(unit.namespace)
    interface = ""
    if unit.interface:
        if namespace.is_own and unit.interface == default_interface():
            raise PlanError(
                "interface", unit.interface, "is this host's own way out; name a port or peer of a process instead"
            )
        interface = unit.interface
    if not namespace.is_own or traffic.port or traffic.peer or traffic.user >= 0 or interface:
        return [], namespace, interface
    if not unit.processes and not unit.cgroup:
        raise PlanError("target", unit.label, f"{kind} in the host's own namespace needs a port, a peer or processes")
    group = enclosed(unit, "", setting.injection)
    if group.missing:
        raise PlanError("target", unit.label, "; ".join(group.missing))
    mount = next(it.mount for it in hierarchies() if it.version == 2)
    path = (mount / group.path.strip("/")).relative_to("/sys/fs/cgroup").as_posix()
    # The level counts below the hierarchy's mount, the path from /sys/fs/cgroup on.
    level = len(Path(group.path.strip("/")).parts)
    return group.operations, namespace, f'socket cgroupv2 level {level} "{path}"'


def rules(
    unit: Unit,
    traffic: Traffic,
    setting: Setting,
    kind: str,
    action: str,
    *,
    condition: str | Sequence[str] = "",
    hooks: str = "both",
) -> list[Operation]:
    """The operations that do `action` (in nft's language) to the packets meant.

    Args:
        condition: more that has to match, such as ``tcp flags syn``; one of them, where there are several.
        hooks: ``out`` to act on what leaves only: a reset on both would eat its own answer.
    """
    traffic = traffic.resolved(unit, kind)
    conditions = [condition] if isinstance(condition, str) else condition
    first, namespace, hold = scoped(unit, traffic, setting, kind)
    by_group = hold.startswith("socket ")
    chains = []
    for way, hook in (("in", "input"), ("out", "output")):
        if hooks not in ("both", way):
            continue
        held = hold if by_group or not hold else f'{"iifname" if way == "in" else "oifname"} "{hold}"'
        lines = [
            f"{GATE} {held} {match} {more} counter {action}" for match in traffic.matches(way) for more in conditions
        ]  # fmt: skip
        if lines:
            body = "\n".join(lines)
            chains.append(
                f"chain {hook} {{ type filter hook {hook} priority {BEFORE_OTHERS}; policy accept;\n{body}\n}}"
            )
    if not chains:
        raise PlanError(f"{kind}: direction", traffic.direction, "this fault acts on the other direction only")
    table = Table(
        namespace.path, namespace.inode, f"aiobs_{setting.injection}", tuple(chains), setting.effect_s + SLACK_S
    )
    return [*first, table]
