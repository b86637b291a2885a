"""The verdict as a probe, to be used with ``tolerance: true`` once the fault is undone and the run is recorded."""

# Chaos Toolkit reads the types of parameters: no `from __future__ import annotations` here.
import logging

from aiobs.chaos.containment.asserting import holds

__all__ = ["contained"]

_log = logging.getLogger("chaostoolkit")


def contained(folder: str, spec: str) -> bool:
    """Whether every fault on the record of that run folder stayed where the spec permits it; no data is no pass."""
    found = holds(spec, folder)
    if not found:
        _log.error("aiobs: %r", found)
    return bool(found)
