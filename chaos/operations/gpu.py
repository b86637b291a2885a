"""Fake GPUs that go wrong: readings and events in the state file that the fake NVML library answers from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aiobs.chaos.operation import Before, Operation
from aiobs.errors import AiobsError, PlanError

_HOME = __name__.partition(".")[0] + ".device.fake.state"


def has_fake() -> bool:
    """Whether this version of aiobs has fake GPUs."""
    try:
        return find_spec(_HOME) is not None
    except ModuleNotFoundError:
        return False


def opened(path: str) -> Any:
    """The fake GPUs of a state file. Raises PlanError: it is none."""
    try:
        return import_module(_HOME).FakeGpus(path)
    except (ImportError, AiobsError) as error:
        raise PlanError("gpu", path, f"cannot be used: {error}") from error


@dataclass(frozen=True)
class _OnGpu(Operation):
    """An operation on GPU number `gpu` of the state file `path`."""

    path: str
    gpu: int

    def _gpu(self) -> Any:
        gpus = opened(self.path).gpus
        if self.gpu >= len(gpus):
            raise PlanError("gpu", self.gpu, f"{self.path} has {len(gpus)} GPUs, numbered from 0")
        return gpus[self.gpu]

    def _row(self) -> Any:
        return opened(self.path).state.gpus[self.gpu]


@dataclass(frozen=True)
class Readings(_OnGpu):
    """Let the GPU read other values.

    Attributes:
        names, values: readings by their names in the state file, and what they become.
    """

    kind = "gpu.readings"
    lasting = True

    names: tuple[str, ...]
    values: tuple[int, ...]

    def describe(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in zip(self.names, self.values, strict=True))
        return f"fake GPU {self.gpu} of {self.path}: {said}"

    def describe_undo(self) -> str:
        return f"fake GPU {self.gpu} of {self.path}: {', '.join(self.names)} as before"

    def before(self) -> Before:
        self._gpu()
        return {"values": self._values()}

    def _values(self) -> list[int]:
        row = self._row()
        return [int(getattr(row, name)) for name in self.names]

    def act(self, before: Before) -> None:  # noqa: ARG002
        self._gpu().set(**dict(zip(self.names, self.values, strict=True)))

    def effective(self, before: Before) -> str:  # noqa: ARG002
        return f"the state file says so: {self.describe()}" if self._values() == list(self.values) else ""

    def undo(self, before: Before) -> None:
        for name, ours, theirs in zip(self.names, self.values, before["values"], strict=True):
            if getattr(self._row(), name) == ours:  # what somebody else has set since stays
                self._gpu().set(**{name: theirs})

    def residue(self, before: Before) -> str:
        left = [
            name
            for name, now, ours, theirs in zip(self.names, self._values(), self.values, before["values"], strict=True)
            if now == ours != theirs
        ]
        return f"fake GPU {self.gpu}: {', '.join(left)} as injected" if left else ""


@dataclass(frozen=True)
class Event(_OnGpu):
    """Report an event of NVML; it has happened then, there is nothing to undo.

    Attributes:
        type: NVML's event type: 8 an XID, 2 a double-bit ECC error; `number`: of the XID.
    """

    kind = "gpu.event"

    type: int
    number: int

    def describe(self) -> str:
        return f"fake GPU {self.gpu} of {self.path}: event of type {self.type}, number {self.number}"

    def describe_undo(self) -> str:
        return "nothing: an event has happened"

    def before(self) -> Before:
        self._gpu()
        return {"events": int(opened(self.path).state.event_count)}

    def act(self, before: Before) -> None:  # noqa: ARG002
        self._gpu().event(self.type, self.number)

    def effective(self, before: Before) -> str:
        now = int(opened(self.path).state.event_count)
        return f"{self.path} counts {now} events, there were {before['events']}" if now > before["events"] else ""

    def undo(self, before: Before) -> None:
        pass

    def residue(self, before: Before) -> str:  # noqa: ARG002
        return ""


@dataclass(frozen=True)
class Risen(_OnGpu):
    """Let a counter among NVML's numbered fields rise.

    Attributes:
        number: of the field; `count`: by how much.
    """

    kind = "gpu.risen"
    lasting = True

    number: int
    count: int

    def describe(self) -> str:
        return f"fake GPU {self.gpu} of {self.path}: field {self.number} rises by {self.count}"

    def describe_undo(self) -> str:
        return f"fake GPU {self.gpu} of {self.path}: field {self.number} as before"

    def _field(self) -> Any:
        row = self._row()
        return next((it for it in row.fields[: row.field_count] if (it.number, it.scope) == (self.number, 0)), None)

    def before(self) -> Before:
        self._gpu()
        found = self._field()
        return {"value": None if found is None else [int(found.value), int(found.code)]}

    def _ours(self, before: Before) -> int:
        return self.count + (before["value"][0] if before["value"] else 0)

    def act(self, before: Before) -> None:
        self._gpu().set_field(self.number, self._ours(before))

    def _stands(self, before: Before) -> bool:
        found = self._field()
        return found is not None and (int(found.value), int(found.code)) == (self._ours(before), 0)

    def effective(self, before: Before) -> str:
        return (
            f"field {self.number} of fake GPU {self.gpu} stands at {self._ours(before)}" if self._stands(before) else ""
        )

    def undo(self, before: Before) -> None:
        if not self._stands(before):  # what somebody else has counted since stays
            return
        if before["value"]:
            value, code = before["value"]
            self._gpu().set_field(self.number, value, code=code)
        else:
            self._gpu().remove_field(self.number)

    def residue(self, before: Before) -> str:
        return f"field {self.number} of fake GPU {self.gpu} still counts our errors" if self._stands(before) else ""
