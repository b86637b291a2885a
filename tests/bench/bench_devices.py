"""What sampling GPUs costs: CPU of the agent and of its sampler, with eight fake GPUs read once a second.

Run: python tests/bench/bench_devices.py
A real process records, a real agent serves it, and the real pynvml reads the fake library, which a C compiler makes.
The baseline is the same without GPUs, an agent that has next to nothing to do. No figure here is one of a real driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side import cpu_s, options, table

from aiobs.device.fake.build import build
from aiobs.device.fake.state import FakeGpus

GPUS = 8
WARM_S = 4.0
PROGRAM = """
import sys, time, aiobs
from aiobs import names, recorder
from aiobs.device.fake.gpu import fake_uuid
aiobs.init()
recorder.set_resource({names.GPU_IDS: [fake_uuid(gpu) for gpu in range(int(sys.argv[1]))]})
with aiobs.span("warm"):
    pass
for line in sys.stdin:
    number = 0
    until = time.monotonic() + float(line)
    while time.monotonic() < until:
        with aiobs.step(number):
            time.sleep(0.5)
        number += 1
    print("done", flush=True)
"""


def sampler_of(agent: int) -> int:
    """Pid of the sampler that was started by `agent`; 0: there is none."""
    wanted = f"\0--agent\0{agent}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"aiobs.device.sampler" in command and wanted in command and not command.startswith(b"/bin/sh"):
            return int(entry.name)
    return 0


def measure(gpus: int, seconds: float, library: Path, devices: str = "auto") -> list[float]:
    """Percent of one core: the agent, the sampler; and NVML calls made by the recorded process."""
    with tempfile.TemporaryDirectory() as temporary:
        runtime = Path(temporary) / "aiobs"
        environment = {
            **os.environ, "AIOBS_RUNTIME_DIR": str(runtime), "AIOBS_RUN_DIR": temporary + "/run",
            "AIOBS_DEVICES": devices, "AIOBS_AGENT_LINGER": "0",
        }  # fmt: skip
        made = None
        if gpus:
            place = Path(temporary) / "gpus"
            place.mkdir()
            (place / library.name).write_bytes(library.read_bytes())
            made = FakeGpus.create(place, gpus)
            environment["AIOBS_FAKE_GPU"] = str(made.path)
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(gpus)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            time.sleep(min(WARM_S, seconds))
            agent = int(json.loads((runtime / "agent" / "status.json").read_text())["pid"])
            watched = [pid for pid in (agent, sampler_of(agent)) if pid]
            before = [cpu_s(pid) for pid in watched]
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            process.stdout.readline()
            used = [100 * (cpu_s(pid) - then) / seconds for pid, then in zip(watched, before, strict=True)]
            calls = sum(made.calls(process.pid).values()) if made is not None else 0
            process.stdin.close()
            process.wait()
        return [used[0], used[1] if len(used) > 1 else 0.0, calls]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__).parse_args(argv)
    seconds = 1.5 if chosen.quick else 40.0
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as place:
        library = build(Path(place))
        for label, gpus, devices in (("no GPU", 0, "auto"), (f"{GPUS} GPUs", GPUS, "auto")):
            agent, sampler, calls = measure(gpus, seconds, library, devices)
            added = agent + sampler - (rows[0][3] if rows else agent)
            rows.append([label, agent, sampler, agent + sampler, added, int(calls)])
    head = ["machine", "agent, % of a core", "sampler", "together", "added by sampling", "NVML calls in the process"]
    if chosen.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        print(table(f"Sampling once a second, over {seconds:g} s", head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
