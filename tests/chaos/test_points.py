"""Points in running processes: armed from outside, seen to act, disarmed, ended by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from aiobs import chaos
from aiobs.errors import FaultError, PlanError

from .chaos_scene import eventually, injector_of, watchdogs_of

LOOP = """
import sys, time, threading, asyncio
import aiobs
aiobs.init(service_name="victim", agent="off")

def work():
    return aiobs.point("work", 1.0)

print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    try:
        said = repr(work())
    except BaseException as error:
        said = f"{type(error).__module__}.{type(error).__name__}: {error}"
    print(f"{time.perf_counter() - began:.4f} {said}", flush=True)
"""


class Victim:
    """A process that goes through its point for each line it is sent."""

    def __init__(self, script: str = LOOP, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "AIOBS_RAISE": "1", **environment},
        )  # fmt: skip
        self.hear()

    @property
    def target(self) -> str:
        return f"pid:{self.process.pid}"

    def send(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str = "") -> tuple[float, str]:
        self.send(line)
        seconds, _, said = self.hear().partition(" ")
        return float(seconds), said


@pytest.fixture
def start() -> Iterator[Callable[..., Victim]]:
    started: list[Victim] = []

    def make(script: str = LOOP, **environment: str) -> Victim:
        started.append(Victim(script, **environment))
        return started[-1]

    yield make
    for victim in started:
        victim.process.kill()
        victim.process.communicate()


def armed(fault: str, victim: Victim, **values: object) -> chaos.Injection:
    """Inject while the victim is being sent lines, one at a time, until the fault has been seen."""

    made: list[object] = []

    def inject() -> None:
        try:
            made.append(chaos.inject(fault, victim.target, **values))
        except Exception as error:  # noqa: BLE001 - raised below
            made.append(error)

    thread = Thread(target=inject)
    thread.start()
    while thread.is_alive():
        victim.say()
        time.sleep(0.005)
    (found,) = made
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, chaos.Injection)
    return found


def test_a_latency_has_its_length_and_ends(start: Callable[..., Victim]) -> None:
    victim = start()
    with armed("point.latency", victim, point="work", delay_s=0.1) as injection:
        for _ in range(5):
            seconds, said = victim.say()
            assert 0.1 <= seconds < 0.13
            assert said == "1.0"
    assert "work acted at" in injection.evidence[0]
    assert injection.residue == []
    assert victim.say()[0] < 0.02
    assert not list((Path(os.environ["AIOBS_RUNTIME_DIR"]) / "points").iterdir())


@pytest.mark.parametrize(
    ("fault", "values", "said"),
    [
        ("point.error", {"error": "TimeoutError", "message": 'gone (1), "2"'}, 'builtins.TimeoutError: gone (1), "2"'),
        ("point.error", {}, "aiobs.errors.InjectedError: injected"),
        ("point.error", {"error": "json.JSONDecodeError"}, "json.decoder.JSONDecodeError:"),
        ("point.oom", {}, "1.0"),
        ("point.wrong", {"how": "nan"}, "nan"),
        ("point.arm", {"do": 'return({"a": [1]})'}, "{'a': [1]}"),
        ("point.arm", {"do": "after(1) every(2) gil(1) -> return(7)"}, ""),
    ],
)
def test_what_a_point_does_is_done_and_over(
    start: Callable[..., Victim], fault: str, values: dict[str, object], said: str
) -> None:
    victim = start()
    with armed(fault, victim, point="work", **values):
        assert said in victim.say()[1]
    assert victim.say()[1] == "1.0"


def test_a_hang_ends_with_the_fault(start: Callable[..., Victim]) -> None:
    victim = start()
    victim.send()
    victim.hear()
    lease = chaos.Lease()
    plan = chaos.build_plan({"fault": "point.hang", "target": victim.target, "parameters": {"point": "work"}})

    def reach() -> None:
        orders = Path(os.environ["AIOBS_RUNTIME_DIR"]) / "points"
        if eventually(lambda: orders.is_dir() and list(orders.glob("*.json")), 30):
            victim.send()

    thread = Thread(target=reach)
    thread.start()
    injection = lease.inject(plan)
    thread.join()
    time.sleep(0.3)
    began = time.monotonic()
    injection.undo()
    assert victim.hear().endswith("1.0")
    assert time.monotonic() - began < 2
    lease.close()


def test_a_point_never_reached_is_no_effect_and_is_disarmed(start: Callable[..., Victim]) -> None:
    victim = start()
    with pytest.raises(FaultError, match=r"not seen to act.*elsewhere"):
        armed("point.latency", victim, point="elsewhere", effect_s=0.3)
    assert victim.say()[0] < 0.02


HELD = """
import sys
from aiobs import chaos
with chaos.inject("point.latency", sys.argv[2], point="work", delay_s=0.05, duration_s=1.5):
    print("held", flush=True)
    import time
    time.sleep(60)
