"""Which modules are the models being trained, and which optimizers train them.

A model is found, not announced: among all modules alive, one that is part of no other and has parameters. A
module that wraps another (DDP, a compiled module) has it as a part, so the wrapper is what is found. Looking
through the process's objects takes some ten milliseconds; it is done when an optimizer is made, when the first
batch is asked for, and again only when what was found proves incomplete.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import compress
from types import CodeType
from typing import Any

from aiobs import names, recorder
from aiobs.clock import monotonic_ns

LOOKS = 6
"""How often to look whatever it takes; beyond that a look must wait for PATIENCE times as long as the last took."""
PATIENCE = 100
OTHERS = 8
"""How many models may be watched that no optimizer trains (teachers, averaged copies)."""


class Models:
    """The process's models and optimizers, as far as known.

    Attributes:
        watched: ids of the models whose calls count as forward, each with a reference that notices its end.
        trained: ids of those that own an optimizer's parameters.
        optimizers: ids of the optimizers a step is expected to see.
        step_code: code object in which optimizer hooks run, to tell whether an optimizer step is in progress.
        watch: told of the class of each model found.
        name_service: the service's name is ours to choose.
    """

    def __init__(self) -> None:
        self.watched: dict[int, weakref.ref[Any]] = {}
        self.trained: frozenset[int] = frozenset()
        self.optimizers: frozenset[int] = frozenset()
        self.step_code: CodeType | None = None
        self.watch: Callable[[type], None] = lambda _kind: None
        self.name_service = False
        self._probe: weakref.ref[Any] | None = None
        self._looks = 0
        self._gaps = 0
        self._not_before_ns = 0

    def forget(self) -> None:
        """Back to knowing nothing."""
        self.__init__()  # type: ignore[misc]

    # -- when to look ----------------------------------------------------------------------------------------
    def look(self, reason: str) -> bool:
        """Look for models, where it may help: `reason` is ``made`` (an optimizer), ``first`` (batch or backward),
        ``optimizer`` (one that is not known has stepped) or ``gap`` (a step in which no model was seen). Returns
        whether it did."""
        if reason == "gap":
            self._gaps += 1
            if self.trained or self._gaps & (self._gaps - 1):
                return False
        begun = monotonic_ns()
        if self._looks >= LOOKS and begun < self._not_before_ns:
            return False
        self._looks += 1
        self._find()
        ended = monotonic_ns()
        self._not_before_ns = ended + PATIENCE * (ended - begun)
        return True

    def wrapped(self, wrapper: Any, model: Any) -> None:
        """`wrapper` (DDP, a compiled module) has been put around `model`, and will be called in its place."""
        if id(model) in self.watched:
            self._watch(wrapper)
            if id(model) in self.trained:
                self.trained |= {id(wrapper)}

    def first_step(self) -> None:
        """The first training step of the process has ended: it is a trainer."""
        if self.name_service:
            self.name_service = False
            recorder.set_resource({names.SERVICE_NAME: "trainer"})

    def version(self) -> int:
        """A number that changes with the parameters, however they are changed; 0 where there are none known."""
        parameter = self._probe() if self._probe is not None else None
        return 0 if parameter is None else int(parameter._version) + 1

    # -- looking ---------------------------------------------------------------------------------------------
    def _find(self) -> None:
        from torch import nn
        from torch.jit import ScriptModule
        from torch.optim import Optimizer

        modules, optimizers = _alive(nn.Module, Optimizer)
        hooked = [it for it in optimizers if getattr(getattr(type(it), "step", None), "hooked", False)]
        trained = {id(p) for it in hooked for group in it.__dict__.get("param_groups", ()) for p in group["params"]}
        parts = {id(part) for it in modules for part in (it.__dict__.get("_modules") or {}).values()}
        tops = [it for it in modules if id(it) not in parts and not isinstance(it, ScriptModule)]
        found, others = [], []
        for top in tops:
            parameters = [id(p) for p in _parameters(top)]
            if trained.intersection(parameters):
                found.append(top)
            elif parameters and not type(top).__module__.startswith("torch.nn.modules"):
                others.append(top)
        self.optimizers = frozenset(map(id, hooked))
        self.trained = frozenset(map(id, found))
        for model in found + others[:OTHERS]:
            self._watch(model)
        self._choose_probe(found, trained)

    def _watch(self, model: Any) -> None:
        key = id(model)
        if key not in self.watched:
            watched = self.watched
            watched[key] = weakref.ref(model, lambda _: watched.pop(key, None))
            self.watch(type(model))

    def _choose_probe(self, found: list[Any], trained: set[int]) -> None:
        for model in found:
            for parameter in _parameters(model):
                if id(parameter) in trained or not trained:
                    self._probe = weakref.ref(parameter)
                    return


def _alive(*bases: type) -> list[list[Any]]:
    """All living instances of each base, without asking any object (some answer ``__class__`` with side effects)."""
    kinds = [_subclasses(base) for base in bases]
    every = frozenset().union(*kinds)
    objects = gc.get_objects()
    found = list(compress(objects, map(every.__contains__, map(type, objects))))
    return [[it for it in found if type(it) in some] for some in kinds]


def _subclasses(base: type) -> set[type]:
    found, pending = {base}, [base]
    while pending:
        new: set[type] = set(type.__subclasses__(pending.pop())) - found
        found |= new
        pending.extend(new)
    return found


def _parameters(module: Any) -> Iterator[Any]:
    """Parameters of a module and its parts, past any method its class may have overridden."""
    pending, seen = [module], {id(module)}
    while pending:
        attributes = pending.pop().__dict__
        for parameter in (attributes.get("_parameters") or {}).values():
            if parameter is not None and parameter.requires_grad:
                yield parameter
        for part in (attributes.get("_modules") or {}).values():
            if part is not None and id(part) not in seen:
                seen.add(id(part))
                pending.append(part)
