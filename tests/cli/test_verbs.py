"""The face of the command line: help, version, errors, and the agent's verb."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiobs.cli.figures import count, duration, size, three_digits
from aiobs.cli.main import VERBS
from aiobs.cli.secrets import HIDDEN, redacted
from aiobs.cli.text_table import clip, table

from .conftest import Run

Launch = Callable[..., "subprocess.Popen[bytes]"]


def test_help_names_every_verb(aiobs: Run) -> None:
    done = aiobs("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f"  {verb} ".encode() in done.stdout
    assert aiobs().returncode == 2


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(aiobs: Run, verb: str) -> None:
    done = aiobs(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: aiobs {verb}".encode())


def test_version(aiobs: Run) -> None:
    assert aiobs("--version").stdout.startswith(b"aiobs ")


def test_an_unknown_verb(aiobs: Run) -> None:
    done = aiobs("rnu")
    assert (done.returncode, done.stderr.startswith(b"aiobs: there is no verb 'rnu'; there are run, ")) == (2, True)


def test_a_reader_that_leaves_early_is_no_error(aiobs: Run, tmp_path: Path) -> None:
    from .conftest import AIOBS, environment

    done = subprocess.run(
        ["bash", "-c", f"{' '.join(AIOBS)} --help | head -1"], env=environment(), capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b"usage: aiobs <verb> [options]\n", b"")


def test_the_agent_by_hand(aiobs: Run, launch: Launch, runtime_dir: Path) -> None:
    assert aiobs("agent", "--status").returncode == 1
    assert b"no agent runs" in aiobs("agent", "--stop").stdout
    process = launch(["agent"])
    deadline = time.monotonic() + 20
    while aiobs("agent", "--status").returncode:
        assert time.monotonic() < deadline
    found = json.loads(aiobs("agent", "--status", "--json").stdout)
    assert (found["running"], found["leader"]["pid"]) == (True, process.pid)
    assert b"has an agent already" in aiobs("agent").stdout
    assert f"agent {process.pid} has ended".encode() in aiobs("agent", "--stop").stdout
    assert process.wait(10) == 0


def test_the_agent_of_a_users_program_is_not_stopped(
    aiobs: Run, launch: Launch, runtime_dir: Path, tmp_path: Path
) -> None:
    import sys

    from .conftest import environment

    code = "import aiobs, time; aiobs.init(agent='thread'); print('on', flush=True); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"on\n"
        deadline = time.monotonic() + 10
        while aiobs("agent", "--status").returncode:
            assert time.monotonic() < deadline
        done = aiobs("agent", "--stop")
        assert done.returncode == 2
        assert f"part of process {process.pid}".encode() in done.stderr
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"), (3e-9, "3.00 ns"), (0.0009996, "1.00 ms"), (0.000999, "999 µs"), (0.01234, "12.3 ms"), (1.5, "1.50 s"), (59.97, "60.0 s"),
        (99.96, "1 min 40 s"), (3599.9, "1 h 00 min"), (7500, "2 h 05 min"), (-0.5, "-500 ms"), (None, ""),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (1234567.0, "1.23e+06"),
        (123456, "123,456"),
        (999.6, "1,000"),
        (99.96, "100"),
        (9.996, "10.0"),
        (1, "1.00"),
        (0.012345, "0.0123"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
        (-3.14159, "-3.14"),
    ],
)
def test_three_digits(number: float, shown: str) -> None:
    assert three_digits(number) == shown


def test_sizes_and_counts() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 1 << 30)] == ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "1.00 GiB"]
    assert [count(1, "process", "processes"), count(2, "process", "processes"), count(1000, "step")] == [
        "1 process",
        "2 processes",
        "1,000 steps",
    ]


def test_tables_leave_empty_columns_out_and_align() -> None:
    lines = table(["name", "x", "y", "note<"], [["a", "", "1", "p"], ["bcd", "", "22", ""]])
    assert lines == ["  name    y   note", "  a       1   p", "  bcd    22"]
    assert clip("äöü漢字", 6) == "äöü漢…"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--password", "x"], ["--password", HIDDEN]),
        (["--db-password=x"], [f"--db-password={HIDDEN}"]),
        (["--api_key", "-v"], ["--api_key", "-v"]),
        (["HF_TOKEN=x"], [f"HF_TOKEN={HIDDEN}"]),
        (["trainer.auth_token=x"], [f"trainer.auth_token={HIDDEN}"]),
        (["https://u:p@h/x"], [f"https://{HIDDEN}@h/x"]),
        (
            ["--max-tokens", "5", "--num_tokens=7", "--tokenizer", "bpe"],
            ["--max-tokens", "5", "--num_tokens=7", "--tokenizer", "bpe"],
        ),
        (["--author", "me", "monkey=1", "--keyboard", "us"], ["--author", "me", "monkey=1", "--keyboard", "us"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_secrets(given: list[str], shown: list[str]) -> None:
    assert redacted(given) == shown
