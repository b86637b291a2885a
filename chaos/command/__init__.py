"""``aiobs chaos <verb>``: a thin face over the library; one module for each verb that is more than a few lines."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from aiobs.chaos.command import watched
from aiobs.chaos.fault import Fault, fault_kinds
from aiobs.chaos.lease import Lease
from aiobs.chaos.place import open_place, read_owner
from aiobs.chaos.plan import Plan, build_plan
from aiobs.chaos.preview import preview
from aiobs.chaos.recovery import recover
from aiobs.chaos.safety import environment_name
from aiobs.chaos.target import target_schemes
from aiobs.chaos.undoing import PROOF_S
from aiobs.errors import FaultError, PlanError
from aiobs.settings import load_settings

RESIDUE, NO_EFFECT = 3, 4
"""Exit codes: something is left behind; the fault was not seen to act."""

_OWN_PARSERS = ("sign", "testbed")
"""Verbs whose module reads its own options."""
_FIELDS = ("duration_s", "effect_s", "pick", "max_units", "within", "seed", "boundary", "experiment", "why", "who")


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    made = argparse.ArgumentParser(prog="aiobs chaos", description="Inject faults that always end.")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="every fault with its parameters, and every kind of target")
    listing.add_argument("--json", action="store_true", help="as JSON")
    for name, text in (
        ("plan", "show exactly what a fault would do, to whom, and what undoes it; touches nothing"),
        ("inject", "inject a fault, hold it, undo it"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("fault", help="its kind, such as process.pause (see aiobs chaos list)")
        verb.add_argument("target", help="to whom, such as pid:4711")
        verb.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="parameters of the fault")
        for field in _FIELDS:
            verb.add_argument(f"--{field.removesuffix('_s').replace('_', '-')}", dest=field, metavar="VALUE")
        verb.add_argument("--json", action="store_true", help="say everything as JSON")
        if name == "inject":
            verb.add_argument("--armed", action="store_true", help="allow it though AIOBS_CHAOS does not say so")
            watched.add_options(verb)
    for name, text in (
        ("sign", "make the baggage entry that marks a request as test traffic"),
        ("testbed", "make nodes on this machine and run a command in each"),
    ):
        own = verbs.add_parser(name, help=text, add_help=False)
        own.add_argument("words", nargs=argparse.REMAINDER, metavar="OPTIONS", help=f"see  aiobs chaos {name} --help")
    for name, text in (
        ("status", "who holds which faults on this host"),
        ("stop", "end every experiment on this host and undo what it holds"),
        ("recover", "undo what dead experiments left behind"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="as JSON")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command line after ``aiobs chaos``."""
    if argv and argv[0] in _OWN_PARSERS:
        module = importlib.import_module(f"{__name__}.{argv[0]}")
        code: int = module.main(argv[1:])
        return code
    options = parser().parse_args(list(argv))
    run = {
        "list": _list, "plan": _plan, "inject": _inject, "status": _status, "stop": _stop, "recover": _recover,
    }[options.verb]  # fmt: skip
    return run(options)


def _list(options: argparse.Namespace) -> int:
    faults, targets = fault_kinds(), target_schemes()
    if options.json:
        print(json.dumps({
            "faults": {kind: _told(it) for kind, it in faults.items()},
            "targets": {name: {"example": f"{name}:{it.example}", "text": _first(it)} for name, it in targets.items()},
        }, indent=2))  # fmt: skip
        return 0
    width = max(map(len, [*faults, *targets]))
    for kind, it in faults.items():
        print(f"{kind:<{width}}  {_first(it)}{'  [root]' if it.root else ''}")
        for name, value in _told(it)["parameters"].items():
            print(f"{'':<{width}}    {name}={value}")
    print("\ntargets")
    for name, target in targets.items():
        print(f"{name:<{width}}  {_first(target)}  ({name}:{target.example})")
    return 0


def _first(it: type) -> str:
    return " ".join((it.__doc__ or "").strip().split("\n\n")[0].split())


