"""What the demo does to the scene, in turn, and which verdict is expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiobs.chaos.demo.scene import Scene
from aiobs.chaos.fault import fault_kinds
from aiobs.chaos.plan import Plan, build_plan
from aiobs.errors import ArmError, PlanError

BASELINE_S, GUARD_S, WELL_S = 9.0, 3.0, 5.0
"""Windows of a verdict: before the fault; until a loss may be noticed; well again for so long."""
EFFECT_S = 10.0
"""Patience until a fault is seen to act: the kernel kills for memory only who asks for more."""


@dataclass(frozen=True)
class Form:
    """One way to do it.

    Attributes:
        target: the unit that is hit.
        needs_nodes: whether the unit must be a node of a testbed.
        lacks: what it does not certify that the act is about; "" for the real thing.
    """

    fault: str
    target: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_nodes: bool = False
    lacks: str = ""

    @property
    def limits(self) -> str:
        """What a passed experiment with it does not show."""
        limits = fault_kinds()[self.fault].limits
        return f"{self.lacks}; {limits}" if self.lacks else limits


@dataclass(frozen=True)
class Act:
    """One fault.

    Attributes:
        name: a word or two; `text`: what happens, a sentence.
        boundary: what it may hurt.
        forms: the first that is possible here is taken.
        expected: the verdict; `because`: what makes it so.
    """

    name: str
    text: str
    boundary: str
    forms: tuple[Form, ...]
    expected: str
    because: str


@dataclass(frozen=True)
class Scenario:
    """A scene and what is done to it.

    Attributes:
        look_s: how long it is looked at under each fault. That little was harmed takes more data to show than a disaster.
    """

    name: str
    text: str
    bulkheads: bool
    look_s: float
    acts: tuple[Act, ...]

    def hold_s(self, length: float) -> float:
        """How long each fault is held, where windows are `length` times as long as usual."""
        return GUARD_S + self.look_s * length


_PORT = "<port>"
"""Stands for the port of the form's target."""
_OUT_OF_MEMORY = (
    Form("memory.oom", "replica-0", {"headroom_bytes": 0}),
    Form("process.kill", "replica-0", lacks="that the kernel's OOM killer chooses it, and the counters by which that is told"),
)  # fmt: skip

CONTAINED = Scenario(
    "contained",
    "with its bulkheads: what fails, fails alone",
    True,
    9.0,
    (
        Act(
            "node loss", "the machine node-1 is lost, with its replica and its rank", "node-1",
            (
                Form("node.loss", "node-1", needs_nodes=True),
                Form("process.kill", "node-1", lacks="that the machine's address is gone too: its peers are told at once"),
            ),
            "contained", "the router sends requests elsewhere, the other ranks regroup",
        ),
        Act(
            "network", "the line between the router and replica-2 is cut", "replica-2",
            (
                Form("network.partition", "node-2", {"port": _PORT}, needs_nodes=True),
                Form("network.partition", "replica-2", {"port": _PORT}),
                Form("process.pause", "replica-2", lacks="lost packets: the replica hangs, its line is whole"),
            ),
            "contained", "the router waits for no replica without a limit",
        ),
        Act(
            "out of memory", "replica-0 runs out of memory and is killed", "replica-0", _OUT_OF_MEMORY,
            "contained", "a replica is a process of its own, and is started again",
        ),
    ),
)  # fmt: skip
BREACHED = Scenario(
    "breached",
    "with the bulkheads taken out: what fails takes others with it",
    False,
    5.0,
    (
        Act(
            "hanging rank", "rank-2 hangs", "rank-2", (Form("process.pause", "rank-2"),),
            "leaked", "collectives wait without a limit, so all ranks hang",
        ),
        Act(
            "out of memory", "replica-0 runs out of memory and is killed", "replica-0", _OUT_OF_MEMORY,
            "leaked", "one replica's end takes the whole server down",
        ),
    ),
)  # fmt: skip
SCENARIOS = {it.name: it for it in (CONTAINED, BREACHED)}


def calm_s(length: float) -> float:
    """How long nothing is done before a fault: the baseline, and the guard that parts them."""
    return BASELINE_S * length + GUARD_S + 0.5


def planned(act: Act, scene: Scene, hold_s: float, seed: int) -> tuple[Plan, Form, list[str]]:
    """The plan of the first form that is possible here, and why those before it are not.

    Raises:
        ArmError: none is.
    """
    refused: list[str] = []
    for form in act.forms:
        if form.needs_nodes and not scene.bed:
            refused.append(f"{form.fault}: there is no testbed")
            continue
        values = {name: scene.port(act.boundary) if it == _PORT else it for name, it in form.parameters.items()}
        plan = build_plan({
            "fault": form.fault, "target": scene.target(form.target), "parameters": values, "duration_s": hold_s,
            "effect_s": EFFECT_S, "seed": seed, "boundary": act.boundary, "experiment": "aiobs demo", "why": act.text,
        })  # fmt: skip
        try:
            missing = plan.missing(plan.units())
        except PlanError as error:
            missing = [str(error)]
        if not missing:
            return plan, form, refused
        refused.append(f"{form.fault}: {'; '.join(missing)}")
    raise ArmError(f"{act.name}: no form of it is possible here ({'. '.join(refused)})")


def write_spec(path: Path, length: float) -> None:
    """Write what the verdicts go by; `length`: windows so many times as long as usual."""
    text = Path(__file__).with_name("spec.yaml").read_text("utf-8")
    windows = f"baseline: {BASELINE_S * length:g}s, guard: {GUARD_S:g}s, recovery: 60s, hold: {WELL_S:g}s"
    path.write_text(f"{text}windows: {{{windows}}}\n", "utf-8")
