"""What the demo says before, after each scenario and at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from urllib.parse import urlsplit

from rich.text import Text

from aiobs.chaos.demo.run import Played, Wishes, length_of
from aiobs.chaos.demo.scenarios import Act, Form, Scenario, calm_s
from aiobs.chaos.demo.screen import Screen
from aiobs.chaos.demo.verdicts import Judged, words
from aiobs.chaos.fault import fault_kinds
from aiobs.errors import PlanError

OTLP_PORT = 4318
_SHOWN = {"leaked": "breached", "not_recovered": "not recovered"}
_REMEDY = {
    "inconclusive": "measure longer: aiobs demo --longer 2",
    "invalid": "is the machine very busy? look at the logs in {folder}/scene/logs, then run it again",
    "not_recovered": "look at the logs in {folder}/scene/logs: what did not start again in time?",
    "leaked": "the report shows who was hurt and when: {folder}/report.html",
    "contained": "the bulkhead that should be missing is there: look at {folder}/scene/logs",
    "aborted": "somebody ended the fault early: see  aiobs chaos status",
    "residue": "run  aiobs chaos recover, then look at what it names",
}
"""What to do about a verdict that was not expected."""


def greet(screen: Screen, wishes: Wishes) -> None:
    """What will happen."""
    minutes = sum(length_of(it, wishes.length) for it in wishes.scenarios) / 60
    names = " and ".join(it.name for it in wishes.scenarios)
    who = "as root" if os.geteuid() == 0 else "without root"
    screen.say(f"aiobs demo, {who}: {names}, {minutes:.1f} minutes and the setting up; Ctrl-C ends it all")
    if busy := _busy():
        screen.say(
            f"this machine is busy ({busy}): it will take longer, and verdicts may be "
            "inconclusive. Better wait until it is idle",
            "yellow",
        )


def told(screen: Screen, played: Played) -> None:
    """The verdicts of a scenario, once it is over."""
    for it in played.verdicts:
        screen.say(f"{it.act.name}: {shown(it.kind)}. {it.sentence}", "green" if it.as_expected else "bold red")


def closing(screen: Screen, wishes: Wishes, played: Sequence[Played]) -> int:
    """Everything at a glance: verdicts, what they do not certify, where the reports are. Returns the exit code."""
    screen.head("Verdicts")
    rows: list[list[Text | str]] = []
    for scene in played:
        for it in scene.verdicts:
            sign, style = ("✓", "green") if it.as_expected else ("✗", "bold red")
            rows.append([scene.scenario.name, it.act.name, it.act.boundary, _reached(it),
                         Text(shown(it.kind), style=style), shown(it.act.expected), Text(sign, style=style)])  # fmt: skip
    screen.table(("scenario", "fault", "may hurt", "reached", "verdict", "expected", ""), rows)
    screen.head("What these verdicts do not certify")
    for line in dict.fromkeys(line for scene in played for line in _limits(scene)):
        screen.console.print(line, soft_wrap=True)
    screen.head("To look at")
    for scene in played:
        screen.console.print(f"  report       {(scene.folder / 'report.html').as_uri()}", soft_wrap=True)
    for scene in played:
        screen.console.print(f"  once more    aiobs {shlex.join(words(scene.folder))}", soft_wrap=True)
    for scene in played:
        for it in scene.verdicts if wishes.jaeger else ():
            link = f"{wishes.jaeger.rstrip('/')}/trace/{it.trace}"
            screen.console.print(f"  {it.act.name:<12} {link}", soft_wrap=True)
    return _ended(screen, played)


def _limits(scene: Played) -> list[str]:
    found = [f"  there were no nodes: {scene.without_nodes}"] if scene.without_nodes else []
    for act, form, refused in scene.forms:
        found.append(f"  {act.name} ({form.fault}): {form.limits}")
        found += [f"    not possible here: {line}" for line in (refused if form.lacks else ())]
    return found


def _ended(screen: Screen, played: Sequence[Played]) -> int:
    wrong = [(scene, it) for scene in played for it in scene.verdicts if not it.as_expected]
    screen.console.print()
    if not wrong:
        screen.console.print("Every failure stayed, or did not stay, where it should.", style="bold green")
        return 0
    for scene, it in wrong:
        remedy = _REMEDY[it.kind].format(folder=scene.folder)
        expected = f"expected {shown(it.act.expected)} ({it.act.because})"
        screen.console.print(f"Not as expected: {scene.scenario.name}, {it.act.name}: {shown(it.kind)}, {expected}.", style="bold red", soft_wrap=True)  # fmt: skip
        screen.console.print(f"  {it.sentence}", soft_wrap=True)
        screen.console.print(f"  What to do: {remedy}", soft_wrap=True)
    if busy := _busy():
        screen.console.print(
            f"This machine is busy ({busy}): that alone can do it. Wait until it is idle.", soft_wrap=True
        )
    return 1


def _busy() -> str:
    """The load where it is more than the processors can do, else ""."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    return f"load {load:.0f} on {processors} processors" if load > 1.5 * processors else ""


def shown(kind: str) -> str:
    """A verdict as people say it."""
    return _SHOWN.get(kind, kind)


def _reached(it: Judged) -> str:
    return ", ".join(it.strata) if it.kind == "leaked" else ""


def dry_run(scenarios: Sequence[Scenario], length: float) -> None:
    """Print the plan of every step."""
    for scenario in scenarios:
        print(f"{scenario.name}: {scenario.text} (about {length_of(scenario, length):.0f} s)")  # noqa: T201 - what was asked for
        print("  set up    router, three replicas and load; store and three ranks; all into one run folder")  # noqa: T201
        for act in scenario.acts:
            for line in _steps(scenario, act, length):
                print(f"  {line}")  # noqa: T201
        print("  judge     aiobs verdict FOLDER --spec FOLDER/spec.yaml, and the report")  # noqa: T201


def _steps(scenario: Scenario, act: Act, length: float) -> list[str]:
    found = [
        f"baseline  {calm_s(length):g} s of ordinary work",
        f"fault     {act.name}: {act.text}; held {scenario.hold_s(length):g} s, then undone; expected: {shown(act.expected)}",
        f"          it may hurt {act.boundary}, and nobody else",
    ]
    for place, form in enumerate(act.forms):
        found.append(f"          {'by' if not place else 'else by'} {_form(form)}")
        found.append(f"             does not certify: {form.limits}")
    return found


def _form(form: Form) -> str:
    root = ", needs root" if fault_kinds()[form.fault].root else ""
    nodes = ", needs a testbed" if form.needs_nodes else ""
    return f"{form.fault} on {form.target}{nodes}{root}"


def jaeger_endpoint(url: str | None) -> str:
    """Where that Jaeger takes telemetry: the usual port of its host; "" without one.

    Raises:
        PlanError: it is no web address.
    """
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError("--jaeger", url, "name the address of its user interface, such as http://localhost:16686")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{OTLP_PORT}"
