"""The end of ``aiobs run`` says truthfully whether the endpoint took the spans."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from .conftest import Run
from .run_folders import only_run, spans
from .test_send_and_export import Receiver, free_port, receiver, rotel

__all__ = ["receiver", "rotel"]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "work.py"
    script.write_text("import aiobs\nfor _ in range(5):\n    with aiobs.span('work'): pass\n")
    return [sys.executable, str(script)]


@pytest.mark.parametrize(("protocol", "which"), [("http/protobuf", 0), ("grpc", 1)])
def test_a_receiver_that_takes_them(
    aiobs: Run, tmp_path: Path, command: list[str], rotel: tuple[int, int], protocol: str, which: int
) -> None:
    url = f"http://127.0.0.1:{rotel[which]}"
    done = aiobs("run", "--endpoint", url, "--protocol", protocol, "--", *command)
    assert done.returncode == 0
    assert f"aiobs: {len(spans(only_run(tmp_path)))} spans sent to {url}\n".encode() in done.stderr


def test_no_receiver(aiobs: Run, command: list[str]) -> None:
    begun = time.monotonic()
    url = f"http://127.0.0.1:{free_port()}"
    done = aiobs("run", "--endpoint", url, "--", *command)
    assert done.returncode == 0
    assert f"7 items wait for {url}, to be sent when it takes them: ".encode() in done.stderr
    assert b"Connection refused" in done.stderr
    assert b"sent to" not in done.stderr
    assert time.monotonic() - begun < 15


def test_a_receiver_that_refuses_them(aiobs: Run, command: list[str], receiver: tuple[str, type[Receiver]]) -> None:
    url, seen = receiver
    seen.answers[:] = [(400, {}, b"")] * 50
    done = aiobs("run", "--endpoint", url, "--", *command)
    assert done.returncode == 0
    assert f"not taken by {url}: 7 items (refused)".encode() in done.stderr


def test_without_a_folder(aiobs: Run, tmp_path: Path, command: list[str], rotel: tuple[int, int]) -> None:
    done = aiobs("run", "--no-folder", "--endpoint", f"http://127.0.0.1:{rotel[0]}", "--", *command)
    assert b"7 spans sent" in done.stderr
    assert b"run folder" not in done.stderr
    assert not (tmp_path / "aiobs-runs").exists()
