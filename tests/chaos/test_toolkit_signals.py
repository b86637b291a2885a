"""``chaos run`` ended by any signal at any moment leaves nothing.

``AIOBS_SIGNAL_TRIALS=20 pytest tests/chaos/test_toolkit_signals.py`` runs so many trials of each signal, AIOBS_SEED
chooses the moments, AIOBS_KILL_LOG names a file for what became of each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from aiobs import chaos
from aiobs.chaos.identity import ProcessIdentity

from .chaos_scene import eventually, state_of, world
from .kill_trial import Writes, ours
from .test_toolkit import CHAOS, experiment

TRIALS = int(os.environ.get("AIOBS_SIGNAL_TRIALS", "1"))
SEED = int(os.environ.get("AIOBS_SEED", "1"))
LOG = os.environ.get("AIOBS_KILL_LOG", "")
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]


def started(folder: Path, pid: int, hold_s: float) -> subprocess.Popen[bytes]:
    """A run that pauses a process."""
    (folder / "experiment.json").write_text(json.dumps(experiment(pid, hold_s=hold_s)))
    return subprocess.Popen(
        [*CHAOS, "--no-version-check", "run", "experiment.json"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.timeout(0 if TRIALS > 1 else 120)
@pytest.mark.parametrize("number", SIGNALS)
def test_no_end_of_a_run_leaves_anything(
    tmp_path: Path, chaos_place: Path, victim: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    random = Random(f"{SEED}:{number.name}")
    for trial in range(TRIALS):
        said = ended(tmp_path, chaos_place, victim.pid, number, random, first=not trial)
        if LOG:
            with open(LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(said) + "\n")


def ended(
    folder: Path, place: Path, pid: int, number: signal.Signals, random: Random, *, first: bool
) -> dict[str, object]:
    """One trial; what became of it. The first one is in the middle of the hold; the others anywhere from the start of
    Python to its end."""
    before, known = world(), ours(place)
    writes = Writes(place / "sessions")
    moment = "held" if first else random.choice(["start", "write", "held"])
    running = started(folder, pid, hold_s=60 if first else 1.5 if moment == "held" else 0.4)
    try:
        if moment == "start":
            time.sleep(random.uniform(0, 1.5))
        elif moment == "write":
            writes.wait(random.randint(1, 14), ProcessIdentity.of(running.pid))
            time.sleep(random.uniform(0, 0.02))
        else:
            assert eventually(lambda: state_of(pid) == "T" or running.poll() is not None, 60)
            time.sleep(0 if first else random.uniform(0, 0.5))
        alive = running.poll() is None
        running.send_signal(number)
        sent = time.monotonic()
        assert eventually(lambda: state_of(pid) in ("R", "S"), 15 if alive else 0), f"still paused, {moment}"
        resumed_s = time.monotonic() - sent
        if first:  # 1.44 takes SIGTERM for the error of an action, and goes on to the next one
            running.kill()
        running.wait(40)
        assert eventually(lambda: world() == before and ours(place) == known, 15), moment
        chaos.recover()
        assert not list((place / "sessions").iterdir())
    finally:
        running.kill()
        running.wait()
        writes.close()
    return {"signal": number.name, "moment": moment, "alive": alive, "resumed_s": round(resumed_s, 3)}
