"""Every fault ends, whoever dies."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiobs import chaos
from aiobs.chaos.audit import verify
from aiobs.errors import ArmError, FaultError, PlanError

from .chaos_scene import eventually, injector_of, state_of, watchdogs_of

Start = Callable[..., "subprocess.Popen[str]"]


def resumed(victim: subprocess.Popen[bytes]) -> bool:
    return state_of(victim.pid) in ("S", "R")


def nothing_left(place: Path) -> bool:
    return not list((place / "sessions").iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_the_death_of_the_experiment_undoes_the_fault(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path, number: signal.Signals
) -> None:
    held = experiment("process.pause", f"pid:{victim.pid}")
    assert state_of(victim.pid) == "T"
    began = time.monotonic()
    held.send_signal(number)
    assert eventually(lambda: resumed(victim))
    assert time.monotonic() - began < 2
    assert eventually(lambda: nothing_left(chaos_place))


def test_a_stopped_experiment_loses_its_lease(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    script = """
import sys, time
from aiobs import chaos
lease = chaos.Lease(lease_s=1)
chaos.inject(sys.argv[1], sys.argv[2], duration_s=60, lease=lease)
print("held", flush=True)
time.sleep(60)
"""
    held = experiment("process.pause", f"pid:{victim.pid}", script)
    time.sleep(1.5)
    assert state_of(victim.pid) == "T"  # a lease that is renewed lasts
    held.send_signal(signal.SIGSTOP)
    assert eventually(lambda: resumed(victim), 4)


def test_the_watchdog_undoes_what_a_killed_injector_held(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    experiment("process.pause", f"pid:{victim.pid}")
    injector_of(chaos_place).send(signal.SIGKILL)
    assert eventually(lambda: resumed(victim), 2)
    lines = [json.loads(line) for line in (chaos_place / "audit.jsonl").read_text().splitlines()]
    assert eventually(lambda: b"watchdog" in (chaos_place / "audit.jsonl").read_bytes()), lines


def test_the_watchdog_ends_a_stopped_injector(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    experiment("process.pause", f"pid:{victim.pid}")
    injector_of(chaos_place).send(signal.SIGSTOP)
    assert eventually(lambda: resumed(victim), 9)


def test_a_killed_watchdog_is_replaced(experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path) -> None:
    experiment("process.pause", f"pid:{victim.pid}")
    injector = injector_of(chaos_place)
    (first,) = watchdogs_of(injector)
    first.send(signal.SIGKILL)
    assert eventually(lambda: not first.is_alive() and watchdogs_of(injector), 3)
    injector.send(signal.SIGKILL)
    assert eventually(lambda: resumed(victim), 2)


def test_recovery_undoes_what_nobody_holds(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    held = experiment("process.pause", f"pid:{victim.pid}")
    injector = injector_of(chaos_place)
    (watchdog,) = watchdogs_of(injector)
    watchdog.send(signal.SIGSTOP)
    injector.send(signal.SIGKILL)
    watchdog.send(signal.SIGKILL)
    held.kill()
    held.wait()
    assert eventually(lambda: not watchdog.is_alive() and not injector.is_alive())
    assert state_of(victim.pid) == "T"
    (found,) = chaos.recover()
    assert found.residue == ()
    assert str(victim.pid) in found.undone[0]
    assert resumed(victim)
    assert nothing_left(chaos_place)
    assert chaos.recover() == []


def test_the_next_experiment_undoes_it_too(
    experiment: Start, victim: subprocess.Popen[bytes], chaos_place: Path
) -> None:
    held = experiment("process.pause", f"pid:{victim.pid}")
    injector = injector_of(chaos_place)
    (watchdog,) = watchdogs_of(injector)
    watchdog.send(signal.SIGSTOP)
    injector.send(signal.SIGKILL)
    watchdog.send(signal.SIGKILL)
    held.kill()
    assert eventually(lambda: not injector.is_alive())
    with chaos.inject("noop", f"pid:{victim.pid}"):
        assert resumed(victim)


def test_the_duration_ends_it(victim: subprocess.Popen[bytes]) -> None:
    with chaos.Lease() as lease:
        injection = chaos.inject("process.pause", f"pid:{victim.pid}", duration_s=0.3, lease=lease)
        assert state_of(victim.pid) == "T"
        assert injection.wait(5)
        assert resumed(victim)
        assert 0.3 <= (injection.undone_ns - injection.effective_ns) / 1e9 < 1
        assert injection.because == "its time is over"


def test_the_stop_file_ends_it_and_allows_no_other(victim: subprocess.Popen[bytes], chaos_place: Path) -> None:
    with chaos.Lease() as lease:
        injection = chaos.inject("process.pause", f"pid:{victim.pid}", lease=lease)
        (chaos_place / "STOP").touch()
        assert injection.wait(5)
        assert resumed(victim)
    with pytest.raises(ArmError, match="STOP is there"):
        chaos.inject("process.pause", f"pid:{victim.pid}")


def test_a_fault_without_effect_is_invalid_and_undone(victim: subprocess.Popen[bytes], chaos_place: Path) -> None:
    ignoring = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    time.sleep(0.1)
    try:
        with pytest.raises(FaultError, match="not seen to act") as caught:
            chaos.inject("process.kill", f"pid:{ignoring.pid}", signal_name="TERM", effect_s=0.3)
        assert caught.value.stage == "effect"
        assert nothing_left(chaos_place)
    finally:
        ignoring.kill()
        ignoring.wait()


def test_a_second_experiment_is_refused_and_told_who_is_there(
    experiment: Start, victim: subprocess.Popen[bytes]
) -> None:
    held = experiment("process.pause", f"pid:{victim.pid}")
    with pytest.raises(ArmError, match=f"another experiment holds this host: .*{held.pid}"):
        chaos.inject("noop", f"pid:{victim.pid}")


def test_a_target_that_dies_meanwhile_counts_as_undone(victim: subprocess.Popen[bytes]) -> None:
    with chaos.inject("process.pause", f"pid:{victim.pid}") as injection:
        victim.kill()
        victim.wait()
    assert injection.residue == []


def test_what_was_stopped_before_is_refused(victim: subprocess.Popen[bytes], chaos_place: Path) -> None:
    victim.send_signal(signal.SIGSTOP)
    assert eventually(lambda: state_of(victim.pid) == "T")
    with pytest.raises(PlanError, match="stopped already"):
        chaos.inject("process.pause", f"pid:{victim.pid}")
    assert state_of(victim.pid) == "T"
    assert nothing_left(chaos_place)


def test_the_audit_trail_shows_who_and_is_whole(victim: subprocess.Popen[bytes], chaos_place: Path) -> None:
    with chaos.inject("process.pause", f"pid:{victim.pid}", why="to see", who="ada"):
        pass
    path = chaos_place / "audit.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["what"] for line in lines] == ["inject", "undone"]
    assert (lines[0]["plan"]["who"], lines[0]["plan"]["why"]) == ("ada", "to see")
    assert verify(path) is None
    path.write_text(path.read_text().replace("ada", "eve"))
    assert verify(path) == 2
