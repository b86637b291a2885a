"""An operation: one change to the machine, as data, with the way back.

A fault is a list of operations. The injector writes each one with its state from before to an fsynced journal
*before* it acts, so that whoever finds the journal (the watchdog, ``aiobs chaos recover``, the next start) can
undo it without knowing anything else. Hence the rules for whoever adds one:

- fields are JSON-able, and `kind` is ``<module>.<name>`` with the module in ``aiobs.chaos.operations``;
- :meth:`before` only reads, and refuses what is not ours to change;
- :meth:`undo` is idempotent, right after any part of :meth:`act` or none of it, and takes a target that is gone
  as undone;
- :meth:`residue` compares the machine with `before`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import Any, ClassVar

from aiobs.errors import PlanError

PACKAGE = "aiobs.chaos.operations"
_known: dict[str, type[Operation]] = {}

Before = Mapping[str, Any]
"""What an operation read before it acted; JSON-able."""


@dataclass(frozen=True)
class Operation:
    """See the module's text.

    Attributes:
        kind: ``process.stop``: the module in ``aiobs.chaos.operations`` and the operation in it.
        lasting: whether its traces survive a reboot (files on disk); others are gone with the kernel.
    """

    kind: ClassVar[str] = ""
    lasting: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.kind:
            _known[cls.kind] = cls

    def describe(self) -> str:
        """What it does, exactly, in one line (the dry run shows it)."""
        raise NotImplementedError

    def describe_undo(self) -> str:
        """What undoes it, in one line."""
        raise NotImplementedError

    def before(self) -> Before:
        """Read what must be known to undo it.

        Raises:
            PlanError: it cannot or must not be done here; nothing has been touched.
        """
        return {}

    def act(self, before: Before) -> None:
        """Do it. Raises OSError or FaultError where it cannot; :meth:`undo` is called then as well."""
        raise NotImplementedError

    def effective(self, before: Before) -> str:
        """Evidence from the kernel, a proxy or a counter that it acts, one line; "" as long as there is none."""
        raise NotImplementedError

    def renew(self, before: Before, seconds: float) -> None:
        """The hold begins and lasts so long: put off an end that the kernel brings about by itself."""

    def undo(self, before: Before) -> None:
        """Take it back."""
        raise NotImplementedError

    def residue(self, before: Before) -> str:
        """What differs from `before`, one line; "" where it is undone."""
        raise NotImplementedError


def to_data(operation: Operation) -> dict[str, Any]:
    """The operation as JSON-able data."""
    return {"kind": operation.kind, **asdict(operation)}


def build_operation(data: Mapping[str, Any]) -> Operation:
    """The operation that `data` (:func:`to_data`) describes.

    Raises:
        PlanError: unknown kind or fields: the journal is of another version.
    """
    values = dict(data)
    kind = str(values.pop("kind", ""))
    if kind not in _known:
        try:
            import_module(f"{PACKAGE}.{kind.partition('.')[0]}")
        except ImportError:
            pass
    made = _known.get(kind)
    if made is None:
        raise PlanError("operation", kind, "this version does not know it; undo it with the version that wrote it")
    known = {field.name for field in fields(made)}
    if unknown := values.keys() - known:
        raise PlanError(
            f"operation {kind}", sorted(unknown), f"no such fields; there are {', '.join(sorted(known)) or 'none'}"
        )
    return made(**{name: tuple(it) if isinstance(it, list) else it for name, it in values.items()})
