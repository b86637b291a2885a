"""What is done: a fault turns its parameters and one unit into operations.

One small file each in ``aiobs.chaos.faults``; the file's name is the fault's kind with the first ``_`` as a dot
(``process_pause.py`` is ``process.pause``). Other distributions add theirs by entry point ``aiobs_chaos_fault``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from pkgutil import iter_modules
from random import Random
from typing import Any, ClassVar

from aiobs.errors import PlanError

from .operation import Operation
from .target import Unit

GROUP = "aiobs_chaos_fault"
RESERVED = frozenset({
    "boundary", "duration_s", "effect_s", "experiment", "fault", "id", "max_units", "pick", "seed", "target", "who", "why",
    "within",
})  # fmt: skip
"""Fields of a plan, which callers give side by side with a fault's parameters."""


@dataclass(frozen=True)
class Setting:
    """What a fault is planned with, besides its own parameters.

    Attributes:
        random: seeded by the plan; the only source of chance.
        duration_s: how long the fault is held; `effect_s`: how long it may take until it is seen to act.
        injection: the injection's id, for names of kernel objects and marks of processes.
        folder: private folder of the session, for files a worker needs.
    """

    random: Random
    duration_s: float
    effect_s: float
    injection: str
    folder: str


@dataclass(frozen=True)
class Fault:
    """See the module's text. Subclasses are frozen dataclasses whose fields are the parameters, units at the
    end of their names (``delay_s``).

    Attributes:
        kind: ``process.pause``.
        takes: which facets of a unit it needs (:meth:`Unit.facets`).
        root: whether it needs root here; else how it works without is its own business.
        certifies: what a passed experiment with it shows; `limits`: what it does not show.
    """

    kind: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ("processes",)
    root: ClassVar[bool] = False
    certifies: ClassVar[str] = ""
    limits: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if taken := RESERVED & vars(cls).get("__annotations__", {}).keys():
            raise TypeError(f"{cls.__name__}: {', '.join(sorted(taken))} is a field of every plan; name it otherwise")
        if cls.kind:
            _known[cls.kind] = cls

    def check(self) -> None:
        """Look at the parameters. Raises PlanError."""

    def missing(self, unit: Unit) -> list[str]:  # noqa: ARG002
        """What this machine or user lacks for it, one sentence each, with the remedy; only looks."""
        return []

    def wants_radius(self, unit: Unit) -> bool:  # noqa: ARG002
        """Whether a plan that hits `unit` must declare its blast radius (`within`)."""
        return False

    def operations(self, unit: Unit, setting: Setting) -> list[Operation]:
        """What to do to `unit`, in this order; undone in the reverse one.

        Raises:
            PlanError: it cannot be done to that unit.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """Its parameters as JSON-able data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_known: dict[str, type[Fault]] = {}


def fault_kinds() -> dict[str, type[Fault]]:
    """Every fault there is, by kind."""
    package = import_module("aiobs.chaos.faults")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        entry.load()
    return dict(sorted(_known.items()))


def build_fault(kind: str, parameters: Mapping[str, Any] | None = None) -> Fault:
    """The fault of that kind, its parameters checked; texts (of a command line) become numbers where it wants these.

    Raises:
        PlanError: unknown kind or parameter, or a value it cannot use.
    """
    made = _known.get(kind) or fault_kinds().get(kind)
    if made is None:
        raise PlanError("fault", kind, f"there is no such fault; there are {', '.join(fault_kinds())}")
    known = {field.name: field for field in fields(made)}
    values = {}
    for name, value in (parameters or {}).items():
        if name not in known:
            raise PlanError(f"{kind}: {name}", value, f"no such parameter; there are {', '.join(known) or 'none'}")
        values[name] = _fitting(f"{kind}: {name}", str(known[name].type), value)
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise PlanError(f"{kind}: {name}", None, "is needed and has no default")
    fault = made(**values)
    fault.check()
    return fault


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value.split(",") if isinstance(value, str) else value)


_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _fitting(label: str, wanted: str, value: Any) -> Any:
    try:
        if wanted == "bool" and not isinstance(value, bool):
            text = str(value).lower()
            if text not in _TRUE | _FALSE:
                raise ValueError("true or false")
            return text in _TRUE
        if wanted == "int" and not (isinstance(value, int) and not isinstance(value, bool)):
            if isinstance(value, (bool, float)):
                raise ValueError("a whole number")
            return int(value)
        if wanted == "float":
            if isinstance(value, bool):
                raise ValueError("a number")
            number = float(value)
            if number != number or number in (float("inf"), float("-inf")):
                raise ValueError("a finite number")
            return number
        if wanted == "str" and not isinstance(value, str):
            raise ValueError("a text")
        if wanted.startswith("tuple"):
            return _items(value)
    except (TypeError, ValueError) as error:
        raise PlanError(label, value, f"use {wanted} ({error})") from None
    return value
