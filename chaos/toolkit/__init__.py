"""The extension for Chaos Toolkit: every fault an action, proofs of effect as probes, a control that holds the lease.

``chaos discover aiobs-sdk`` finds it; in an experiment, name the modules ``aiobs.chaos.toolkit.actions``,
``aiobs.chaos.toolkit.probes`` and ``aiobs.chaos.toolkit.control``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aiobs.errors import NotEnabledError

MODULES = ("actions", "probes", "verdict")


def require_chaoslib() -> None:
    """Raise NotEnabledError where Chaos Toolkit is not installed."""
    try:
        import_module("chaoslib")
    except ModuleNotFoundError as error:
        raise NotEnabledError("Chaos Toolkit", "chaos") from error


def discover(discover_system: bool = True) -> dict[str, Any]:  # noqa: ARG001 - the name is the contract's
    """What ``chaos discover`` shows.

    Raises:
        NotEnabledError: Chaos Toolkit is not installed.
    """
    require_chaoslib()
    from chaoslib.discovery.discover import discover_actions, discover_probes, initialize_discovery_result

    from aiobs.identity import VERSION

    found: dict[str, Any] = initialize_discovery_result("aiobs-sdk", VERSION, "aiobs")
    found["activities"].extend(discover_actions(f"{__name__}.actions"))
    found["activities"].extend(discover_probes(f"{__name__}.probes"))
    found["activities"].extend(discover_probes(f"{__name__}.verdict"))
    return found