"""


@pytest.mark.parametrize("everything", [False, True])
def test_it_ends_though_whoever_injected_is_dead(
    start: Callable[..., Victim], chaos_place: Path, everything: bool
) -> None:
    script = LOOP.replace(
        "for line in sys.stdin:",
        "threading.Thread(target=sys.stdin.read, daemon=True).start()\nwhile True:\n    time.sleep(0.01)",
    )
    victim = start(script)
    experiment = subprocess.Popen([sys.executable, "-c", HELD, "", victim.target], stdout=subprocess.PIPE, text=True)
    assert experiment.stdout is not None
    assert experiment.stdout.readline() == "held\n"
    held = time.monotonic()
    injector = injector_of(chaos_place)
    if everything:
        hit = [*watchdogs_of(injector), injector]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: a dead watchdog is replaced at once
            for process in hit:
                process.send(number)
    experiment.kill()
    experiment.communicate()
    killed = time.monotonic()
    ends = held + 1.5 + 1 if everything else killed + 0.5
    fast = 0
    while time.monotonic() < ends and fast < 3:
        fast = fast + 1 if float(victim.hear().split()[0]) < 0.04 else 0
    assert fast == 3, "still slow"
    if everything:
        assert chaos.recover()
    assert eventually(lambda: not list((Path(os.environ["AIOBS_RUNTIME_DIR"]) / "points").iterdir()))


def test_a_process_without_a_record_is_refused(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(PlanError, match="does not record"):
        chaos.inject("point.latency", f"pid:{victim.pid}", point="work")


FUNCTIONS = """
import asyncio, sys, time, json
import aiobs
aiobs.init(service_name="victim", agent="off")
before = json.dumps, json.JSONEncoder.__dict__["encode"]

class Work:
    async def wait(self): return 2.0
    def items(self): yield from (1.0, 2.0, 3.0)
    async def stream(self):
        for i in (1.0, 2.0): yield i
    @classmethod
    def made(cls): return cls.__name__

async def all_of(it): return [x async for x in it]
calls = {
    "dumps": lambda: json.dumps([1]), "wait": lambda: asyncio.run(Work().wait()), "items": lambda: list(Work().items()),
    "stream": lambda: asyncio.run(all_of(Work().stream())), "made": lambda: Work.made(),
    "same": lambda: before == (json.dumps, json.JSONEncoder.__dict__["encode"]) and type(Work.__dict__["wait"]).__name__,
}
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    try:
        said = repr(calls[line.strip()]())
    except Exception as error:
        said = repr(error)
    print(f"{time.perf_counter() - began:.4f} {said}", flush=True)
"""


@pytest.mark.parametrize(
    ("call", "function", "do", "said"),
    [
        ("dumps", "json:dumps", "raise(OSError)", "OSError('injected')"),
        ("dumps", "json:JSONEncoder.encode", 'return("x")', "'x'"),
        ("wait", "__main__:Work.wait", "nan", "nan"),
        ("items", "__main__:Work.items", "stale", "[1.0, 1.0, 2.0]"),
        ("stream", "__main__:Work.stream", "return(0)", "[0, 0]"),
        ("made", "__main__:Work.made", "raise(KeyError)", "KeyError('injected')"),
    ],
)
def test_any_function_is_a_point_and_itself_again(
    start: Callable[..., Victim], call: str, function: str, do: str, said: str
) -> None:
    victim = start(FUNCTIONS, AIOBS_POINTS="functions")
    right = victim.say(call)[1]
    victim.say = lambda line=call, say=victim.say: say(line)  # type: ignore[method-assign]
    with armed("point.arm", victim, point=function, do=do):
        seen = victim.say()[1]
        assert seen == said or (call == "items" and seen == "[3.0, 1.0, 2.0]")
    time.sleep(0.12)
    assert victim.say()[1] == right
    assert victim.say("same")[1] == "'function'"


def test_functions_are_refused_where_nobody_looks_for_them(start: Callable[..., Victim]) -> None:
    with pytest.raises(PlanError, match="AIOBS_POINTS=functions"):
        chaos.inject("point.error", start().target, point="json:dumps")


def test_a_malformed_or_foreign_order_is_ignored_and_said(start: Callable[..., Victim]) -> None:
    from aiobs.chaos.identity import ProcessIdentity
    from aiobs.chaos.operations.point import record_of
    from aiobs.chaos.points import files

    victim = start(AIOBS_RAISE="0")
    record = record_of(ProcessIdentity.of(victim.process.pid))
    assert record is not None
    folder = files.folder_of(record)
    folder.mkdir(mode=0o700)
    bad = files.path_of(record, "bad-1", files.ARMED)
    for content, mode in ((b"{", 0o600), (b'{"id": 1}', 0o600), (b"\xff" * 70000, 0o600), (b"{}", 0o644)):
        bad.write_bytes(content)
        bad.chmod(mode)
        files.tell(record)
        assert victim.say()[1] == "1.0"
    bad.unlink()
    files.tell(record)


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("slep(5)", "position 1: no such task; there are off, sleep"),
        ("sleep", "position 6: write the milliseconds"),
        ("raise(1)", "position 7: write the name of an exception"),
        ("0%raise", "position 1: use a probability above 0%"),
        ("return(x)", "position 8: write the value as JSON"),
        ("hang(1)", "position 5: this task takes no argument"),
        ("nan stale", "position 5: write -> and another task"),
        ("kill(NOPE)", "no such signal"),
        ("gil(9999)", "at most 4000 ms"),
        ("2*3*hang", "count is there twice"),
        ("off", "does nothing"),
    ],
)
def test_what_cannot_be_read_is_refused_with_place_and_remedy(do: str, said: str) -> None:
    import re

    with pytest.raises(PlanError, match=re.escape(said)):
        chaos.build_fault("point.arm", {"point": "work", "do": do})


def test_the_same_seed_acts_at_the_same_hits() -> None:
    from aiobs.chaos.points.grammar import parse
    from aiobs.chaos.points.program import Program

    def hits(seed: str) -> list[int]:
        program = Program(parse("after(10) every(2) 30% 40*raise"), seed)
        return [index for index in range(1, 1001) if program.hit(None)]

    assert hits("a") == hits("a") != hits("b")
    assert len(hits("a")) == 40
    assert all(index > 10 and index % 2 == 0 for index in hits("a"))
