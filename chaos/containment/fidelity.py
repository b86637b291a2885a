"""A plan as an experiment of the standard ai-cluster-chaos-fidelity: which injection tests which layer.

The standard's list of techniques is closed; what aiobs really does stands beside it, under ``injection.detail``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiobs.chaos.plan import Plan
from aiobs.errors import PlanError

PHYSICAL = "chaosd-nic"
_KINDS = {
    "process.kill": ("process-kill", "sudden loss of a process"),
    "rank.kill": ("process-kill", "the death of a rank"),
    "rank.stall": ("cpu-sleep", "a rank that hangs"),
    "checkpoint.tear": ("artifact-swap", "a checkpoint that was cut short"),
    "checkpoint.corrupt": ("artifact-swap", "a checkpoint with flipped bits"),
    "process.storm": ("process-kill", "a process that crashes again and again"),
    "process.pause": ("cpu-sleep", "a process that hangs"),
    "process.freeze": ("cpu-sleep", "a process that hangs and cannot be killed"),
    "process.slow": ("cpu-sleep", "a process that is slow"),
    "process.exhaust": ("stresschaos", "a process that runs out of descriptors or threads"),
    "memory.limit": ("stresschaos", "allocations that fail"),
    "memory.oom": ("stresschaos", "an out-of-memory kill"),
    "memory.pressure": ("stresschaos", "memory pressure"),
    "network.partition": (PHYSICAL, "an IP network partition"),
    "network.loss": (PHYSICAL, "IP packet loss"),
    "network.reset": (PHYSICAL, "TCP connections that are reset"),
    "network.bandwidth": (PHYSICAL, "a slow IP link"),
    "network.grudge": (PHYSICAL, "an IP network partition between nodes"),
    "network.refuse": (PHYSICAL, "TCP connections that are refused"),
    "network.blackhole": (PHYSICAL, "TCP connections on which nothing arrives"),
    "network.dns": ("dnschaos", "name resolution that fails"),
}
"""Kind of fault to technique and wanted fault; the words keep clear of the standard's patterns for other layers."""


def fidelity(
    plan: Plan, steady_state: Sequence[str], *, abort: str, evidence: str, owner: str = "", layer: str = ""
) -> dict[str, Any]:
    """The experiment that `plan` makes, for the standard's linter ``chaos-fidelity``.

    Args:
        steady_state: what must hold outside the blast radius, one sentence each.
        abort: when the experiment is stopped early.
        evidence: where its verdict or report is found.
        owner: who answers for it; "" for who planned it.
        layer: one of the standard's; "" derives it from the fault and its target.

    Raises:
        PlanError: the standard has no technique for this fault, or a text it wants is empty.
    """
    kind = plan.fault.kind
    if kind not in _KINDS:
        raise PlanError("fault", kind, f"the fidelity standard has no technique for it; it has for {', '.join(_KINDS)}")
    wanted: tuple[tuple[str, object], ...] = (("steady_state", steady_state), ("abort", abort), ("evidence", evidence))
    for name, given in wanted:
        if not given:
            raise PlanError(name, given, "the fidelity standard wants a text here")
    technique, fault = _KINDS[kind]
    made: dict[str, Any] = {
        "name": f"{kind.replace('.', '-')}-{plan.id}",
        "layer": layer or _layer(plan),
        "wanted_fault": fault,
        "injection": {"tool": "aiobs", "technique": technique, "detail": kind, "parameters": plan.fault.parameters()},
        "blast_radius": f"{plan.boundary or plan.target}, at most {plan.max_units} unit(s)",
        "duration": f"{plan.duration_s:g}s",
        "steady_state": list(steady_state),
        "abort": abort,
        "undo": "by the injector from its journal, in reverse, and proved against what was there before; "
        "by its watchdog should it die",
        "owner": owner or plan.who,
        "evidence": evidence,
        "hardware_required": False,
        "certifies": plan.fault.certifies,
        "does_not_certify": plan.fault.limits,
    }
    if technique == PHYSICAL:
        made["agent_forbidden"] = True
    return made


def fidelity_yaml(experiment: dict[str, Any]) -> str:
    """`experiment` as a YAML file (written as JSON, which YAML contains)."""
    return json.dumps(experiment, indent=2, ensure_ascii=False) + "\n"


def _layer(plan: Plan) -> str:
    if plan.fault.kind.startswith("network."):
        return "overlay-network"
    return "training-graph" if str(plan.target).startswith("rank:") else "orchestration"