def _told(it: type[Fault]) -> dict[str, Any]:
    from dataclasses import MISSING, fields

    parameters = {field.name: "(needed)" if field.default is MISSING else field.default for field in fields(it)}
    return {
        "text": _first(it), "parameters": parameters, "needs_root": it.root, "takes": list(it.takes),
        "certifies": it.certifies, "does_not_certify": it.limits,
    }  # fmt: skip


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that a command line describes. Raises PlanError."""
    parameters = {}
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not equals:
            raise PlanError("parameters", text, "write NAME=VALUE")
        parameters[name] = value
    given = {name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None}
    return build_plan({"fault": options.fault, "target": options.target, "parameters": parameters, **given})


def _plan(options: argparse.Namespace) -> int:
    found = preview(plan_of(options), load_settings())
    if options.json:
        print(json.dumps(found.to_data(), indent=2))
    else:
        print(found, end="")
    return 2 if found.missing else 0


def _inject(options: argparse.Namespace) -> int:
    plan = plan_of(options)
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: ended.append(number))
    say = _say_json if options.json else _say
    with watched.watching(options, say) as watch:
        try:
            with Lease(armed=options.armed, who=f"aiobs chaos inject ({plan.who})", watch=watch) as lease:
                if watch is not None:
                    watched.look_on(watched.baseline_s(options, watch, plan), lambda: ended or watch.why)
                if ended:
                    return 128 + ended[0]
                injection = lease.inject(plan)
                say("effective", injection.effective_ns, injection.evidence)
                while not injection.wait(0.05) and not ended:
                    continue
                injection.undo()
                say("undone", injection.undone_ns, [injection.because])
                if watch is not None and not watch.why:
                    watched.look_on(watched.recovery_s(options, watch, plan), lambda: ended)
        except FaultError as error:
            print(f"aiobs: {error}", file=sys.stderr)
            return RESIDUE if error.residue else NO_EFFECT
    if ended:
        return 128 + ended[0]
    return watched.verdict_on(watch, plan, options.json) if watch is not None else 0


def _say(what: str, at_ns: int, lines: list[str]) -> None:
    moment = time.strftime("%H:%M:%S", time.localtime(at_ns / 1e9)) + f".{at_ns // 1_000_000 % 1000:03d}"
    print(f"{moment}  {what}: {'; '.join(lines) or 'nothing to prove'}", flush=True)


def _say_json(what: str, at_ns: int, lines: list[str]) -> None:
    print(json.dumps({"is": what, "at": at_ns, "lines": lines}), flush=True)


def _sessions() -> list[dict[str, Any]]:
    from aiobs.chaos.journal import read_journal

    found = []
    for session in open_place(load_settings()).sessions():
        owner, account = read_owner(session), read_journal(session)
        alive = owner is not None and owner.process().is_alive()
        standing = {it.injection for it in account.standing}
        found.append({
            "session": session.name, "owner": str(owner) if owner else "unknown", "alive": alive,
            "since": owner.since if owner else 0,
            "held": [
                {"id": key, "fault": it["fault"], "target": it["target"], "why": it["why"]}
                for key, it in account.plans.items() if key in standing
            ],
            "operations": [it.operation.describe() for it in account.standing],
        })  # fmt: skip
    return found


def _status(options: argparse.Namespace) -> int:
    settings = load_settings()
    place = open_place(settings)
    sessions = _sessions()
    if options.json:
        print(json.dumps({
            "folder": str(place.path), "environment": environment_name(settings), "armed": settings.chaos == "armed",
            "stopped": place.stop_file.exists(), "sessions": sessions,
        }, indent=2))  # fmt: skip
        return 0
    print(
        f"environment {environment_name(settings) or '(not said)'}, {'armed' if settings.chaos else 'not armed'}",
        end="",
    )
    print(f", STOPPED by {place.stop_file}" if place.stop_file.exists() else "")
    if not sessions:
        print("no experiment holds anything")
    for it in sessions:
        print(f"{it['owner']}{'' if it['alive'] else '  DEAD: run  aiobs chaos recover'}")
        for held in it["held"]:
            print(f"  {held['fault']} on {held['target']}" + (f"  ({held['why']})" if held["why"] else ""))
        for line in it["operations"]:
            print(f"    {line}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    place = open_place(load_settings())
    stopped = []
    for session in place.sessions():
        owner = read_owner(session)
        if owner is None or not owner.process().send(signal.SIGTERM):
            continue
        deadline = time.monotonic() + 2 * PROOF_S
        while owner.process().is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        stopped.append(str(owner))
    residue = [line for it in recover() for line in it.residue]
    if options.json:
        print(json.dumps({"stopped": stopped, "residue": residue}, indent=2))
    else:
        print("\n".join(f"ended {it}" for it in stopped) or "no experiment was running")
        print("".join(f"LEFT BEHIND: {line}\n" for line in residue), end="")
    return RESIDUE if residue else 0


def _recover(options: argparse.Namespace) -> int:
    found = recover()
    residue = [line for it in found for line in it.residue]
    if options.json:
        print(
            json.dumps([{"session": it.session, "undone": it.undone, "residue": it.residue} for it in found], indent=2)
        )
    else:
        for it in found:
            print("".join(f"undone: {line}\n" for line in it.undone), end="")
        print("".join(f"LEFT BEHIND: {line}\n" for line in residue), end="")
        if not found:
            print("nothing was left behind")
    return RESIDUE if residue else 0
