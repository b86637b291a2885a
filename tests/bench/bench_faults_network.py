"""How exactly faults of the network do what was asked:  python tests/bench/bench_faults_network.py

Two nodes of a testbed, as root or not. Each line says what was asked, what was measured, and their ratio. Latency is the
least of many round trips less the least without the fault (a busy machine adds to all others), loss what did not arrive
of 10,000 datagrams, bandwidth what a stream of several seconds carried, headers added.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

CANNOT = 77
"""Exit code where this machine lacks what it needs."""
HEADERS = 1514 / 1448
"""Bytes on the wire for each of a full TCP segment over Ethernet."""

ECHO = """
import socket, threading
def serve(it):
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while content := it.recv(1 << 16):
        it.sendall(content)
def sink(it):
    while it.recv(1 << 20):
        pass
def run(port, work):
    server = socket.create_server(("", port))
    print("ready", flush=True)
    while True:
        threading.Thread(target=work, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=run, args=(7000, serve), daemon=True).start()
run(7001, sink)
"""
TRIPS = """
import socket, sys, time
best = 9.0
with socket.create_connection(("b", 7000)) as it:
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(int(sys.argv[1])):
        began = time.monotonic()
        it.sendall(b"x")
        it.recv(1)
        best = min(best, time.monotonic() - began)
print(best)
"""
COUNT = """
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
it.bind(("", 7002))
print("ready", flush=True)
count, it_is_over = 0, False
while it.recv(9) != b"over":
    count += 1
print(count, flush=True)
"""
SEND = """
import socket, sys, time
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for sent in range(int(sys.argv[1])):
    try:
        it.sendto(b"x", ("b", 7002))
    except PermissionError:  # dropped on its way out
        pass
    if sent % 20 == 0:
        time.sleep(0.001)
"""
OVER = """
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.sendto(b"over", ("b", 7002))
"""
STREAM = """
import fcntl, socket, struct, sys, termios, time
# Counted at the receiver's pace: the first second fills buffers and the bucket.
end, begin, first = time.monotonic() + float(sys.argv[1]), 0.0, 0
def acked(it):  # bytes of tcp_info.tcpi_bytes_acked
    return struct.unpack_from("Q", it.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 120)[0]
with socket.create_connection(("b", 7001)) as it:
    it.settimeout(0.05)
    while (now := time.monotonic()) < end:
        if not begin and now > end - float(sys.argv[1]) + 1:
            begin, first = now, acked(it)
        try:
            it.send(bytes(1 << 16))
        except TimeoutError:
            pass
    print((acked(it) - first) / (time.monotonic() - begin))
"""
KNOCK = """
import socket, time
while True:
    try:
        socket.create_connection(("b", 7000), 1).close()
    except OSError:
        pass
    time.sleep(0.05)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="once, to see that it runs")
    options.add_argument("--json", action="store_true", help="repeat the figures as JSON in the last line")
    chosen = options.parse_args(argv)
    quick = chosen.quick
    if missing := [it for it in ("nft", "tc", "ip") if not shutil.which(it)]:
        print(f"needs {', '.join(missing)} (packages nftables, iproute2)", file=sys.stderr)
        return CANNOT
    figures: dict[str, float] = {}
    folder = tempfile.TemporaryDirectory(prefix="aiobs-bench-")
    os.environ.update({
        "AIOBS_ENVIRONMENT": "test", "AIOBS_CHAOS": "armed", "AIOBS_AGENT": "off", "AIOBS_CHAOS_DIR": f"{folder.name}/chaos",
        "AIOBS_RUNTIME_DIR": f"{folder.name}/runtime",
    })  # fmt: skip
    from aiobs import chaos
    from aiobs.chaos.testbed import Testbed

    with folder, Testbed(2, name="bench") as bed:

        def said(node: str, script: str, *words: str) -> float:
            done = bed[node].run([sys.executable, "-c", script, *words], timeout=300)
            if done.returncode:
                raise SystemExit(done.stderr)
            return float(done.stdout or 0)

        def started(script: str) -> subprocess.Popen[str]:
            process: subprocess.Popen[str] = bed["b"].start(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            process.stdout.readline()
            return process

        server = started(ECHO)
        knocking = bed["a"].start([sys.executable, "-c", KNOCK])
        print(f"{'fault':<20}{'asked':>12}{'measured':>12}{'ratio':>9}")

        usual, trips = said("a", TRIPS, "200"), "10" if quick else "60"
        for delay_s in (0.005,) if quick else (0.005, 0.02, 0.05, 0.2):
            with chaos.inject("network.latency", "node:a", port=7000, delay_s=delay_s):
                _line(figures, "network.latency", delay_s * 1e3, (said("a", TRIPS, trips) - usual) * 1e3, "ms")
        for percent in (20.0,) if quick else (1.0, 5.0, 20.0):
            count = 1_000 if quick else 10_000
            counter = started(COUNT)
            with chaos.inject("network.loss", "node:a", percent=percent, direction="out", duration_s=120):
                said("a", SEND, str(count))
            said("a", OVER)
            assert counter.stdout is not None
            _line(figures, "network.loss", percent, 100 * (1 - int(counter.stdout.readline()) / count), "%")
            counter.communicate()
        for rate_mbit in (5.0,) if quick else (1.0, 10.0, 100.0):
            with chaos.inject("network.bandwidth", "node:a", rate_mbit=rate_mbit, duration_s=120):
                rate = said("a", STREAM, "2" if quick else "6") * 8 * HEADERS / 1e6
                _line(figures, "network.bandwidth", rate_mbit, rate, "Mbit/s")
        for process in (knocking, server):
            process.kill()
            process.communicate()
    if chosen.json:
        print(json.dumps(figures))
    return 0


def _line(figures: dict[str, float], fault: str, asked: float, measured: float, unit: str) -> None:
    figures[f"{fault} {asked:g} {unit}"] = measured
    print(f"{fault:<20}{asked:>8g} {unit:<7}{measured:>8.3f} {unit:<7}{measured / asked:>6.3f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
