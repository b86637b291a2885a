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
PATIENCE = 50
YOUNG: tuple[int | None, ...] = (0, 1)
"""Generations of the garbage collector that hold what was made lately: few objects, looked through in no time."""
ALL: tuple[int | None, ...] = (None,)
OTHERS = 8
"""How many models may be watched that no optimizer trains (teachers, averaged copies)."""


class Models:
    """The process's models and optimizers, as far as known; what has gone is forgotten.

    Attributes:
        watched: the models whose calls count as forward, by id.
        trained: ids of those that own an optimizer's parameters.
        optimizers: the optimizers a step is expected to see, by id.
        step_code: code object in which optimizer hooks run, to tell whether an optimizer step is in progress.
        watch: told of the class of each model found.
        name_service: the service's name is ours to choose.
    """

    def __init__(self) -> None:
        self.watched: dict[int, weakref.ref[Any]] = {}
        self.trained: set[int] = set()
        self.optimizers: dict[int, weakref.ref[Any]] = {}
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
        whether it took long."""
        if reason == "made" and self._find(YOUNG):
            return False
        if reason == "gap":
            self._gaps += 1
            if self.trained or self._gaps & (self._gaps - 1):
                return False
        begun = monotonic_ns()
        if self._looks >= LOOKS and begun < self._not_before_ns:
            return False
        self._looks += 1
        self._find(ALL)
        ended = monotonic_ns()
        self._not_before_ns = ended + PATIENCE * (ended - begun)
        return True

    def wrapped(self, wrapper: Any, model: Any) -> None:
        """`wrapper` (DDP, a compiled module) has been put around `model`, and will be called in its place."""
        if id(model) in self.watched:
            self._watch(wrapper, id(model) in self.trained)

    def first_step(self) -> None:
        """The first training step of the process has ended: it is a trainer."""
        if self.name_service:
            self.name_service = False
            recorder.set_resource({names.SERVICE_NAME: "trainer"})

    def version(self) -> int:
        """A number that changes with the parameters, however they are changed; 0 where there are none known."""
        parameter = self._probe() if self._probe is not None else None
        return 0 if parameter is None or parameter.is_inference() else int(parameter._version) + 1

    # -- looking ---------------------------------------------------------------------------------------------
    def _find(self, generations: tuple[int | None, ...]) -> bool:
        """Look among the objects of these generations; returns whether each optimizer's model was found."""
        from torch import nn
        from torch.jit import ScriptModule
        from torch.optim import Optimizer

        modules, optimizers = _alive(generations, nn.Module, Optimizer)
        hooked = [it for it in optimizers if getattr(getattr(type(it), "step", None), "hooked", False)]
        trained = [{id(p) for group in it.__dict__.get("param_groups", ()) for p in group["params"]} for it in hooked]
        every = set().union(*trained)
        parts = {id(part) for it in modules for part in (it.__dict__.get("_modules") or {}).values()}
        found, others, owned = [], [], set[int]()
        for top in modules:
            if id(top) in parts or isinstance(top, ScriptModule):
                continue
            parameters = {id(p) for p in _parameters(top)}
            if every & parameters:
                found.append(top)
                owned |= parameters
            elif parameters:
                others.append(top)
        if generations == YOUNG and not (hooked and all(some & owned for some in trained)):
            return False
        for it in hooked:
            _remember(self.optimizers, it)
        for model in found:
            self._watch(model, trained=True)
        self._watch_others(others, {type(model) for model in found})
        self._choose_probe(found, every)
        return True

    def _watch_others(self, models: list[Any], kinds: set[type]) -> None:
        """Watch models that nobody trains, unless they are single layers, whose class is all over other models."""
        worth = [it for it in models if type(it) in kinds or not type(it).__module__.startswith("torch.nn.modules")]
        for model in worth[:OTHERS]:
            self._watch(model, trained=False)

    def _watch(self, model: Any, trained: bool) -> None:
        if trained:
            self.trained.add(id(model))
        if id(model) not in self.watched:
            _remember(self.watched, model, self.trained.discard)
            self.watch(type(model))

    def _choose_probe(self, found: list[Any], trained: set[int]) -> None:
        for model in found:
            for parameter in _parameters(model):
                if id(parameter) in trained:
                    self._probe = weakref.ref(parameter)
                    return


def _remember(known: dict[int, weakref.ref[Any]], it: Any, forget: Callable[[int], None] = lambda _key: None) -> None:
    key = id(it)

    def gone(_: object) -> None:
        known.pop(key, None)
        forget(key)

    known[key] = weakref.ref(it, gone)


def _alive(generations: tuple[int | None, ...], *bases: type) -> list[list[Any]]:
    """All living instances of each base, without asking any object (some answer ``__class__`` with side effects)."""
    kinds = [_subclasses(base) for base in bases]
    every = frozenset().union(*kinds)
    found: list[Any] = []
    for generation in generations:
        objects = gc.get_objects(generation)
        found += compress(objects, map(every.__contains__, map(type, objects)))
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
