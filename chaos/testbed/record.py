"""What is known of a testbed, on disk: so that others find its nodes, and take it down should nobody else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.place import Place

MARK, BED, NODE = "AIOBS_TESTBED_ID", "AIOBS_TESTBED", "AIOBS_NODE"
"""Variables of every process in a node: which testbed, beyond doubt; its name; the node's name."""
NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
INTERFACE = "eth0"
PREFIX = 24


@dataclass(frozen=True)
class NodeRecord:
    """A node.

    Attributes:
        keeper, keeper_start: the process of ours that holds its namespaces, 0 before there is one.
        namespace: inode of its network namespace.
        group: path of its control group, "" where it has none.
        folders: the group's folders, one a hierarchy.
    """

    name: str
    index: int
    address: str
    group: str = ""
    folders: tuple[str, ...] = ()
    keeper: int = 0
    keeper_start: int = 0
    namespace: int = 0

    def keeps(self) -> ProcessIdentity:
        """Its keeper."""
        return ProcessIdentity(self.keeper, self.keeper_start)


@dataclass(frozen=True)
class BedRecord:
    """A testbed; `switch` is the pseudo node that has the bridge."""

    name: str
    id: str
    folder: str
    owner: int
    owner_start: int
    own_user: bool
    nodes: tuple[NodeRecord, ...]
    switch: NodeRecord

    @property
    def lock_path(self) -> Path:
        """Locked for as long as anybody looks after the testbed."""
        return Path(self.folder) / "lock"

    def node(self, name: str) -> NodeRecord | None:
        """The node of that name."""
        return next((it for it in self.nodes if it.name == name), None)

    def keepers(self) -> list[ProcessIdentity]:
        """Those that are there."""
        return [it.keeps() for it in (*self.nodes, self.switch) if it.keeper]

    def kept(self, nodes: dict[str, NodeRecord], switch: NodeRecord) -> BedRecord:
        """The same, with keepers."""
        return replace(self, nodes=tuple(nodes[it.name] for it in self.nodes), switch=switch)

    def write(self) -> None:
        """Put it on disk, whole or not at all. Raises OSError."""
        path = Path(self.folder) / "bed.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)), "utf-8")
        fresh.replace(path)


def beds_folder(place: Place) -> Path:
    """Where testbeds are."""
    return place.path / "testbeds"


def read_bed(folder: Path) -> BedRecord | None:
    """The testbed in that folder, None where there is none."""
    try:
        values: dict[str, Any] = json.loads((folder / "bed.json").read_text("utf-8"))
        nodes = tuple(_node(it) for it in values.pop("nodes"))
        return BedRecord(nodes=nodes, switch=_node(values.pop("switch")), **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _node(values: dict[str, Any]) -> NodeRecord:
    values["folders"] = tuple(values["folders"])
    return NodeRecord(**values)


def living_beds(place: Place) -> Iterator[BedRecord]:
    """Every testbed that is up, by name."""
    try:
        names = sorted(os.listdir(beds_folder(place)))
    except OSError:
        return
    for name in names:
        bed = read_bed(beds_folder(place) / name)
        if bed is not None and bed.switch.keeper and bed.switch.keeps().is_alive():
            yield bed
