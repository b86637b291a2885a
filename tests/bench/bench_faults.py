"""How long faults stay when somebody is killed: the experiment, the injector, or everybody of ours.

From the SIGKILL to the moment at which the target itself is seen to be free again.

Run as root for all of them: python tests/bench/bench_faults.py [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from chaos_side import experiment, place, program, quantiles, until
from side import options, table

from aiobs import chaos
from aiobs.chaos.identity import ProcessIdentity, stat_fields
from aiobs.chaos.place import read_owner

ROOT = os.geteuid() == 0 and shutil.which("nft") is not None


def injector(folder: Path) -> ProcessIdentity:
    """That of the only session."""
    (session,) = (folder / "chaos/sessions").iterdir()
    owner = read_owner(session)
    assert owner is not None
    return owner.process()


def children(pid: int) -> list[ProcessIdentity]:
    """Of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [ProcessIdentity.of(int(it)) for it in found]


def cases(folder: Path, pid: int, port: int) -> dict[str, tuple[str, dict[str, object], Callable[[], bool]]]:
    """Faults with target and parameters, and how the target is seen to be free."""
    checkpoint = folder / "step1.pt"
    checkpoint.write_bytes(b"x" * 100_000)
    first = os.stat(checkpoint).st_ino
    soft = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]

    def no_table() -> bool:
        return "aiobs" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout

    def runs() -> bool:
        return (stat_fields(pid) or ["T"])[0] != "T"

    found: dict[str, tuple[str, dict[str, object], Callable[[], bool]]] = {
        "process.pause": (f"pid:{pid}", {}, runs),
        "process.exhaust": (
            f"pid:{pid}", {"what": "files"}, lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == soft,
        ),
        "checkpoint.tear": (f"path:{checkpoint}", {}, lambda: os.stat(checkpoint).st_ino == first),
    }  # fmt: skip
    if ROOT:
        found["network.partition"] = f"pid:{pid}", {"port": port, "peer": "127.0.0.1"}, no_table
    return found


def undone(times: int) -> dict[str, dict[str, float]]:
    """After the death of the experiment (the injector lives) and of the injector (its watchdog does)."""
    found: dict[str, dict[str, float]] = {}
    with place() as folder, program() as (victim, port):
        for fault, (target, parameters, free) in cases(folder, victim.pid, port).items():
            for who in ("experiment", "injector"):
                seconds = []
                for _ in range(times):
                    with experiment(fault, target, 60, **parameters) as running:
                        hit = injector(folder) if who == "injector" else ProcessIdentity.of(running.pid)
                        hit.send(signal.SIGKILL)
                        seconds.append(until(free))
                    until(lambda: not _held(folder))
                    chaos.recover()
                found[f"{fault}, {who} killed"] = quantiles(seconds)
    return found


def _held(folder: Path) -> bool:
    """Whether an injector is alive still."""
    owners = [read_owner(it) for it in (folder / "chaos/sessions").iterdir()]
    return any(it is not None and it.process().is_alive() for it in owners)


def expiry(times: int) -> dict[str, float]:
    """Beyond its duration of 1 s, a partition of which everybody of ours is dead, until its rules let everything pass."""
    seconds = []
    with place() as folder, program() as (victim, port):
        for _ in range(times if ROOT else 0):
            with experiment("network.partition", f"pid:{victim.pid}", 1, port=port, peer="127.0.0.1") as running:
                held = time.monotonic()
                owner = injector(folder)
                hit = [ProcessIdentity.of(running.pid), *children(owner.pid), owner]
                for number in (signal.SIGSTOP, signal.SIGKILL):
                    for it in hit:
                        it.send(number)
            until(lambda owner=owner: not owner.is_alive())  # type: ignore[misc]
            until(_expired)
            seconds.append(time.monotonic() - held - 1)
            chaos.recover()
    return quantiles(seconds) if seconds else {}


def _expired() -> bool:
    """Whether the kernel has taken every element out of the gates of our tables."""
    said = subprocess.run(["nft", "-j", "list", "sets"], capture_output=True, text=True, check=True).stdout
    gates = [
        it["set"] for it in json.loads(said)["nftables"] if "set" in it and it["set"]["table"].startswith("aiobs_")
    ]
    return not any(it.get("elem") for it in gates)


def main() -> None:
    given = options(__doc__).parse_args()
    found = undone(1 if given.quick else 50)
    found["network.partition of 1 s, everybody killed, beyond its end"] = expiry(1 if given.quick else 20)
    if given.json:
        print(json.dumps(found))
    else:
        rows = [[name, *(f"{it[key]:.1f}" for key in ("median", "p95", "most"))] for name, it in found.items() if it]
        print(table("ms until the target is free", ["", "median", "95 %", "most"], rows))


if __name__ == "__main__":
    main()
