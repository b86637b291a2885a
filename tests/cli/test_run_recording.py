"""What ``aiobs run`` records of a command, however that ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, environment
from .run_folders import named, only_run, spans

Launch = Callable[..., "subprocess.Popen[bytes]"]

TRACED = """
import os, signal, sys, time
import aiobs
with aiobs.span("work", part=1):
    pass
with aiobs.span("open"):
    print("ready", flush=True)
    exec(sys.argv[1])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "traced.py"
    path.write_text(TRACED)
    return path


def test_one_trace_from_run_to_span(aiobs: Run, tmp_path: Path, script: Path) -> None:
    aiobs("run", "--", sys.executable, str(script), "pass")
    folder = only_run(tmp_path)
    (run,), (process,), (work,) = named(folder, "run"), named(folder, "process"), named(folder, "work")
    assert run.get("parentSpanId", "") == ""
    assert process["parentSpanId"] == run["spanId"]
    assert work["parentSpanId"] == process["spanId"]
    assert {span["traceId"] for span in spans(folder)} == {run["traceId"]}
    assert run["attributes"]["process.command_args"] == [sys.executable, str(script), "pass"]
    assert run["attributes"]["process.exit.code"] == 0
    assert run["attributes"]["aiobs.exit.cause"] == "exit"
    assert run["resource"]["service.name"] == "traced"
    assert json.loads((folder / "run.json").read_text())["run_name"] == "traced"


def test_the_callers_trace_goes_on(aiobs: Run, tmp_path: Path, script: Path) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    aiobs("run", "--", sys.executable, str(script), "pass", env={"TRACEPARENT": f"00-{trace}-{parent}-01"})
    (run,), (work,) = named(only_run(tmp_path), "run"), named(only_run(tmp_path), "work")
    assert (run["traceId"], run["parentSpanId"]) == (trace, parent)
    assert work["traceId"] == trace


def test_a_run_within_a_run_has_a_folder_of_its_own(aiobs: Run, tmp_path: Path, script: Path) -> None:
    inner = f"{sys.executable} -m aiobs.cli run --quiet -- {sys.executable} {script} pass"
    aiobs("run", "--name", "outer", "--", "bash", "-c", inner)
    folders = {
        folder.name.partition("-")[2].partition("-")[2]: folder for folder in (tmp_path / "aiobs-runs").iterdir()
    }
    assert set(folders) == {"outer", "traced"}
    (outer,), (run,) = named(folders["outer"], "run"), named(folders["traced"], "run")
    assert (run["traceId"], run["parentSpanId"]) == (outer["traceId"], outer["spanId"])
    assert named(folders["traced"], "work")
    assert not named(folders["outer"], "work")


