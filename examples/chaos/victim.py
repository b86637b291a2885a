"""Something to break: a small HTTP service that writes its pid to a file.

python examples/chaos/victim.py /tmp/victim.pid
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answer(BaseHTTPRequestHandler):
    """Answers every GET with ``ok``."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""


def work() -> None:
    """Want a little CPU and a little more memory all the time, as services do."""
    held: list[mmap.mmap] = []
    pause = threading.Event()
    while not pause.wait(0.02):
        held.append(mmap.mmap(-1, 1 << 20))  # the kernel's own, which the C library does not keep for later
        held[-1].write(bytes(1 << 20))
        if len(held) > 64:
            while held:
                held.pop().close()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Answer)
    threading.Thread(target=work, daemon=True).start()
    Path(sys.argv[1]).write_text(f"{os.getpid()}\n", "utf-8")
    server.serve_forever()
