"""What watching a server and calls of a model costs, per streamed chunk and per request.

``stream`` and ``chat``: a Starlette application that streams server-sent events, asked through the ASGI interface in
process, plainly and as OpenAI's API; ``uvicorn``: the same behind a real uvicorn, CPU of the whole process; ``call``:
the ``openai`` client reading such a stream. Sides that are not installed are named and left out; a round is all sides
one after the other, a figure the median over the rounds, and "added" the median of what a round's side costs more than
its bare one.
Run: python tests/bench/bench_serving.py [--quick] [--json]
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from side import median, options, table

SIDE = str(Path(__file__).with_name("serving_side.py"))
SERVERS = {"bare": "", "aiobs": "", "otel asgi": "asgi", "otel asgi, no chunk spans": "asgi"}
CLIENTS = {"bare": "", "aiobs": "", "openai-v2": "openai_v2", "OpenLLMetry": "openai", "OpenInference": "openinference", "OpenLIT": "openlit"}  # fmt: skip
"""The OpenTelemetry instrumentation (or package) a side needs."""
CALLERS = 8


def installed(needs: str) -> bool:
    """Whether the instrumentation named `needs` can be imported."""
    if not needs:
        return True
    if needs in ("openlit", "openinference"):
        return find_spec(needs) is not None
    if find_spec("opentelemetry.instrumentation") is None:
        return False
    return find_spec(f"opentelemetry.instrumentation.{needs}") is not None


def environment(folder: str) -> dict[str, str]:
    """A private place for flight records; nothing is exported, as the other sides throw everything away."""
    return {**os.environ, "AIOBS_RUNTIME_DIR": f"{folder}/runtime", "AIOBS_AGENT": "off"}


def in_process(what: str, side: str, chunks: int, requests: int) -> dict[str, float]:
    """The figures of serving_side.py for one side; {} where it does not work as installed here."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, SIDE, what, side, str(chunks), str(requests)]
        ran = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
    if ran.returncode:
        if side in ("bare", "aiobs"):
            raise SystemExit(f"{side}: {ran.stderr}")
        print(f"{side} cannot be measured: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


async def ask(port: int, path: str, times: int) -> str:
    """Ask `times` times over one connection, reading every answer to its end; returns the last body's first line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = b""
    for _ in range(times):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            line = await reader.readexactly(length)
    writer.close()
    return line.decode()


async def through_uvicorn(port: int, chunks: int, requests: int) -> dict[str, float]:
    """µs of CPU of a server's process per chunk and per request, asked by several callers at once."""

    async def round_of(path: str, times: int) -> float:
        before = float(await ask(port, "/cpu", 1))
        await asyncio.gather(*(ask(port, path, times) for _ in range(CALLERS)))
        return float(await ask(port, "/cpu", 1)) - before

    await round_of("/stream?n=20", 5)
    short = await round_of("/stream?n=1", requests) / (requests * CALLERS)
    streams = max(2, requests // 20)
    long = await round_of(f"/stream?n={chunks}", streams) / (streams * CALLERS)
    return {"uvicorn, chunk µs": (long - short) / (chunks - 1) * 1e6, "uvicorn, request µs": short * 1e6}


def uvicorn(side: str, chunks: int, requests: int) -> dict[str, float]:
    """The same with a server of that side."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, SIDE, "uvicorn", side]
        with subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                return asyncio.run(through_uvicorn(int(server.stdout.readline()), chunks, requests))
            finally:
                server.kill()


def compared(rounds: list[dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """By what is measured: each side's median, and what it adds to the bare one."""
    found: list[dict[str, object]] = []
    whats = list(dict.fromkeys(what for sides in rounds for figures in sides.values() for what in figures))
    for what in whats:
        sides = [side for side in rounds[0] if all(what in figures.get(side, {}) for figures in rounds)]
        added = {
            side: median([figures[side][what] - figures["bare"][what] for figures in rounds])
            for side in sides
            if side != "bare"
        }
        row: dict[str, object] = {"what": what, "bare": median([figures["bare"][what] for figures in rounds])}
        row.update({f"{side}, added": cost for side, cost in added.items()})
        found.append(row)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, and print tables or JSON."""
    parser = options(__doc__)
    parser.add_argument("--only", choices=["server", "client"], help="half of it")
    chosen = parser.parse_args(argv)
    chunks, requests, repeats = (50, 10, 1) if chosen.quick else (500, 300, 7)
    measured: list[tuple[str, list[dict[str, object]]]] = []
    for title, sides in (("server", SERVERS), ("client", CLIENTS)):
        if chosen.only not in (None, title):
            continue
        missing = [side for side, needs in sides.items() if not installed(needs)]
        if missing:
            print(f"not installed here: {', '.join(missing)}", file=sys.stderr)
        there = [side for side in sides if side not in missing]
        rounds: list[dict[str, dict[str, float]]] = []
        for _ in range(repeats):
            if title == "server":
                rounds.append({
                    side: {**in_process("asgi", side, chunks, requests), **uvicorn(side, chunks, requests // 3 + 1)}
                    for side in there
                })  # fmt: skip
            else:
                rounds.append({side: in_process("client", side, chunks, requests) for side in there})
        measured.append((title, compared(rounds)))
    if chosen.json:
        print(json.dumps(dict(measured)))
        return
    for title, rows in measured:
        heads = list(dict.fromkeys(key for row in rows for key in row))
        print(
            table(
                f"{title}: medians of {repeats} rounds", heads, [[row.get(key, "-") for key in heads] for row in rows]
            )
        )


if __name__ == "__main__":
    main()
