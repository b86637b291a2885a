"""Runs the experiments of this folder one after the other on one scene, judges each, and says what was expected.

    python examples/chaos/catalogue.py RUN                                # all of them, with bulkheads
    python examples/chaos/catalogue.py RUN --no-bulkheads replica_hangs   # these, without
    python examples/chaos/catalogue.py --list

The exit code is 0 where every verdict is the expected one. RUN is a new run folder; journals and verdicts stay there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scene

from aiobs.chaos.containment.judging import judge_faults
from aiobs.chaos.containment.model import Verdict
from aiobs.chaos.containment.run_folder import RunFolder
from aiobs.chaos.containment.spec import read_spec
from aiobs.chaos.demo.scene import Scene

HERE = Path(__file__).parent
WITH, WITHOUT = "with bulkheads", "without"
UNMEASURED = "unmeasured"
"""In place of an expected verdict: any will do."""
WELL_S = 60.0
"""Patience until everybody works again after a fault."""


@dataclass
class Outcome:
    """What became of one experiment.

    Attributes:
        expected: the verdict that the experiment itself names.
        verdict: what was found; None where it could not be run or judged, and `why` says so.
        skipped: it was not run, for what it needs is not there.
    """

    name: str
    expected: str
    verdict: Verdict | None = None
    why: str = ""
    skipped: bool = False

    @property
    def as_expected(self) -> bool:
        """Whether it came out as it should."""
        return self.skipped or (self.verdict is not None and self.expected in (self.verdict.kind, UNMEASURED))

    def __str__(self) -> str:
        if self.verdict is None:
            return f"{self.name:24} {'skipped' if self.skipped else 'failed':14} {self.why}"
        odd = "" if self.as_expected else f" (expected: {self.expected})"
        return f"{self.name:24} {self.verdict.kind + odd:14} {self.verdict.sentence}"


def names() -> list[str]:
    """Of all experiments."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def told_by(name: str) -> dict[str, Any]:
    """What an experiment says for us: ``spec``, ``expected``, ``needs``, and ``least_s``, below which its baseline
    and its fault cannot be judged: whoever waits for a replica that says nothing comes late in a bunch, and a bunch counts little more than one."""
    document = json.loads((HERE / f"{name}.json").read_text("utf-8"))
    return next(it for it in document["extensions"] if it["name"] == "aiobs")


def lacking(name: str) -> str:
    """What is not there of what it needs, "" where all is."""
    there = {"root": os.geteuid() == 0, "nft": shutil.which("nft") is not None, "memory controller": _limits_memory()}
    return ", ".join(need for need in told_by(name)["needs"] if not there[need])


def _limits_memory() -> bool:
    return Path("/sys/fs/cgroup/memory").is_dir() or "memory" in _text("/sys/fs/cgroup/cgroup.controllers")


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def run(
    folder: Path,
    chosen: Sequence[str],
    *,
    bulkheads: bool = True,
    rate: float = scene.RATE,
    before_s: float = 8.0,
    fault_s: float = 8.0,
) -> list[Outcome]:
    """Run and judge experiments; what comes before one fault is what came after the one before it.

    Args:
        rate: requests a second.
        before_s: how long everybody has to be well before a fault. fault_s: how long it is held, but for those
            that need longer.
    """
    outcomes = []
    with scene.running(folder, bulkheads=bulkheads, rate=rate) as (stage, variables):
        environment = {**os.environ, **variables, "AFTER_S": "0"}
        for name in chosen:
            it = Outcome(name, told_by(name)["expected"][WITH if bulkheads else WITHOUT])
            outcomes.append(it)
            it.why = lacking(name)
            it.skipped = bool(it.why)
            if it.skipped:
                it.why = f"needs {it.why}"
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            least_s = told_by(name).get("least_s", 0)
            lengths = {"BEFORE_S": str(max(before_s, least_s)), "FAULT_S": str(max(fault_s, least_s))}
            it.why = _run_one(folder, name, {**environment, **lengths}) or _until_well(stage)
        time.sleep(before_s)
    _judge(folder, [it for it in outcomes if not it.why])
    return outcomes


def _journal(folder: Path, name: str) -> Path:
    return folder / "journals" / f"{name}.json"


def _run_one(folder: Path, name: str, environment: dict[str, str]) -> str:
    journal = _journal(folder, name)
    journal.parent.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "chaostoolkit", "--no-version-check", "--log-file", str(journal.with_suffix(".log")), "run",
        "--journal-path", str(journal), str(HERE / f"{name}.json"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not journal.exists():
        return f"chaos run: exit code {done.returncode}; see {journal.with_suffix('.log')}"
    # An action that fails does not make a run of Chaos Toolkit fail.
    for step in json.loads(journal.read_text("utf-8"))["run"]:
        if step["status"] != "succeeded" or step.get("tolerance_met") is False:
            said = (step.get("exception") or ["it is not so"])[-1].strip()
            return f"{step['activity']['name']}: {said}"
    return f"chaos run: exit code {done.returncode}; see {journal.with_suffix('.log')}" if done.returncode else ""


def _until_well(stage: Scene) -> str:
    deadline = time.monotonic() + WELL_S
    while silent := stage.silent():
        if time.monotonic() > deadline:
            return f"{', '.join(silent)} did not come back within {WELL_S:g} s"
        time.sleep(0.2)
    return ""


def _judge(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Find each verdict; the folder is read once for each spec."""
    for spec in sorted({told_by(it.name)["spec"] for it in outcomes}):
        source = RunFolder(folder, read_spec(HERE / spec))
        try:
            for it in outcomes:
                if told_by(it.name)["spec"] == spec:
                    (injection,) = json.loads(_journal(folder, it.name).read_text("utf-8"))["aiobs"]["injections"]
                    mine = [fault for fault in source.faults() if fault.id == injection["injection"]]
                    if mine:
                        (it.verdict,) = judge_faults(source, mine)
                    else:
                        it.why = f"the fault {injection['injection']} is not on the record"
        finally:
            source.close()


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="RUN", help="run folder, a new one")
    parser.add_argument("name", nargs="*", help="of an experiment (default: all)")
    parser.add_argument("--no-bulkheads", action="store_true", help="on a service and a job without walls")
    parser.add_argument("--seconds", type=float, default=10, help="before each fault, and of each fault (default 10)")
    parser.add_argument("--rate", type=float, default=scene.RATE, help=f"requests a second (default {scene.RATE:g})")
    parser.add_argument("--list", action="store_true", help="what there is, and what is expected of it")
    chosen = parser.parse_intermixed_args()
    if chosen.list:
        for name in names():
            told = told_by(name)
            needs = f"  needs {', '.join(told['needs'])}" if told["needs"] else ""
            print(f"{name:24} {told['expected'][WITH]:12} {WITHOUT}: {told['expected'][WITHOUT]:12}{needs}")
        return 0
    if chosen.folder is None:
        parser.error("name a run folder, one that is not there yet")
    if unknown := set(chosen.name) - set(names()):
        parser.error(f"{', '.join(sorted(unknown))}: no such experiment; there are {', '.join(names())}")
    outcomes = run(
        chosen.folder.absolute(), chosen.name or names(), bulkheads=not chosen.no_bulkheads, rate=chosen.rate, before_s=chosen.seconds,
        fault_s=chosen.seconds,
    )  # fmt: skip
    print(*outcomes, sep="\n")
    return 0 if all(it.as_expected for it in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
