"""Our proxy beside those that carry TCP for a living, and those that make it late: throughput, added round trip,
connections a second.

Whichever of haproxy, nginx (with its stream module), socat and mitmdump are installed take part; toxy (npm) where
TOXY names the folder it is installed in. Each carries the same traffic between the same two processes, in turns.

Run: python tests/bench/bench_proxy.py [--quick] [--json]
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from chaos_side import place
from side import median, options, table

from aiobs import chaos

SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=1024)
print(server.getsockname()[1], flush=True)

def serve(it):
    with it:
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            what = it.recv(1)
            if what == b"G":  # a request of HTTP
                it.recv(65536)
                it.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
            elif what == b"s":
                while it.recv(1 << 20):
                    pass
            else:
                while what:
                    it.sendall(what)
                    what = it.recv(1)
        except OSError:
            pass

while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
TOXY = """
const toxy = require(process.argv[1]); const it = toxy();
it.forward("http://127.0.0.1:" + process.argv[2]);
it.all("/*").poison(toxy.poisons.latency({jitter: 50}));
it.listen(process.argv[3]);
"""
HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen it
  bind 127.0.0.1:{listen}
  server there 127.0.0.1:{port}
"""
NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1;
events {{ worker_connections 4096; }}
stream {{ server {{ listen 127.0.0.1:{listen}; proxy_pass 127.0.0.1:{port}; tcp_nodelay on; }} }}
"""
LATE_S = 0.05


def commands(folder: Path, port: int, listen: int) -> dict[str, list[str]]:
    """How the proxies that are installed here are started."""
    (folder / "haproxy.cfg").write_text(HAPROXY.format(listen=listen, port=port))
    (folder / "nginx.conf").write_text(NGINX.format(listen=listen, port=port, folder=folder))
    there = f"TCP:127.0.0.1:{port},nodelay"
    known = {
        "haproxy": ["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"],
        "nginx": ["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf"],
        "socat": ["socat", f"TCP-LISTEN:{listen},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024", there],
        "mitmdump": ["mitmdump", "-q", "--mode", f"reverse:tcp://127.0.0.1:{port}@{listen}"],
    }
    stream = Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists()
    return {name: it for name, it in known.items() if shutil.which(it[0]) and (name != "nginx" or stream)}


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """A program, once it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not listen") from None
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def opened(port: int) -> socket.socket:
    """A connection that sends at once."""
    it = socket.create_connection(("127.0.0.1", port), 20)
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return it


def throughput(port: int, size: int) -> float:
    """Gbit/s of one connection, until the other side has all of it."""
    block = memoryview(bytes(1 << 20))
    with opened(port) as it:
        it.sendall(b"s")
        began = time.perf_counter()
        for _ in range(size >> 20):
            it.sendall(block)
        it.shutdown(socket.SHUT_WR)
        it.recv(1)
        return size * 8 / (time.perf_counter() - began) / 1e9


def round_trip(port: int, times: int) -> float:
    """µs there and back, in the middle."""
    found = []
    with opened(port) as it:
        for _ in range(times):
            began = time.perf_counter()
            it.sendall(b"e")
            it.recv(1)
            found.append((time.perf_counter() - began) * 1e6)
    return median(found)


def connections(port: int, times: int) -> float:
    """Connections a second, each with one round trip, one after the other."""
    began = time.perf_counter()
    for _ in range(times):
        with opened(port) as it:
            it.sendall(b"e")
            it.recv(1)
    return times / (time.perf_counter() - began)


def request_ms(port: int, times: int) -> float:
    """ms that a request of HTTP takes, in the middle."""
    found = []
    for _ in range(times):
        it = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        began = time.perf_counter()
        it.request("GET", "/")
        it.getresponse().read()
        found.append((time.perf_counter() - began) * 1e3)
        it.close()
    return median(found)


def free_port() -> int:
    """One where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


def measure(port: int, quick: bool) -> dict[str, float]:
    """All of them."""
    return {
        "Gbit/s": throughput(port, (16 if quick else 512) << 20),
        "round trip, µs": round_trip(port, 50 if quick else 3000),
        "connections/s": connections(port, 20 if quick else 500),
    }


def ours(upstream: int, listen: int, lease: chaos.Lease, **values: float) -> chaos.Injection:
    """Our proxy, held by somebody who connects, so that it is seen to act."""
    return chaos.inject(
        "network.proxy", f"tcp:127.0.0.1:{upstream}", listen=listen, duration_s=600, lease=lease, **values
    )


def sides(folder: Path, port: int, quick: bool) -> dict[str, dict[str, float]]:
    """Each side once."""
    found = {"direct": measure(port, quick)}
    for name in commands(folder, port, 1):
        listen = free_port()
        with running(commands(folder, port, listen)[name], listen):
            found[name] = measure(listen, quick)
    with chaos.Lease() as lease:
        for name, values in {"aiobs, nothing asked": {}, "aiobs, late 50 ms": {"delay_s": LATE_S}}.items():
            listen = free_port()
            with knocking(listen), ours(port, listen, lease, **values):
                if values:
                    found[name] = {
                        "Gbit/s": throughput(listen, (16 if quick else 128) << 20),
                        "round trip, µs": round_trip(listen, 5 if quick else 40),
                        "request, ms": request_ms(listen, 5 if quick else 40),
                    }
                else:
                    found[name] = measure(listen, quick)
    if toxy := os.environ.get("TOXY"):
        listen = free_port()
        words = ["node", "-e", TOXY, f"{toxy}/node_modules/toxy", str(port), str(listen)]
        with running(words, listen):
            found["toxy, late 50 ms"] = {"request, ms": request_ms(listen, 5 if quick else 40)}
    found["direct"]["request, ms"] = request_ms(port, 5 if quick else 40)
    return found


@contextmanager
def knocking(port: int) -> Iterator[None]:
    """Somebody who connects until the fault has been seen to act."""
    script = f"""
import socket, time
for _ in range(400):
    try:
        with socket.create_connection(("127.0.0.1", {port}), 1) as it:
            it.sendall(b"e")
            it.recv(1)
        break
    except OSError:
        time.sleep(0.02)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    given = options(__doc__).parse_args()
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        with place() as folder:
            rounds = [sides(folder, port, given.quick) for _ in range(1 if given.quick else 5)]
    finally:
        process.kill()
        process.communicate()
    found = {name: {key: median([it[name][key] for it in rounds]) for key in rounds[0][name]} for name in rounds[0]}
    if given.json:
        print(json.dumps(found))
        return
    keys = ["Gbit/s", "round trip, µs", "connections/s", "request, ms"]
    print(table("proxies", ["", *keys], [[name, *(it.get(key, "") for key in keys)] for name, it in found.items()]))


if __name__ == "__main__":
    main()