def test_options_become_the_commands_environment(aiobs: Run, tmp_path: Path) -> None:
    done = aiobs(
        "run", "--quiet", "--name", "my run", "--service", "svc", "--keep-every", "7", "--env", "A=b=c", "--run-dir", "here", "--protocol", "grpc",
        "--", "env",
    )  # fmt: skip
    seen = dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)
    assert seen["OTEL_SERVICE_NAME"] == "svc"
    assert seen["AIOBS_KEEP_EVERY"] == "7"
    assert seen["A"] == "b=c"
    assert seen["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc"
    assert seen["AIOBS_RUN_NAME"] == "my run"
    assert seen["AIOBS_EXPORTERS"] == "jsonl"
    assert seen["AIOBS_RUN_DIR"] == str(tmp_path / "here")
    assert (tmp_path / "here" / "traces.jsonl").is_file()


def test_secrets_of_the_command_line_stay_out(aiobs: Run, tmp_path: Path) -> None:
    words = [
        "--api-key",
        "s3cret-a",
        "--hf-token=s3cret-b",
        "WANDB_API_KEY=s3cret-c",
        "https://me:s3cret-d@host/x",
        "--max-tokens",
        "512",
    ]
    aiobs("run", "--", "echo", *words)
    assert b"s3cret" not in b"".join(path.read_bytes() for path in only_run(tmp_path).iterdir())
    (run,) = named(only_run(tmp_path), "run")
    assert run["attributes"]["process.command_args"][-2:] == ["--max-tokens", "512"]


@pytest.mark.parametrize(
    ("ending", "cause", "code", "number", "shown"),
    [
        ("os._exit(3)", "exit", 3, None, b"exit 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal", None, "SIGKILL", b"killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal", None, "SIGSEGV", b"killed by SIGSEGV"),
        ("os.abort()", "signal", None, "SIGABRT", b"killed by SIGABRT"),
    ],
)
def test_a_dead_command_leaves_its_spans_and_its_cause(
    aiobs: Run,
    tmp_path: Path,
    script: Path,
    ending: str,
    cause: str,
    code: int | None,
    number: str | None,
    shown: bytes,
) -> None:
    done = aiobs("run", "--", sys.executable, str(script), ending)
    folder = only_run(tmp_path)
    (run,), (process,), (work,), (left_open,) = (named(folder, name) for name in ("run", "process", "work", "open"))
    for span in (run, process):
        assert span["attributes"]["aiobs.exit.cause"] == cause
        assert span["attributes"].get("process.exit.code") == code
        assert span["attributes"].get("aiobs.exit.signal") == number
    assert "aiobs.truncated" not in run["attributes"]
    assert "aiobs.truncated" not in work["attributes"]
    assert left_open["attributes"]["aiobs.truncated"] is True
    assert shown in done.stderr
    assert b"cut off" in done.stderr


def test_a_span_that_is_the_first_of_its_name_survives_as_well(aiobs: Run, tmp_path: Path) -> None:
    code = "import aiobs, os, time\nwith aiobs.span('first'): pass\ntime.sleep(0.6)\nwith aiobs.span('alone'): os.kill(os.getpid(), 9)"
    done = aiobs("run", "--", sys.executable, "-c", code)
    (alone,) = named(only_run(tmp_path), "alone")
    assert alone["attributes"]["aiobs.truncated"] is True
    assert b"Not complete" not in done.stderr


def test_a_killed_launcher_leaves_a_run_that_says_so(launch: Launch, tmp_path: Path, script: Path) -> None:
    process = launch(["run", "--quiet", "--", sys.executable, str(script), "time.sleep(3)"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 20
    status = Path(os.environ["AIOBS_RUNTIME_DIR"]) / "agent" / "status.json"
    while not status.exists() or len(json.loads(status.read_text())["adopted"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while not (named(only_run(tmp_path), "open") and named(only_run(tmp_path), "run")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (run,), (finished,) = named(only_run(tmp_path), "run"), named(only_run(tmp_path), "open")
    assert run["attributes"]["aiobs.truncated"] is True
    assert run["attributes"]["aiobs.exit.signal"] == "SIGKILL"
    assert "aiobs.truncated" not in finished["attributes"]


def test_an_oom_kill_is_named(aiobs: Run, tmp_path: Path) -> None:
    group = Path(f"/sys/fs/cgroup/memory/aiobs-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(256 << 20))
        (group / "memory.memsw.limit_in_bytes").write_text(str(256 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 to write to: {error}")
    hungry = tmp_path / "hungry.py"
    hungry.write_text("import aiobs\nwith aiobs.span('eat'):\n    kept = [bytearray(1 << 20) for _ in range(2000)]\n")
    try:
        done = aiobs("run", "--", "bash", "-c", f"echo $$ > {group}/cgroup.procs; exec {sys.executable} {hungry}")
        assert b"out of memory" in done.stderr
        (process,) = named(only_run(tmp_path), "process")
        assert process["attributes"]["aiobs.exit.cause"] == "oom_kill"
    finally:
        deadline = time.monotonic() + 5
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.rmdir()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([sys.executable, "-I", "-c", "pass"], b"-I keeps PYTHONPATH or sitecustomize out"),
        ([sys.executable, "-c", "pass"], b"no Python process of the command imported"),
        (["true"], b"started no Python process"),
        ([sys.executable, "-m", "pip", "--version"], b"skipped: python -m pip"),
    ],
    ids=["isolated", "no-library", "no-python", "tool"],
)
def test_it_says_why_nothing_was_recorded(aiobs: Run, command: list[str], said: bytes) -> None:
    assert said in aiobs("run", "--", *command).stderr


def test_a_python_without_aiobs_is_named(aiobs: Run, tmp_path: Path) -> None:
    other = shutil.which("python3", path="/usr/bin:/bin")
    if (
        other is None
        or subprocess.run(
            [other, "-c", "import aiobs"], env={}, cwd=tmp_path, capture_output=True, check=False
        ).returncode
        == 0
    ):
        pytest.skip("needs a system Python without aiobs")
    done = aiobs("run", "--env", "PYTHONPATH=", "--", other, "-c", "print('ran')")
    assert done.stdout == b"ran\n"
    assert b"aiobs is not installed there; run  " in done.stderr
    assert b"-m pip install aiobs-sdk" in done.stderr


@pytest.mark.slow
def test_torchrun_puts_all_ranks_into_one_trace(aiobs: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "ddp.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(4):\n"
        "    optimizer.zero_grad(); model(torch.ones(2, 8)).sum().backward(); optimizer.step()\n"
        "dist.destroy_process_group()\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    done = aiobs("run", "--", *torchrun, timeout=100, env={"OMP_NUM_THREADS": "1"})
    # Without us too one in about ten of such short jobs aborts in PyTorch's own threads after its last line.
    assert done.returncode == 0 or b"terminate called without an active exception" in done.stderr, done.stderr.decode()
    folder = only_run(tmp_path)
    (run,) = named(folder, "run")
    processes = named(folder, "process")
    assert {span["parentSpanId"] for span in processes} == {run["spanId"]}
    assert sorted(span["resource"]["aiobs.rank"] for span in processes) == [0, 1]
    roots, others = named(folder, "train step"), named(folder, "rank step")
    assert sorted(span["attributes"]["aiobs.step"] for span in roots) == [0, 1, 2, 3]
    assert {(span["traceId"], span["parentSpanId"]) for span in others} == {
        (span["traceId"], span["spanId"]) for span in roots
    }
    assert b"4 steps on each of 2 ranks" in done.stderr


@pytest.mark.slow
def test_restarts_by_torchrun_are_shown(aiobs: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "fails_once.py"
    script.write_text(
        "import os, sys, torch\n"
        "model = torch.nn.Linear(2, 2); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad(); model(torch.ones(1, 2)).sum().backward(); optimizer.step()\n"
        "sys.exit(5 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 0)\n"
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "2",
        str(script),
    ]
    done = aiobs("run", "--", *torchrun, timeout=100, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr.decode()
    events = [event for span in named(only_run(tmp_path), "process") for event in span.get("events", [])]
    assert [event["name"] for event in events].count("aiobs.run.restart") == 1
    assert b"1 restart by the launcher" in done.stderr
    assert b"exit 5" in done.stderr
    assert len({span["traceId"] for span in named(only_run(tmp_path), "train step")}) == 6


def test_sigterm_to_the_launcher_ends_both_in_order(launch: Launch, tmp_path: Path, script: Path) -> None:
    process = launch(["run", "--", sys.executable, str(script), "time.sleep(30)"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert b"killed by SIGTERM" in err
    assert named(only_run(tmp_path), "open")[0]["attributes"]["aiobs.truncated"] is True


def test_run_takes_the_environment_of_a_job_on_several_nodes(tmp_path: Path) -> None:
    from aiobs.cli.run_plan import identity, new_run_id

    first = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0"}
    second = {**first, "SLURM_PROCID": "1"}
    assert new_run_id(first) == new_run_id(second)
    (root, above, is_root), (other, parent, is_other_root) = (
        identity(each, new_run_id(each)) for each in (first, second)
    )
    assert (above, is_root, is_other_root) == (None, True, False)
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (root.trace_id, root.span_id)
    assert other.trace_id == root.trace_id
    assert other.span_id != root.span_id
    assert environment()
