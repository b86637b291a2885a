"""A plan, or the fault of a verdict, as an experiment of the standard ai-cluster-chaos-fidelity: which injection tests which layer.

The standard's list of techniques is closed; what aiobs really does stands beside it, under ``injection.detail``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiobs.chaos.containment.amounts import in_words
from aiobs.chaos.containment.model import Spec, Verdict
from aiobs.chaos.fault import fault_kinds
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
    "network.latency": (PHYSICAL, "IP packets that come late"),
    "network.flap": (PHYSICAL, "an IP link that comes and goes"),
    "network.dns": ("dnschaos", "name resolution that fails"),
    "node.loss": ("process-kill", "the sudden loss of all processes of a node"),
    "disk.full": ("iochaos", "a volume without room"),
    "clock.skew": ("timechaos", "a clock that is wrong"),
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
    wanted: tuple[tuple[str, object], ...] = (("steady_state", steady_state), ("abort", abort), ("evidence", evidence))
    for name, given in wanted:
        if not given:
            raise PlanError(name, given, "the fidelity standard wants a text here")
    return _experiment(
        plan.fault.kind, plan.id, layer or _layer(plan.fault.kind, str(plan.target)), plan.fault.parameters(),
        f"{plan.boundary or plan.target}, at most {plan.max_units} unit(s)", plan.duration_s, steady_state, abort,
        owner or plan.who, evidence,
    )  # fmt: skip


def fidelity_of_verdict(verdict: Verdict, spec: Spec, *, evidence: str, owner: str) -> dict[str, Any]:
    """The experiment that `verdict` is about, its outcome beside it; `evidence` and `owner` as in :func:`fidelity`.

    Raises:
        PlanError: it is about no fault on the record, or the standard has no technique for its fault.
    """
    fault = verdict.fault
    if fault is None:
        raise PlanError("fidelity", "", "no fault is on the record: windows by hand do not say what was injected")
    made = _experiment(
        fault.kind, fault.id, _layer(fault.kind, fault.target), {}, ", ".join(verdict.raw.get("permitted", ())) or fault.target,
        (fault.undone_ns - fault.injected_ns) / 1e9,
        [f"{slo.name}: outside no worse by {in_words(slo.kind, slo.margin)}" for slo in spec.slos if slo.required],
        fault.aborted or "the end of its lease, or whoever holds it", owner, evidence,
    )  # fmt: skip
    return made | {"verdict": verdict.kind, "verdict_sentence": verdict.sentence}


def write_fidelity(folder: Path, verdicts: Sequence[Verdict], spec: Spec, evidence: str) -> list[Path]:
    """Write :func:`fidelity_of_verdict` of each, a file for each as the standard's linter reads them.

    Raises:
        PlanError: the standard has no technique for a fault; nothing is written then.
        OSError: the folder cannot be written to.
    """
    owner = os.environ.get("USER") or f"uid {os.getuid()}"
    made = [fidelity_of_verdict(it, spec, evidence=evidence, owner=owner) for it in verdicts]
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{it['name']}.yaml" for it in made]
    for path, it in zip(written, made, strict=True):
        path.write_text(fidelity_yaml(it), "utf-8")
    return written


def _experiment(
    kind: str, name: str, layer: str, parameters: Mapping[str, Any], radius: str, duration_s: float,
    steady_state: Sequence[str], abort: str, owner: str, evidence: str,
) -> dict[str, Any]:  # fmt: skip
    if kind not in _KINDS:
        raise PlanError("fault", kind, f"the fidelity standard has no technique for it; it has for {', '.join(_KINDS)}")
    technique, wanted = _KINDS[kind]
    known = fault_kinds()[kind]
    made: dict[str, Any] = {
        "name": f"{kind.replace('.', '-')}-{name}",
        "layer": layer,
        "wanted_fault": wanted,
        "injection": {"tool": "aiobs", "technique": technique, "detail": kind, "parameters": dict(parameters)},
        "blast_radius": radius,
        "duration": f"{duration_s:g}s",
        "steady_state": list(steady_state),
        "abort": abort,
        "undo": "by the injector from its journal, in reverse, and proved against what was there before; "
        "by its watchdog should it die",
        "owner": owner,
        "evidence": evidence,
        "hardware_required": False,
        "certifies": known.certifies,
        "does_not_certify": known.limits,
    }
    if technique == PHYSICAL:
        made["agent_forbidden"] = True
    return made


def fidelity_yaml(experiment: dict[str, Any]) -> str:
    """`experiment` as a YAML file (written as JSON, which YAML contains)."""
    return json.dumps(experiment, indent=2, ensure_ascii=False) + "\n"


def _layer(kind: str, target: str) -> str:
    if kind.startswith("network."):
        return "overlay-network"
    if kind.startswith(("disk.", "checkpoint.")):
        return "data-artifacts"
    return "training-graph" if target.startswith("rank:") else "orchestration"
