"""A rank of a job that torchrun or Slurm started: found by the environment its process was given."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs.chaos.identity import ProcessIdentity, all_processes, tree
from aiobs.chaos.target import Target, Unit
from aiobs.errors import PlanError

_RANK = ("RANK", "SLURM_PROCID")
_RUN = ("AIOBS_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


@dataclass(frozen=True)
class Rank(Target):
    """``rank:2`` or ``rank:2@run``, where ``run`` is the id the run has for aiobs, torchrun or Slurm."""

    scheme = "rank"
    pattern = True
    example = "2"

    def resolve(self) -> list[Unit]:
        number, _, run = self.value.partition("@")
        if not number.isdigit():
            raise PlanError("target", str(self), "write a rank from 0, or rank@run")
        found: dict[str, list[ProcessIdentity]] = {}
        for process in all_processes():
            variables = process.variables()
            runs = [variables[name] for name in _RUN if variables.get(name)]
            if not any(variables.get(name) == number for name in _RANK) or (run and run not in runs):
                continue
            found.setdefault(runs[0] if runs else "", []).append(process)
        if not found:
            raise PlanError("target", str(self), "no process has that rank in its environment (RANK, SLURM_PROCID)")
        if len(found) > 1:
            raise PlanError("target", str(self), f"several runs have it: {', '.join(sorted(found))}; write rank@run")
        ((name, processes),) = found.items()
        inner = {it.pid for it in processes}
        roots = [it for it in processes if it.parent() not in inner]
        return [
            Unit(
                f"rank {number} ({root})",
                tuple(tree(root)),
                namespace=f"/proc/{root.pid}/ns/net",
                attributes=(("rank", number), ("run", name)),
            )
            for root in roots
        ]
