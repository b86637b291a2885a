"""The experiments in examples/chaos are valid and run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .chaos_scene import eventually

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "examples" / "chaos").glob("*.json"))
CHAOS = [sys.executable, "-m", "chaostoolkit", "--no-version-check"]
pytest.importorskip("chaoslib", reason="needs Chaos Toolkit: pip install 'aiobs-sdk[chaos]'")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(path: Path, tmp_path: Path) -> None:
    text = path.read_text("utf-8")
    if "Needs root" in text and os.geteuid() != 0:
        pytest.skip("needs root")
    if "nftables" in text and not shutil.which("nft"):
        pytest.skip("needs nft (package nftables)")
    pidfile = tmp_path / "victim.pid"
    victim = subprocess.Popen([sys.executable, ROOT / "examples/chaos/victim.py", pidfile, "18080"])
    done = threading.Event()

    def talk() -> None:
        while not done.wait(0.02):
            try:
                with socket.create_connection(("127.0.0.1", 18080), 0.2) as it:
                    it.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    it.settimeout(0.2)
                    it.recv(1)
            except OSError:
                continue

    client = threading.Thread(target=talk)
    try:
        assert eventually(pidfile.exists)
        client.start()
        environment = {**os.environ, "VICTIM_PIDFILE": str(pidfile)}
        for verb in ("validate", "run"):
            run = subprocess.run(
                [*CHAOS, verb, path], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, run.stdout + run.stderr
        journal = json.loads((tmp_path / "journal.json").read_text())
        assert journal["status"] == "completed"
        assert [it["status"] for it in journal["run"]] == ["succeeded"] * 3
        (injection,) = journal["aiobs"]["injections"]
        assert injection["evidence"]
        assert journal["aiobs"]["residue"] == []
    finally:
        done.set()
        if client.ident:
            client.join()
        victim.kill()
        victim.wait()
