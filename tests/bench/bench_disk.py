"""How exactly disk.slow delays, what its covering costs, against the plain folder in the same run.

Run: python tests/bench/bench_disk.py [--quick] [--json]    (needs FUSE; without it there is only the plain folder)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side import median

from aiobs import chaos
from aiobs.errors import PlanError

MIB = 1 << 20


def took_s(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@contextmanager
def covered(folder: Path, **parameters: Any) -> Iterator[None]:
    """The folder under disk.slow; somebody reads in it until that acts."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.005):
            (folder / "trigger").read_bytes()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with chaos.inject("disk.slow", f"path:{folder}", duration_s=100, effect_s=30, **parameters):
            over.set()
            thread.join()
            yield
    finally:
        over.set()
        thread.join()


def costs(folder: Path, size: int, small: int, rounds: int) -> dict[str, float]:
    def write() -> None:
        with open(folder / "big", "wb", 0) as file:
            file.writelines(bytes(MIB) for _ in range(size))

    def read() -> None:
        with open(folder / "big", "rb", 0) as file:
            while file.read(MIB):
                pass

    def writes() -> None:
        with open(folder / "small", "wb", 0) as file:
            file.writelines(bytes(4096) for _ in range(small))

    def opens() -> None:
        for _ in range(small):
            (folder / "small").read_bytes()

    def rate(act: Callable[[], None]) -> float:
        return median([size / took_s(act) for _ in range(rounds)])

    def each(act: Callable[[], None]) -> float:
        return median([took_s(act) / small * 1e6 for _ in range(rounds)])

    found = {"write_mib_s": rate(write), "read_mib_s": rate(read), "write_4k_us": each(writes)}
    (folder / "small").write_bytes(b"x" * 4096)
    return {**found, "open_read_4k_us": each(opens)}


def measure(folder: Path, quick: bool) -> dict[str, float]:
    size, small, rounds = (4, 50, 1) if quick else (64, 1000, 5)
    (folder / "trigger").write_bytes(b"x")
    figures = {f"plain_{name}": value for name, value in costs(folder, size, small, rounds).items()}
    try:
        with covered(folder, delay_s=0.001, pattern="trigger"):
            figures |= {f"covered_{name}": value for name, value in costs(folder, size, small, rounds).items()}
        for delay_s in (0.005,) if quick else (0.005, 0.02, 0.1):
            with covered(folder, delay_s=delay_s):
                for what in ("write", "read"):
                    act = (
                        (lambda: (folder / "one").write_bytes(b"x")) if what == "write" else (folder / "one").read_bytes
                    )
                    late = [took_s(act) * 1e3 for _ in range(3 if quick else 21)]
                    figures[f"{what}_{delay_s * 1e3:g}_ms"] = median(late)
                    figures[f"{what}_{delay_s * 1e3:g}_ms_most"] = max(late)
        for rate in (50e6,) if quick else (4e6, 50e6, 200e6):
            amount = bytes(int(rate / (20 if quick else 1)))
            with covered(folder, rate_bytes=rate):
                began = time.perf_counter()
                (folder / "many").write_bytes(amount)
                figures[f"write_at_{rate:g}"] = len(amount) / (time.perf_counter() - began) / rate
                figures[f"read_at_{rate:g}"] = len(amount) / took_s((folder / "many").read_bytes) / rate
    except PlanError as error:
        print(error, file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        data = Path(own, "data")
        data.mkdir()
        os.environ |= {
            "AIOBS_CHAOS": "armed", "AIOBS_ENVIRONMENT": "test", "AIOBS_CHAOS_DIR": f"{own}/chaos",
            "AIOBS_RUNTIME_DIR": f"{own}/runtime", "AIOBS_RUN_DIR": f"{own}/run", "AIOBS_AGENT": "off",
        }  # fmt: skip
        figures = measure(data, given.quick)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:28} {value:10.3f}")


if __name__ == "__main__":
    main()
