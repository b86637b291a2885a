"""A telemetry endpoint that takes what comes and keeps nothing: ``sink.py PORT`` stands in for a Collector.

What it takes is on the record as well, so that it is a boundary which a verdict can name.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiobs


class Take(BaseHTTPRequestHandler):
    """Answers every POST with an empty message: all of it was accepted."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take it."""
        with aiobs.span("take"):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""


if __name__ == "__main__":
    aiobs.init(service_name="telemetry")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Take).serve_forever()
