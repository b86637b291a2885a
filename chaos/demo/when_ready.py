"""Run a program once servers answer: ``when_ready.py URL... -- program arguments``. Standard library only."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request

EVERY_S = 0.2


def main() -> None:
    """Wait, then become the program."""
    split = sys.argv.index("--")
    asked = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for url in sys.argv[1:split]:
        while not _answers(asked, url):
            time.sleep(EVERY_S)
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])  # noqa: S606 - replacing ourselves is what this is for


def _answers(asked: urllib.request.OpenerDirector, url: str) -> bool:
    try:
        with asked.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    main()
