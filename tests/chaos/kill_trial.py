"""One trial: an experiment is started, somebody is killed at some moment, and everything must be as it was."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from aiobs import chaos
from aiobs.chaos.identity import ProcessIdentity, all_processes

from .chaos_scene import eventually, line_of, world
from .kill_cases import KillCase
from .kill_scenes import Scene

WHO = ("nobody", "experiment", "injector", "watchdog", "injector and watchdog", "everybody")
HOLD_S = 0.25
ALONE_S = 30.0
"""How long those who are left may take to undo everything."""
_WEIGHTS = (1, 4, 6, 2, 5, 4)
_CREATED, _MODIFIED, _DELETED = 0x100, 0x2, 0x200


@dataclass
class Outcome:
    """What became of a trial, for the log.

    Attributes:
        who: was killed; `moment`: how it was chosen; `phase`: how far the injection was then.
        said: by the experiment at last: held, over, invalid, refused, nothing.
        alone: whether everything was undone without recovery; `clean_s`: after so many seconds.
    """

    case: str
    who: str
    moment: str
    phase: str = ""
    said: str = ""
    alone: bool = False
    clean_s: float = 0.0

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self))


class Zygote:
    """Starts experiments quickly; see kill_experiment.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.kill_experiment"], cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, told: dict[str, Any]) -> ProcessIdentity:
        """An experiment, by its pid and start."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = {key: value for key, value in os.environ.items() if key.startswith("AIOBS_")}
        self._process.stdin.write(json.dumps({**told, "environment": environment}) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        try:
            return ProcessIdentity.of(pid)
        except ProcessLookupError:
            return ProcessIdentity(pid, 0)

    def close(self) -> None:
        """No more."""
        self._process.communicate()


class Writes:
    """Counts what is made and written in a folder's folders, as it happens: each is a step of an injection."""

    def __init__(self, folder: Path) -> None:
        for it in (folder.parent, folder):
            it.mkdir(exist_ok=True, mode=0o700)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folder = folder
        self._known = {self._watch(folder)}
        self.count = 0

    def _watch(self, folder: Path) -> int:
        found: int = self._libc.inotify_add_watch(
            self._descriptor, os.fsencode(folder), _CREATED | _MODIFIED | _DELETED
        )
        return found

    def wait(self, count: int, author: ProcessIdentity) -> None:
        """Until so many have happened, or `author` is gone."""
        while self.count < count:
            if not select.select([self._descriptor], [], [], 0.02)[0]:
                if not author.is_alive():
                    return
                continue
            content, at = os.read(self._descriptor, 1 << 16), 0
            while at < len(content):
                mask = int.from_bytes(content[at + 4 : at + 8], "little")
                length = int.from_bytes(content[at + 12 : at + 16], "little")
                name = content[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                at += 16 + length
                self.count += 1
                if mask & _CREATED and (self._folder / name).is_dir():
                    self._known.add(self._watch(self._folder / name))

    def close(self) -> None:
        """No more."""
        os.close(self._descriptor)


def trial(case: KillCase, scene: Scene, zygote: Zygote, random: Random, place: Path, steps: int) -> tuple[Outcome, int]:
    """One. Raises AssertionError where something is left, or where nobody was killed and it did not act.

    Args:
        steps: how many writes an injection of this case makes, as far as known; returned anew.
    """
    scene.renew()
    aimed = random.random() < 0.6
    # The first four are those of a session that begins; most of what can go wrong comes later.
    first = 5 if random.random() < 0.8 else 1
    count, wait_s = random.randint(first, steps + 1), random.uniform(0, 0.004) if aimed else random.uniform(0, 0.9)
    who = random.choices(WHO, _WEIGHTS)[0]
    outcome = Outcome(str(case), who, f"write {count} + {wait_s * 1e3:.1f} ms" if aimed else f"{wait_s:.3f} s")
    before, state, known = world(), scene.state(), ours(place)
    writes = Writes(place / "sessions")
    says = place.with_name("says")
    says.write_text("")
    experiment = zygote.start(_told(case, scene, says, who))
    try:
        writes.wait(10_000 if who == "nobody" else count if aimed else 1, experiment)
        if who != "nobody":
            time.sleep(wait_s)
            _kill(who, experiment, says, place, outcome)
        assert eventually(lambda: not experiment.is_alive(), 40), "the experiment does not end"
        began = time.monotonic()
        outcome.said = (says.read_text().split() or ["nothing"])[-1 if "over" in says.read_text() else 0]
        if who == "nobody":
            assert outcome.said == "over", f"it did not act: {says.read_text()}"
        both = who in ("injector and watchdog", "everybody")
        outcome.alone = eventually(lambda: not _left(before, state, known, place, scene), 0.0 if both else ALONE_S)
        if not both:
            assert outcome.alone, f"left by those who live: {_left(before, state, known, place, scene)}"
        for it in ours(place) - known:  # both are dead, and so is whatever they had started, in a moment
            assert eventually(lambda it=it: not it.is_alive(), 5), f"{it} still runs"  # type: ignore[misc]
        chaos.recover()
        gone = eventually(lambda: not _left(before, state, known, place, scene), 3)
        assert gone, f"left after recovery: {_left(before, state, known, place, scene)}"
        outcome.clean_s = round(time.monotonic() - began, 3)
        assert chaos.recover() == [], "recovery found something twice"
        left = [str(it.relative_to(place)) for it in (place / "sessions").rglob("*")]
        assert not left, f"files of a session are left: {left}"
    except AssertionError as error:
        raise AssertionError(f"{error}\n{outcome}") from error
    finally:
        experiment.send(signal.SIGKILL)
        writes.close()
    return outcome, max(steps, min(writes.count, 40)) if who == "nobody" else max(steps, min(count, writes.count))


def _told(case: KillCase, scene: Scene, says: Path, who: str) -> dict[str, Any]:
    fault, target, parameters = scene.told(case)
    return {
        "fault": fault, "target": target, "parameters": parameters, "says": str(says),
        "hold_s": HOLD_S, "effect_s": 5.0 if who == "nobody" else 0.5,
    }  # fmt: skip


def _kill(who: str, experiment: ProcessIdentity, says: Path, place: Path, outcome: Outcome) -> None:
    injectors = _children(experiment.pid)
    dogs = [it for injector in injectors for it in _children(injector.pid)]
    hit = {
        "experiment": [experiment], "injector": injectors, "watchdog": dogs, "injector and watchdog": [*dogs, *injectors],
        "everybody": [*dogs, *injectors, experiment],
    }[who]  # fmt: skip
    for process in hit:  # together: none of them may act on the death of the other
        process.send(signal.SIGSTOP)
    outcome.phase = _phase(place, says) if hit else "before it was there"
    for process in hit:
        process.send(signal.SIGKILL)
    for process in hit:
        assert eventually(lambda it=process: not it.is_alive(), 10)  # type: ignore[misc]


def _children(pid: int) -> list[ProcessIdentity]:
    """Children that run the injector's program: the injector of an experiment, the watchdog of an injector."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(it) for it in path.read_text().split()]
            found += [ProcessIdentity.of(it) for it in children if b"aiobs.chaos.injector" in line_of(it)]
        except OSError:
            continue
    return found


def _phase(place: Path, says: Path) -> str:
    lines = []
    for path in (place / "sessions").glob("*/journal.jsonl"):
        try:
            lines += [json.loads(line)["what"] for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        except (OSError, ValueError):
            continue
    undone, acted = lines.count("undone"), lines.count("operation")
    if "held" in says.read_text() and acted:
        return f"undoing, {undone} of {acted}" if undone else "held"
    if undone:
        return f"undoing, {undone} of {acted}"
    if acted:
        return f"injecting, {acted} operations"
    return "planned" if "plan" in lines else "begun" if lines else "starting or over"


def ours(place: Path) -> set[ProcessIdentity]:
    """Processes of this chaos folder: injectors, watchdogs, workers, and tools they have started; no agent."""
    found = set()
    for process in all_processes():
        variables = process.variables()
        marked = {"AIOBS_CHAOS_SESSION", "AIOBS_CHAOS_WORKER"} & variables.keys()
        if marked and variables.get("AIOBS_CHAOS_DIR") == str(place) and b"aiobs.agent" not in line_of(process.pid):
            found.add(process)
    return found


def _left(
    before: dict[str, object], state: dict[str, object], known: set[ProcessIdentity], place: Path, scene: Scene
) -> dict[str, object]:
    """What differs; of processes only those of this test: others may test on the same machine."""
    now = world()
    found: dict[str, object] = {
        key: (before[key], it) for key, it in now.items() if key not in ("stopped", "workers") and before[key] != it
    }
    if scene.pid in now["stopped"]:  # type: ignore[operator]
        found["stopped"] = scene.pid
    if workers := [it for it in ours(place) - known if it.is_alive()]:
        found["workers"] = workers
    return found | scene.left(state)
