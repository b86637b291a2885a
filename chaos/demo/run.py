"""The order of things: a scene, its faults in turn, the verdicts, and whether they are as they should be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from aiobs.chaos.demo.ending import Ending
from aiobs.chaos.demo.scenarios import WELL_S, Act, Form, Scenario, calm_s, planned, write_spec
from aiobs.chaos.demo.scene import Scene
from aiobs.chaos.demo.screen import Screen
from aiobs.chaos.demo.verdicts import Judged, judged
from aiobs.chaos.lease import Injection, Lease
from aiobs.errors import FaultError, PlanError

TICK_S, LATE_S, BACK_S = 0.25, 2.0, 90.0
"""Between two looks; telemetry is so late; patience until what was hit works again."""
_USUAL_BACK_S = 6.0


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for.

    Attributes:
        folder: the scenarios' run folders go below it.
        length: windows so many times as long as usual.
        nodes: None: where a testbed can be had; false: without.
        jaeger: address of its user interface, "" for none.
    """

    folder: Path
    scenarios: tuple[Scenario, ...]
    length: float
    seed: int
    nodes: bool | None
    rate: float
    jaeger: str


@dataclass(frozen=True)
class Played:
    """A scenario that is over."""

    scenario: Scenario
    folder: Path
    verdicts: list[Judged]
    forms: list[tuple[Act, Form, list[str]]]
    """How each act was done, and why not in a stronger form."""
    without_nodes: str


def length_of(scenario: Scenario, length: float) -> float:
    """About how long a scenario takes once its scene is up, seconds."""
    backs = len(scenario.acts) if scenario.bulkheads else 1
    return len(scenario.acts) * (calm_s(length) + scenario.hold_s(length)) + backs * _USUAL_BACK_S + WELL_S + LATE_S


def play(scenario: Scenario, wishes: Wishes, screen: Screen, ending: Ending) -> Played:
    """Play one scenario, and judge it.

    Raises:
        ArmError: faults are not allowed here, or a fault is not possible in any form.
        FaultError: the scene did not come up, a fault did not act or left something, or nothing could be judged.
    """
    folder = wishes.folder / scenario.name
    screen.head(f"{scenario.name.capitalize()}: {scenario.text}")
    screen.stage("setting up: three replicas behind a router, load, three ranks that train together", 0)
    scene = Scene(
        folder, rate=wishes.rate, seed=wishes.seed, bulkheads=scenario.bulkheads,
        nodes=wishes.nodes if scenario.bulkheads else False, waiting=screen.figures,
    )  # fmt: skip
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(_put_back, before)
        stack.callback(ending.undisturbed, scene.close)
        os.environ.update(scene.environment)
        lease = Lease(who="aiobs demo")  # first of all: it is refused where faults are, or where another holds the host
        stack.callback(ending.undisturbed, lease.close)
        scene.start()
        write_spec(folder / "spec.yaml", wishes.length)
        where = f"each machine a node of testbed {scene.bed}" if scene.bed else "all in the network of this machine"
        screen.say(f"everything works: {where}; run folder {folder}")
        list(scene.events())
        forms, injections = [], []
        for place, act in enumerate(scenario.acts):
            _calm(screen, scene, calm_s(wishes.length), f"baseline before {act.name}")
            screen.stage(f"{act.name}: {act.text}", scenario.hold_s(wishes.length))
            injection, form, refused = _inject(screen, scene, lease, act, scenario.hold_s(wishes.length), wishes.seed)
            forms.append((act, form, refused))
            injections.append(injection)
            screen.say(
                f"  {form.fault} on {form.target} was seen to act: {shorten('; '.join(injection.evidence), 150)}",
                "yellow",
            )
            _watch(screen, scene, lambda it=injection: not it.wait(TICK_S))  # type: ignore[misc]
            screen.say(f"  {form.fault} is over, and nothing is left of it")
            if scenario.bulkheads or place + 1 < len(scenario.acts):
                _come_back(screen, scene, act)
        _calm(screen, scene, WELL_S + LATE_S if scenario.bulkheads else LATE_S, "is it well, and does it stay well?")
    screen.stage("judging", 0)
    acts = [(act, it.plan.id) for act, it in zip(scenario.acts, injections, strict=True)]
    return Played(scenario, folder, judged(folder, acts, wishes.jaeger), forms, scene.without_nodes)


def _inject(
    screen: Screen, scene: Scene, lease: Lease, act: Act, hold_s: float, seed: int
) -> tuple[Injection, Form, list[str]]:
    """Inject the first form that is possible; again where a process of the target had just ended: nothing was touched."""
    for tries_left in (2, 1, 0):
        plan, form, refused = planned(act, scene, hold_s, seed)
        try:
            injection = lease.inject(plan)
        except PlanError as error:
            if not tries_left:
                raise
            screen.say(f"  not injected, and nothing touched: {error}; once more", "yellow")
        else:
            if form.lacks:
                screen.say(f"  {'; '.join(refused)}: {form.fault} on {form.target} stands in for it", "yellow")
            return injection, form, refused
    raise AssertionError


def _put_back(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _calm(screen: Screen, scene: Scene, seconds: float, title: str) -> None:
    until = time.monotonic() + seconds
    screen.stage(title, seconds)

    def more() -> bool:
        time.sleep(TICK_S)
        return time.monotonic() < until

    _watch(screen, scene, more)


def _come_back(screen: Screen, scene: Scene, act: Act) -> None:
    until = time.monotonic() + BACK_S
    screen.stage(f"waiting until {act.boundary} works again", _USUAL_BACK_S)

    def more() -> bool:
        time.sleep(TICK_S)
        return bool(scene.silent()) and time.monotonic() < until

    _watch(screen, scene, more)
    if silent := scene.silent():
        logs = ", ".join(str(scene.log(name)) for name in silent)
        raise FaultError("undo", f"{', '.join(silent)} did not come back within {BACK_S:g} s of the undo; see {logs}")


def _watch(screen: Screen, scene: Scene, more: Callable[[], bool]) -> None:
    """Show what is happening as long as there is `more`."""
    while True:
        screen.figures(scene.rates())
        for told in scene.events():
            screen.event(told)
        if not more():
            return
