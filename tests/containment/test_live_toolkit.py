"""Chaos Toolkit runs that are watched and judged by the control."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.identity import stat_fields

from .conftest import SPEC
from .live_services import SHORT, Services

pytest.importorskip("chaoslib", reason="needs Chaos Toolkit: pip install 'aiobs-sdk[chaos]'")
pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason="needs OTLP's messages")
pytestmark = pytest.mark.usefixtures("armed")
CHAOS = [sys.executable, "-m", "chaostoolkit", "--no-version-check"]


def action(name: str, func: str, module: str = "actions", **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": f"aiobs.chaos.toolkit.{module}", "func": func, "arguments": arguments}
    return {"type": "action", "name": name, "provider": provider}


def experiment(tmp_path: Path, pid: int, hold_s: float, **control: Any) -> None:
    (tmp_path / "spec.yaml").write_text(SHORT)
    provider = {"type": "python", "module": "aiobs.chaos.toolkit.control", "arguments": {"spec": "${spec}", **control}}
    contained = {**action("contained", "contained", "verdict"), "type": "probe", "tolerance": True}
    (tmp_path / "experiment.json").write_text(json.dumps({
        "title": "a replica hangs", "description": "nobody else notices", "configuration": {"spec": str(tmp_path / "spec.yaml")},
        "controls": [{"name": "aiobs", "provider": provider}],
        "steady-state-hypothesis": {"title": "it stays where it should", "probes": [contained]},
        "method": [
            action("before", "hold", seconds=3.5),
            action("pause", "process_pause", target=f"pid:{pid}", duration_s=120, boundary="aiobs.replica=b"),
            action("hold", "hold", seconds=hold_s),
            action("undo", "undo_faults"),
        ],
        "rollbacks": [],
    }))  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


def run(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CHAOS, "run", "--hypothesis-strategy", "after-method-only", "experiment.json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def stopped(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] == "T"  # type: ignore[index]


def test_the_journal_holds_the_verdict_and_makes_a_report(tmp_path: Path, services: Services) -> None:
    port = free_port()
    services.start("a", f"http://127.0.0.1:{port}")
    victim = services.start("b", f"http://127.0.0.1:{port}")
    experiment(tmp_path, victim.pid, 4, listen=f"127.0.0.1:{port}", folder=str(tmp_path / "received"))
    said, _ = run(tmp_path).communicate(timeout=90)
    journal = json.loads((tmp_path / "journal.json").read_text())
    told = journal["aiobs"]
    assert (told["verdict"], journal["status"], journal["deviated"]) == ("contained", "completed", False), said
    assert told["injections"][0]["fault"] == "process.pause" and told["residue"] == [] and told["aborted"] == ""
    (verdict,) = told["verdicts"]
    assert verdict["fault"]["id"] == told["injections"][0]["injection"] and verdict["cells"]
    assert journal["steady_states"]["after"]["probes"][0]["output"] is True


def test_chaos_report_makes_a_report_of_such_a_journal(tmp_path: Path, scene: Any) -> None:
    chaos = os.environ.get("CHAOS_REPORT_BINARY") or shutil.which("chaos", path=str(Path(sys.executable).parent))
    if chaos is None or subprocess.run([chaos, "report", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("no chaos report (pip install chaostoolkit-reporting); CHAOS_REPORT_BINARY may name a `chaos` that has it")  # fmt: skip
    if shutil.which("pandoc") is None:
        pytest.skip("chaos report needs pandoc (Debian package pandoc)")
    scene.replica("a")
    scene.replica("b", lambda at: 35 <= at < 69)
    scene.fault()
    scene.write()
    experiment(tmp_path, os.getpid(), 1, folder=str(scene.folder))
    what = json.loads((tmp_path / "experiment.json").read_text()) | {"method": [action("hold", "hold", seconds=0)]}
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "experiment.json").write_text(json.dumps(what))
    said, _ = run(tmp_path).communicate(timeout=60)
    assert json.loads((tmp_path / "journal.json").read_text())["aiobs"]["verdict"] == "contained", said
    done = subprocess.run([chaos, "--no-version-check", "report", "--export-format=html", "journal.json", "report.html"], cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a replica hangs" in (tmp_path / "report.html").read_text()


def test_a_neighbour_that_suffers_interrupts_the_run(tmp_path: Path, services: Services) -> None:
    port = free_port()
    services.start("a", f"http://127.0.0.1:{port}")
    victim = services.start("b", f"http://127.0.0.1:{port}")
    experiment(tmp_path, victim.pid, 100, listen=f"127.0.0.1:{port}", folder=str(tmp_path / "received"))
    running = run(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not stopped(victim.pid) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        services.flag.touch()
        said, _ = running.communicate(timeout=40)
    finally:
        running.kill()
    assert not stopped(victim.pid)
    journal = json.loads((tmp_path / "journal.json").read_text())
    assert running.returncode == 1 and journal["status"] == "interrupted", said
    assert journal["aiobs"]["verdict"] == "aborted", said
    assert "availability of aiobs.replica=a fails far more than 1.00%" in journal["aiobs"]["aborted"]
    assert "the experiment is stopped" in said


def refused(tmp_path: Path) -> str:
    done = run(tmp_path)
    said, _ = done.communicate(timeout=60)
    journal = json.loads((tmp_path / "journal.json").read_text())
    assert done.returncode == 1 and journal["run"] == [] and journal["status"] == "interrupted"
    return said


def test_a_spec_that_does_not_fit_is_refused_before_the_method(tmp_path: Path, scene: Any) -> None:
    scene.replica("a")
    scene.replica("b")
    scene.write()
    experiment(tmp_path, os.getpid(), 1, folder=str(scene.folder))
    (tmp_path / "spec.yaml").write_text(SPEC.replace("- each: aiobs.replica\npermitted: [aiobs.replica=b]", "- each: aiobs.tenant\npermitted: [aiobs.tenant=b]"))  # fmt: skip
    said = refused(tmp_path)
    assert "spec.yaml:2: boundaries.each='aiobs.tenant': no telemetry carries it; there are aiobs.replica" in said
    (tmp_path / "spec.yaml").write_text("boundaries: [")
    assert "write valid YAML" in refused(tmp_path)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"spec": "", "listen": "127.0.0.1:0"}, "name the file with boundaries and SLOs"),
    ({}, "give an address to receive OTLP at, or the run folder"),
    ({"folder": "/no/such/folder"}, "there is no such run folder"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    experiment(tmp_path, os.getpid(), 1, **arguments)
    assert says in refused(tmp_path)
