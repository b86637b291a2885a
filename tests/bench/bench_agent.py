"""The agent flat out: spans a second and CPU a span, from a full flight record to files or to an OTLP receiver.

Run ``python tests/bench/bench_agent.py [spans]``. The record is made by the real recorder and read by the real loop;
the receiver takes the requests and forgets them, in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

from aiobs import recorder
from aiobs.recorder.location import runtime_dir
from aiobs.settings import Settings
from aiobs.telemetry import Route

SPANS = 100_000
REPEATS = 3

RECEIVER = """
import socketserver, http.server
class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def measure(exporter: str, endpoint: str, spans: int) -> tuple[float, float]:
    """Spans per second and µs of CPU per span, of the agent's process."""
    with tempfile.TemporaryDirectory() as temporary:
        ring = (spans + 1000) * 192
        settings = Settings(runtime_dir=temporary + "/aiobs", ring_bytes=ring)
        folder = runtime_dir(settings)
        route = Route(
            "bench",
            exporters=(exporter,),
            run_dir=temporary + "/run",
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        )
        recorder.start(settings, {"service.name": "bench"}, route, folder / "records")
        for number in range(spans):
            with recorder.span("work", a=number, b=1.5, c="text", d=True, e="more text"):
                pass
        recorder.stop(0)
        code = (
            "import sys, time, json\nfrom pathlib import Path\nfrom aiobs.agent.loop import Agent\n"
            "agent = Agent(Path(sys.argv[1]), spool_bytes=1 << 30, version='bench')\n"
            "wall, cpu = time.perf_counter(), time.process_time()\n"
            "while True:\n"
            "    agent.turn()\n"
            "    if agent.idle_since is not None: break\n"
            "    if not agent.draining: agent.wait()\n"
            "print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))\n"
            "agent.close()\n"
        )
        answer = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        wall_s, cpu_s = json.loads(answer.stdout.splitlines()[-1])
        return spans / wall_s, cpu_s / spans * 1e6


def main() -> None:
    spans = int(sys.argv[1]) if len(sys.argv) > 1 else SPANS
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout
    endpoint = f"http://127.0.0.1:{receiver.stdout.readline().strip()}"
    try:
        for exporter in ("jsonl", "otlp"):
            rates, costs = zip(*(measure(exporter, endpoint, spans) for _ in range(REPEATS)), strict=True)
            print(f"{exporter:6} {statistics.median(rates):10,.0f} spans/s   {statistics.median(costs):6.2f} µs CPU/span   ({spans:,} spans of 5 attributes, median of {REPEATS})")  # fmt: skip
    finally:
        receiver.kill()
        receiver.wait()


if __name__ == "__main__":
    main()
