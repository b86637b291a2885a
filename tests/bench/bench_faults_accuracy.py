"""What was asked and what was done: CPU shares, times of death, and how long it takes until a fault acts.

Run as root for all of them: python tests/bench/bench_faults_accuracy.py [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from chaos_side import place, program, quantiles, until
from side import cpu_s, options, table

from aiobs import chaos
from aiobs.chaos.identity import stat_fields

BUSY = "print(0, flush=True)\nwhile True: pass"


def shares(seconds: float, times: int) -> dict[str, float]:
    """How many points of a core a slowed process got more or less than asked, at most."""
    found: dict[str, float] = {}
    with place(), chaos.Lease() as lease:
        for how in ("quota", "turns") if os.geteuid() == 0 else ("turns",):
            for share in (0.1, 0.2, 0.5):
                off = []
                for _ in range(times):
                    with program(BUSY) as (victim, _), chaos.inject(
                        "process.slow", f"pid:{victim.pid}", share=share, how=how, duration_s=60, lease=lease
                    ):  # fmt: skip
                        used, began = cpu_s(victim.pid), time.monotonic()
                        time.sleep(seconds)
                        got = (cpu_s(victim.pid) - used) / (time.monotonic() - began)
                    off.append(abs(got - share) * 100)
                found[f"{how}, share {share}: points off, most of {times}"] = max(off)
    return found


def deaths(times: int) -> dict[str, float]:
    """ms between the moment of death that a fault says and the one its parent saw."""
    off = []
    with place(), chaos.Lease() as lease:
        for _ in range(times):
            with program(BUSY) as (victim, _):
                seen: list[int] = []
                pid = victim.pid

                def wait(pid: int = pid, seen: list[int] = seen) -> None:
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                    seen.append(time.time_ns())

                thread = threading.Thread(target=wait)
                thread.start()
                with chaos.inject("process.kill", f"pid:{pid}", lease=lease) as injection:
                    thread.join()
                off.append(abs(seen[0] - injection.injected_ns) / 1e9)
    return quantiles(off)


def delays(times: int) -> dict[str, dict[str, float]]:
    """ms from asking to the effect seen on the target."""
    found: dict[str, list[float]] = {"aiobs chaos inject": [], "chaos.inject()": [], "chaos.inject(lease=…)": []}

    def stopped(pid: int) -> bool:
        return (stat_fields(pid) or [""])[0] == "T"

    with place(), program() as (victim, _):
        pid, target = victim.pid, f"pid:{victim.pid}"
        for _ in range(times):
            command = [
                sys.executable,
                "-m",
                "aiobs.cli",
                "chaos",
                "inject",
                "process.pause",
                target,
                "--duration",
                "0.1",
            ]
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            found["aiobs chaos inject"].append(until(lambda: stopped(pid)))
            running.wait()
            began = time.time_ns()
            with chaos.inject("process.pause", target) as injection:
                found["chaos.inject()"].append((injection.effective_ns - began) / 1e9)
            with chaos.Lease() as lease:
                began = time.time_ns()
                with chaos.inject("process.pause", target, lease=lease) as injection:
                    found["chaos.inject(lease=…)"].append((injection.effective_ns - began) / 1e9)
    return {name: quantiles(values) for name, values in found.items()}


def main() -> None:
    given = options(__doc__).parse_args()
    times = 1 if given.quick else 20
    found = {
        "shares": shares(0.3 if given.quick else 3.0, 1 if given.quick else 5),
        "death": deaths(times),
        "until it acts": delays(times),
    }
    if given.json:
        print(json.dumps(found))
        return
    print(table("CPU share", ["", "points"], [[name, value] for name, value in found["shares"].items()]))
    rows = {"time of death, said and seen": found["death"], **found["until it acts"]}
    print(table("ms", ["", "median", "95 %", "most"], [[name, *it.values()] for name, it in rows.items()]))


if __name__ == "__main__":
    main()
