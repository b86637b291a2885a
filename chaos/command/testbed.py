"""``aiobs chaos testbed``: nodes on this machine, programs in them, and how they are."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiobs.chaos.identity import ProcessIdentity
from aiobs.chaos.journal import read_journal
from aiobs.chaos.namespaces import Namespace
from aiobs.chaos.operations.node import Again
from aiobs.chaos.place import Place, open_place
from aiobs.chaos.testbed import Testbed
from aiobs.chaos.testbed.bed import START_S, find_bed
from aiobs.chaos.testbed.commands import code_of, commands, successor
from aiobs.chaos.testbed.node import Node
from aiobs.chaos.testbed.record import BedRecord, living_beds
from aiobs.chaos.testbed.teardown import PATIENCE_S
from aiobs.errors import PlanError
from aiobs.settings import load_settings

DETACHED_S = 3600.0
"""How long a testbed that nobody waits for stays up, where nothing is said."""


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    made = argparse.ArgumentParser(
        prog="aiobs chaos testbed", description="Nodes of network namespaces and control groups on this machine."
    )
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser(
        "up", usage="%(prog)s [options] NODES [-- COMMAND ...]", help="make nodes, run a command in each, take all down again",
        description="Make nodes, and run a command in each until all have ended; without a command, wait for Ctrl-C or "
        "aiobs chaos testbed down. Then all is taken down again.",
        epilog="In the command, {node}, {index}, {address} and {nodes} stand for the node's name, its number from 0, its "
        "address and how many there are; the nodes find each other by name (a, b, c, ...).",
    )  # fmt: skip
    up.add_argument("nodes", help="how many, or their names with commas between")
    up.add_argument("--name", default="", help="of the testbed, for targets such as node:b@NAME")
    up.add_argument("--detach", action="store_true", help="return once they are there; they stay up without us")
    up.add_argument(
        "--lasts", type=float, default=0.0, metavar="S",
        help=f"take them down after so many seconds (with --detach: {DETACHED_S:g})",
    )  # fmt: skip
    run = verbs.add_parser(
        "exec", usage="%(prog)s NODE[@TESTBED] -- COMMAND ...", help="run a command in one node; its exit code is ours"
    )
    run.add_argument("node", metavar="NODE[@TESTBED]", help="which one")
    for name, text in (("ps", "what runs in the nodes"), ("status", "which testbeds are up, and how their nodes are")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("testbed", nargs="?", default="", help="its name; by default all")
        verb.add_argument("--json", action="store_true", help="as JSON")
    down = verbs.add_parser("down", help="take a testbed down, whoever made it")
    down.add_argument("testbed", nargs="?", default="", help="its name, where there are several")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command line after ``aiobs chaos testbed``."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:at])
    options.command = words[at + 1 :]
    run = {"up": _up, "exec": _exec, "ps": _ps, "status": _status, "down": _down}[options.verb]
    return run(options)


def _place() -> Place:
    return open_place(load_settings())


def _up(options: argparse.Namespace) -> int:
    if options.lasts < 0:
        raise PlanError("lasts", options.lasts, "use seconds above 0")
    if options.detach:
        return _detach(options)
    nodes: int | list[str] = int(options.nodes) if options.nodes.isdigit() else options.nodes.split(",")
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: ended.append(number))
    until = time.monotonic() + (options.lasts or float("inf"))
    codes: list[int] = []
    place = _place()
    with Testbed(nodes, name=options.name) as bed:
        print(f"testbed {bed.name}: {', '.join(f'{it.name} {it.address}' for it in bed.nodes)}", file=sys.stderr)
        started = [(it, it.start(_filled(options.command, it, len(bed.nodes)))) for it in bed.nodes if options.command]
        while not ended and bed.is_up and time.monotonic() < until:
            found = [_code(place, node, process) for node, process in started]
            codes = [it for it in found if it is not None]
            if started and len(codes) == len(started):
                break
            time.sleep(0.05)
    if ended:
        return 128 + ended[0]
    return max(codes, default=0)


def _code(place: Place, node: Node, process: subprocess.Popen[Any]) -> int | None:
    """Exit code of a command, or of what was started instead of it when its node came back; None: it runs, or will."""
    code = process.poll()
    if code is None:
        return None
    waits = _comes_back(place, node)
    last = next((it for it in commands(node.bed, node.name) if it.pid == process.pid), None)
    while last is not None and (found := successor(node.bed, node.name, last.key)) is not None:
        last = found
    if last is not None and last.instead_of:
        if last.process().is_alive():
            return None
        code = code_of(node.bed, last)
    if code is None or code == -signal.SIGKILL:
        return None if waits else 128 + signal.SIGKILL
    return code if code >= 0 else 128 - code


def _comes_back(place: Place, node: Node) -> bool:
    """Whether a fault in force will start again what ran in the node."""
    standing = (it.operation for session in place.sessions() for it in read_journal(session).standing)
    return any(isinstance(it, Again) and (it.folder, it.node) == (node.bed.folder, node.name) for it in standing)


def _filled(command: Sequence[str], node: Node, count: int) -> list[str]:
    values = {"{node}": node.name, "{index}": str(node.index), "{address}": node.address, "{nodes}": str(count)}
    found = []
    for word in command:
        for name, value in values.items():
            word = word.replace(name, value)
        found.append(word)
    return found


def _detach(options: argparse.Namespace) -> int:
    place = _place()
    name = options.name or f"bed-{uuid.uuid4().hex[:6]}"
    if any(it.name == name for it in living_beds(place)):
        raise PlanError("testbed", name, "a testbed of that name is up; choose another name")
    words = ["up", options.nodes, "--name", name, "--lasts", f"{options.lasts or DETACHED_S:g}"]
    words += ["--", *options.command] if options.command else []
    with open(place.path / f"testbed-{name}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "aiobs.cli", "chaos", "testbed", *words], stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        found = [it for it in living_beds(place) if it.name == name]
        if found:
            print(f"testbed {name}: {', '.join(f'{it.name} {it.address}' for it in found[0].nodes)}")
            return 0
        time.sleep(0.02)
    process.terminate()
    print(Path(log.name).read_text("utf-8", "replace").strip(), file=sys.stderr)
    return process.wait() or 1


def _exec(options: argparse.Namespace) -> int:
    if not options.command:
        raise PlanError("command", "", "say what to run, as in  aiobs chaos testbed exec b -- hostname")
    name, _, bed_name = options.node.partition("@")
    bed = find_bed(_place(), bed_name)
    record = bed.node(name)
    if record is None:
        raise PlanError("node", options.node, f"testbed {bed.name} has {', '.join(it.name for it in bed.nodes)}")
    # In our session and process group: it has the terminal, and Ctrl-C reaches it by itself.
    process = Node(bed, record).start(options.command, start_new_session=False)

    def pass_on(number: int, _: object) -> None:
        if number != signal.SIGINT:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _chosen(options: argparse.Namespace) -> list[BedRecord]:
    place = _place()
    return [find_bed(place, options.testbed)] if options.testbed else list(living_beds(place))


def _ps(options: argparse.Namespace) -> int:
    found = [
        {"testbed": bed.name, "node": it.name, "pid": process.pid, "state": process.state(), "command": _line(process)}
        for bed in _chosen(options) for it in bed.nodes for process in Node(bed, it).processes()
    ]  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print("TESTBED  NODE  PID      STATE  COMMAND")
    for it in found:
        print(f"{it['testbed']:<8} {it['node']:<5} {it['pid']:<8} {it['state']:<6} {it['command']}")
    return 0


def _line(process: ProcessIdentity) -> str:
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    line = " ".join(words).strip()
    return line if len(line) < 100 else f"{line[:97]}..."


def _status(options: argparse.Namespace) -> int:
    found: list[dict[str, Any]] = [
        {
            "testbed": bed.name, "owner": bed.owner, "root": not bed.own_user,
            "nodes": [
                {
                    "node": it.name, "address": it.address, "link": _link(Node(bed, it)), "cgroup": it.group,
                    "processes": len(Node(bed, it).processes()),
                }
                for it in bed.nodes
            ],
        }
        for bed in _chosen(options)
    ]  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for bed in found:
        print(f"{bed['testbed']}  (made by pid {bed['owner']}{'' if bed['root'] else ', without root'})")
        for it in bed["nodes"]:
            print(f"  {it['node']:<12} {it['address']:<15} link {it['link']:<5} {it['processes']} processes")
    if not found:
        print("no testbed is up; make one with  aiobs chaos testbed up 3")
    return 0


def _link(node: Node) -> str:
    (found,) = Namespace.of(node.namespace).ask("ip", "-j", "link", "show", "dev", node.interface)
    return "up" if "UP" in found["flags"] else "down"


def _down(options: argparse.Namespace) -> int:
    bed = find_bed(_place(), options.testbed)
    holder = ProcessIdentity.of(bed.switch.keeps().parent())
    holder.send(signal.SIGTERM)
    deadline = time.monotonic() + START_S + PATIENCE_S
    while holder.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    if Path(bed.folder).exists():
        print(f"aiobs: something of testbed {bed.name} is left; see  aiobs chaos recover", file=sys.stderr)
        return 3
    print(f"testbed {bed.name} is down")
    return 0
