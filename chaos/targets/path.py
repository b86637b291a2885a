"""A file or folder: a data disk, a folder of checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiobs.chaos.target import Target, Unit
from aiobs.errors import PlanError

_TOP = ("bin", "boot", "dev", "etc", "home", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
SYSTEM = frozenset({"/", "/var/lib", *(f"/{name}" for name in _TOP), *(f"/var/{name}" for name in _TOP)})
"""Folders that are everybody's."""


@dataclass(frozen=True)
class PathTarget(Target):
    """A file or folder by its absolute path, links followed."""

    scheme = "path"
    example = "/data/checkpoints"

    def resolve(self) -> list[Unit]:
        if not os.path.isabs(self.value):
            raise PlanError("target", str(self), "write an absolute path")
        path = os.path.realpath(self.value)
        if path in SYSTEM:
            raise PlanError("target", str(self), f"{path} is everybody's; name the target's own folder in it")
        if not os.path.exists(path):
            raise PlanError("target", str(self), "there is no such file or folder")
        return [Unit(path, path=path)]
