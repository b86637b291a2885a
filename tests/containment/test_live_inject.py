"""A real fault, watched: real services send their telemetry while it is held, and it ends when a neighbour suffers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .live_services import SHORT, Services

pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason="needs OTLP's messages")
pytestmark = pytest.mark.usefixtures("armed")


class Inject:
    """``aiobs chaos inject --watch``, whose lines are read as they come."""

    def __init__(self, tmp_path: Path, services: Services, *more: str, seconds: int = 4) -> None:
        (tmp_path / "spec.yaml").write_text(SHORT)
        self.folder = tmp_path / "received"
        # What listens has to be there first: the services come up while it looks on, and one of them is the target.
        services.flag.unlink(missing_ok=True)
        self.pid_file = tmp_path / "b.pid"
        self.pid_file.write_text(str(os.getpid()))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiobs.cli", "chaos", "inject", "process.pause", f"pidfile:{self.pid_file}", "--duration", str(seconds), "--boundary", "aiobs.replica=b",
             "--watch", str(tmp_path / "spec.yaml"), "--listen", "127.0.0.1:0", "--folder", str(self.folder), "--json", *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        endpoint = self.hear("listening")["lines"][0]
        services.start("a", endpoint)
        victim = services.start("b", endpoint)
        self.pid_file.write_text(str(victim.pid))

    def hear(self, what: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["is"] == what:
                return said
        _, error = self.process.communicate()
        raise AssertionError(f"it never said {what}: {error}")

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


def test_a_fault_that_stays_inside_is_contained(tmp_path: Path, services: Services) -> None:
    it = Inject(tmp_path, services, seconds=12)  # a pause of a busy machine is a small part of it
    assert it.hear("undone")["lines"] == ["its time is over"]
    verdict = it.hear("verdict")["verdict"]
    assert (verdict["kind"], it.end()) == ("contained", 0), verdict["sentence"]


def test_a_neighbour_that_suffers_ends_it_at_once_and_the_verdict_says_aborted(tmp_path: Path, services: Services) -> None:  # fmt: skip
    it = Inject(tmp_path, services, seconds=60)
    effective = it.hear("effective")
    services.flag.touch()
    undone = it.hear("undone")
    assert "aborted: availability of aiobs.replica=a fails far more than 1.00%" in undone["lines"][0]
    assert (undone["at"] - effective["at"]) / 1e9 < 20
    verdict = it.hear("verdict")["verdict"]
    assert (verdict["kind"], it.end()) == ("aborted", 14)
    assert "fails far more than 1.00%" in verdict["sentence"]
    # It is on the record: the folder alone says the same.
    again = subprocess.run([sys.executable, "-m", "aiobs.cli", "verdict", str(it.folder), "--spec", str(tmp_path / "spec.yaml")], capture_output=True, text=True, check=False)  # fmt: skip
    assert again.returncode == 14 and "fails far more than 1.00%" in again.stdout


def test_told_to_end_it_undoes_and_judges_nothing(tmp_path: Path, services: Services) -> None:
    it = Inject(tmp_path, services, seconds=60)
    it.hear("effective")
    it.process.send_signal(signal.SIGTERM)
    assert it.hear("undone")["lines"] == ["the experiment asked for it"]
    assert it.end() == 128 + signal.SIGTERM


@pytest.mark.parametrize(("words", "says"), [
    (["--listen", "127.0.0.1:0"], "--listen.*belongs to --watch"),
    (["--watch", "SPEC"], "give an address to receive OTLP at, or the run folder"),
    (["--watch", "SPEC", "--folder", "/no/such"], "there is no such run folder"),
    (["--watch", "SPEC", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"], "one address for HTTP"),
    (["--watch", "nowhere.yaml", "--listen", "127.0.0.1:0"], "name a readable file"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str) -> None:  # fmt: skip
    from aiobs.chaos.command import main
    from aiobs.errors import AiobsError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SHORT)
    words = [str(tmp_path / "spec.yaml") if word == "SPEC" else word for word in words]
    handlers = [signal.getsignal(it) for it in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    try:
        with pytest.raises(AiobsError, match=says):
            main(["inject", "process.pause", f"pid:{os.getpid()}", *words])
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), handlers, strict=True):
            signal.signal(number, handler)


FOLLOWED = """
import os, sys, time
os.environ["AIOBS_REPLICA"] = sys.argv[1]
import aiobs
aiobs.init(service_name="llm")
while True:
    with aiobs.span("POST /v1", **{"aiobs.replica": sys.argv[1]}) as it:
        time.sleep(0.005)
        if os.path.exists(sys.argv[2]):
            it.fail("ill")
"""


def test_in_python_a_run_folder_that_aiobs_writes_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiobs import chaos
    from aiobs.chaos.containment.sources.following import Following
    from aiobs.chaos.containment.spec import read_spec
    from aiobs.chaos.containment.watch import Watch

    monkeypatch.setenv("AIOBS_RUN_ID", "one-run")
    text = SHORT.replace("{type: aiobs, spec: {sli: availability}}", "{type: aiobs, spec: {spans: {span.name: POST /v1}, bad: {error: true}}}")  # fmt: skip
    (tmp_path / "spec.yaml").write_text(text)
    flag = tmp_path / "ill"
    a, b = (subprocess.Popen([sys.executable, "-c", FOLLOWED, name, str(flag if name == "a" else "/nowhere")]) for name in "ab")  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not (found := [*(tmp_path / "run").rglob("traces*.jsonl")]) and time.monotonic() < deadline:
            time.sleep(0.05)
        with Watch(read_spec(tmp_path / "spec.yaml"), Following(found[0].parent)) as watch:
            with chaos.Lease(watch=watch) as lease:
                with chaos.inject("process.pause", f"pid:{b.pid}", lease=lease, duration_s=60, boundary="aiobs.replica=b") as injection:  # fmt: skip
                    flag.touch()
                    assert injection.wait(30)
        assert "of aiobs.replica=a fails far more than 1.00%" in injection.aborted
    finally:
        for process in (a, b):
            process.kill()
            process.wait()
