"""``aiobs run --fake-gpu`` and what ``aiobs doctor`` says of GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiobs.cli.device_check import check_devices
from aiobs.cli.findings import NOTE, OK, PROBLEM
from aiobs.device.fake.build import build
from aiobs.device.fake.gpu import fake_uuid
from aiobs.device.fake.state import FakeGpus
from aiobs.settings import Settings

from .conftest import Run, environment
from .run_folders import named, only_run

pytest.importorskip("pynvml")

WORK = """
import os, sys, time
import aiobs
for _ in range(5):
    with aiobs.span("work"):
        time.sleep(0.3)
maps = open("/proc/self/maps").read()
print(os.environ.get("LD_LIBRARY_PATH"), "nvidia-ml" in maps)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "work.py"
    path.write_text(WORK)
    return path


def test_a_run_on_fake_gpus_is_recorded_and_marked(aiobs: Run, tmp_path: Path, script: Path, runtime_dir: Path) -> None:
    done = aiobs("run", "--fake-gpu=2", "--", sys.executable, str(script), env={"LOCAL_RANK": "1", "AIOBS_DEVICE_PERIOD": "0.1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"None", b"False"]  # the command was given no library, and loaded none
    said = done.stderr.decode()
    assert said.count("made up, not measured") == 1
    folder = only_run(tmp_path)
    work = named(folder, "work")
    for span in work:
        assert span["resource"]["aiobs.gpu.fake"] is True
        assert span["resource"]["aiobs.gpu.ids"] == [fake_uuid(1)]
    # Spans from before the first reading have none.
    assert any(span["attributes"].get("aiobs.gpu.energy", 0) > 0 for span in work)
    (run,) = named(folder, "run")
    assert "aiobs.gpu.ids" not in run["resource"]
    measured = [
        (resource, metric)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
        for resource in json.loads(line)["resourceMetrics"]
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == "hw.energy"
    ]
    assert measured
    for resource, _ in measured:
        assert {"key": "aiobs.gpu.fake", "value": {"boolValue": True}} in resource["resource"]["attributes"]
    summary = aiobs("summary")
    assert b"made up, not measured" in summary.stdout
    (own,) = runtime_dir.glob("fake-gpu-*")
    callers = FakeGpus(own / "state").callers()
    assert len(callers) == 1  # the sampler, not the command, the launcher or the agent


def test_what_an_earlier_run_left_is_swept(aiobs: Run, runtime_dir: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f"fake-gpu-{gone.pid}", f"fake-gpu-{os.getpid()}"):
        (runtime_dir / name / "records").mkdir(parents=True)
    unfinished = runtime_dir / f"fake-gpu-{gone.pid}9999999"
    (unfinished / "records").mkdir(parents=True)
    (unfinished / "records" / "1-2-3.fr").touch()
    for path in (runtime_dir, *runtime_dir.rglob("*")):
        path.chmod(0o700)
    aiobs("run", "--fake-gpu", "--quiet", "--", "true")
    left = {path.name for path in runtime_dir.glob("fake-gpu-*")}
    assert f"fake-gpu-{gone.pid}" not in left
    assert {f"fake-gpu-{os.getpid()}", unfinished.name} <= left


@pytest.mark.parametrize(
    ("words", "env", "says"),
    [
        (["--fake-gpu=0"], {}, "no number of GPUs from 1 to 16"),
        (["--fake-gpu", "true"], {}, "before the command write --"),
        (["--fake-gpu"], {"CC": "no-such-cc"}, "install gcc or clang"),
        (["--fake-gpu"], {"AIOBS_DEVICES": "off"}, "AIOBS_DEVICES"),
        (["--fake-gpu"], {"AIOBS_AGENT": "thread"}, "AIOBS_AGENT"),
    ],
)
def test_what_stands_in_the_way_is_said_and_nothing_is_started(
    aiobs: Run, tmp_path: Path, words: list[str], env: dict[str, str], says: str
) -> None:
    done = aiobs("run", *words, "--", "touch", str(tmp_path / "started"), env=env)
    assert done.returncode == 2 and says in done.stderr.decode()
    assert not (tmp_path / "started").exists()


def test_without_pynvml_the_command_is_named(aiobs: Run, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/pynvml.py").write_text("raise ImportError('not here')")
    path = f"{tmp_path / 'hidden'}{os.pathsep}{environment()['PYTHONPATH']}"
    done = aiobs("run", "--fake-gpu", "--", "true", env={"PYTHONPATH": path})
    assert done.returncode == 2
    assert "pip install 'aiobs-sdk[gpu]'" in done.stderr.decode()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    build(tmp_path)
    gpus = FakeGpus.create(tmp_path, 2)
    monkeypatch.setenv("AIOBS_FAKE_GPU", str(gpus.path))
    return gpus


def test_doctor_names_the_gpus(fake: FakeGpus) -> None:
    fake.fail("nvmlEventSetCreate", 4)
    found = list(check_devices(Settings()))
    assert [finding.level for finding in found] == [NOTE, NOTE]
    assert "fake GPUs: nvidia, driver 999.99: FAKE GPU 0, FAKE GPU 1" in found[0].text
    assert "no events" in found[1].text and "no permission" in found[1].text


def test_doctor_says_why_gpus_cannot_be_read(fake: FakeGpus) -> None:
    fake.refuse_init(18)
    (finding,) = check_devices(Settings())
    assert finding.level == PROBLEM and "different versions" in finding.text and "reboot" in finding.remedy


def test_doctor_does_not_hang_with_the_driver(fake: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.hang("")
    monkeypatch.setattr("aiobs.cli.device_check.TIMEOUT_S", 1.0)
    begin = time.monotonic()
    (finding,) = check_devices(Settings())
    assert finding.level == PROBLEM and "did not answer" in finding.text
    assert time.monotonic() - begin < 20


def test_doctor_takes_no_gpu_for_granted() -> None:
    found = list(check_devices(Settings()))
    assert all(finding.level in (OK, NOTE) or finding.remedy for finding in found)
    (off,) = check_devices(Settings(devices="off"))
    assert "AIOBS_DEVICES=off" in off.text
