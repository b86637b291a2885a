"""``aiobs chaos testbed up 3 -- command``: nodes on this machine, and a command in each of them."""

from __future__ import annotations

import argparse
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from aiobs.chaos.testbed import Testbed
from aiobs.chaos.testbed.node import Node
from aiobs.errors import PlanError


def main(argv: Sequence[str]) -> int:
    """Run the command in every node until all have ended or a signal comes; the worst of their exit codes."""
    made = argparse.ArgumentParser(
        prog="aiobs chaos testbed",
        description="Make nodes of network namespaces and control groups on this machine, run a command in each, and take all down again.",
        epilog="In the command, {node}, {index}, {address} and {nodes} stand for the node's name, its number from 0, its "
        "address and how many there are; the nodes find each other by name (a, b, c, ...).",
    )
    made.add_argument("what", choices=["up"], help="make them")
    made.add_argument("nodes", type=int, help="how many")
    made.add_argument("--name", default="", help="of the testbed, for targets such as node:b@NAME")
    made.add_argument("command", nargs="+", metavar="-- COMMAND", help="what to run in each node")
    options = made.parse_args(list(argv))
    if options.nodes < 1:
        raise PlanError("nodes", options.nodes, "use at least 1")
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: ended.append(number))
    with Testbed(options.nodes, name=options.name) as bed:
        running = [node.start(_filled(options.command, node, options.nodes)) for node in bed.nodes]
        while not ended and any(it.poll() is None for it in running):
            _wait(running)
        codes = [it.returncode for it in running if it.returncode is not None]
    if ended:
        return 128 + ended[0]
    return max((code if code >= 0 else 128 - code for code in codes), default=0)


def _wait(running: list[subprocess.Popen[Any]]) -> None:
    for process in running:
        if process.poll() is None:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                return


def _filled(command: Sequence[str], node: Node, count: int) -> list[str]:
    values = {"{node}": node.name, "{index}": str(node.index), "{address}": node.address, "{nodes}": str(count)}
    found = []
    for word in command:
        for name, value in values.items():
            word = word.replace(name, value)
        found.append(word)
    return found
