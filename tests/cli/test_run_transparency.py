"""Under ``aiobs run`` a command behaves exactly as without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .conftest import AIOBS, Run, environment

Launch = Callable[..., "subprocess.Popen[bytes]"]


@pytest.mark.parametrize(
    "command",
    [
        ["echo", "hällo"],
        ["bash", "-c", "head -c 100000 /dev/zero; echo err >&2; exit 3"],
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.write('to stderr')"],
        [sys.executable, "-c", "raise SystemExit('a message and code 1')"],
        [sys.executable, "-c", "1/0"],
        [sys.executable, "-c", "import sys; print(sys.path, sys.argv, sys.flags, __name__)", "a b", "--name", "x"],
    ],
    ids=["echo", "bash", "bytes", "message", "traceback", "path"],
)
def test_output_and_exit_code_are_the_commands_own(command: list[str], tmp_path: Path) -> None:
    bare = subprocess.run(command, env=environment(), capture_output=True, cwd=tmp_path, check=False)
    ours = subprocess.run(
        [*AIOBS, "run", "--quiet", "--", *command], env=environment(), capture_output=True, cwd=tmp_path, check=False
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_exit_codes_pass_through(aiobs: Run, code: int) -> None:
    assert aiobs("run", "--", "bash", "-c", f"exit {code}").returncode == code


def test_the_separator_may_be_left_out(aiobs: Run) -> None:
    done = aiobs("run", "--quiet", "echo", "--name", "x", "--", "y")
    assert done.stdout == b"--name x -- y\n"


def test_the_summary_goes_to_stderr_only(aiobs: Run) -> None:
    done = aiobs("run", "--", "echo", "hi")
    assert done.stdout == b"hi\n"
    assert b"exit 0" in done.stderr
    assert b"run folder aiobs-runs/" in done.stderr


def test_stdin_is_the_commands(aiobs: Run) -> None:
    assert aiobs("run", "--quiet", "--", "tr", "a-z", "A-Z", input=b"piped\n").stdout == b"PIPED\n"


def test_a_pipeline_with_process_substitution(tmp_path: Path) -> None:
    ours = " ".join(AIOBS) + " run --quiet --"
    script = f"seq 3 | {ours} cat - <(echo four) | {ours} sort -r | head -1"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr) == (b"four\n", b"")


def test_a_reader_that_leaves_kills_the_writer_as_usual(tmp_path: Path) -> None:
    script = f"{' '.join(AIOBS)} run --quiet -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, cwd=tmp_path, check=False)
    assert done.stdout == b"y\n141\n"


@pytest.mark.parametrize(
    ("command", "code"), [("./nothing-here", 127), ("nothing-at-all", 127), ("/etc/passwd", 126), ("/", 126)]
)
def test_what_cannot_be_started_ends_as_with_env(aiobs: Run, tmp_path: Path, command: str, code: int) -> None:
    done = aiobs("run", "--", command)
    assert done.returncode == code
    assert done.stderr.startswith(f"aiobs: {command}: ".encode())
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "aiobs-runs").exists()


def test_a_script_without_interpreter_line_runs_in_sh(aiobs: Run, tmp_path: Path) -> None:
    script = tmp_path / "plain"
    script.write_text("echo $1 $0; exit 4\n")
    script.chmod(0o755)
    done = aiobs("run", "--quiet", "--", "./plain", "one")
    assert (done.stdout, done.returncode) == (b"one ./plain\n", 4)


def test_the_c_locale_is_not_changed_for_the_command(tmp_path: Path) -> None:
    bare = {key: text for key, text in environment().items() if not key.startswith("LC_") and key != "LANG"}
    done = subprocess.run(
        [*AIOBS, "run", "--quiet", "--", "env"],
        env={**bare, "LANG": "C"},
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert b"LC_CTYPE" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGHUP])
def test_death_by_signal_is_passed_on_to_the_caller(aiobs: Run, number: signal.Signals) -> None:
    done = aiobs("run", "--", "bash", "-c", f"kill -{number.value} $$")
    assert done.returncode == -number
    assert f"killed by {number.name}".encode() in done.stderr


WAIT = """
import signal, sys, time
got = []
def note(number, frame):
    got.append(number)
    print(signal.Signals(number).name, flush=True)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, note)
print("ready", flush=True)
deadline = time.monotonic() + 20
while len(got) < int(sys.argv[1]) and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
print(len(got), flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT]
)
def test_signals_to_the_launcher_reach_the_command_once(launch: Launch, number: signal.Signals) -> None:
    process = launch(["run", "--quiet", "--", sys.executable, "-c", WAIT, "1", "0.2"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == (f"{number.name}\n1\n".encode(), b"", 7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_to_the_whole_group_are_not_doubled(launch: Launch, number: signal.Signals) -> None:
    process = launch(["run", "--quiet", "--", sys.executable, "-c", WAIT, "3", "0.2"], preexec_fn=os.setpgrp)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    for _ in range(2):
        os.killpg(process.pid, number)
        assert process.stdout.readline() == f"{number.name}\n".encode()
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == (f"{number.name}\n3\n".encode(), b"", 7)


def test_nothing_of_ours_is_left_in_the_group(launch: Launch) -> None:
    process = launch(["run", "--quiet", "--", "bash", "-c", "echo ready; exec sleep 30"], preexec_fn=os.setpgrp)
    assert process.stdout is not None
    process.stdout.readline()

    def group() -> set[str]:
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                if int(fields[2]) == process.pid and fields[0] != "Z":
                    found.add((entry / "cmdline").read_text().partition("\0")[0])
            except OSError:
                continue
        return found

    deadline = time.monotonic() + 5
    while "aiobs-bystander" not in group():
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    while group() != {"sleep"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_reaches_the_command_once(tmp_path: Path) -> None:
    master, slave = os.openpty()
    command = [*AIOBS, "run", "--quiet", "--", sys.executable, "-c", WAIT, "1", "0.3"]
    script = "import os, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        env=environment(),
        cwd=tmp_path,
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.write(master, b"\x03")
    out, err = process.communicate(timeout=30)
    os.close(master)
    os.close(slave)
    assert (out, err, process.returncode) == (b"SIGINT\n1\n", b"", 7)


def test_a_stopped_group_goes_on(launch: Launch) -> None:
    process = launch(["run", "--quiet", "--", sys.executable, "-c", WAIT, "1", "0"], preexec_fn=os.setpgrp)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGTSTP)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"SIGUSR1\n1\n", 7)


def test_the_command_outlives_a_killed_launcher(launch: Launch, tmp_path: Path) -> None:
    script = f"echo $$; sleep 0.5; echo alive > {tmp_path}/proof"
    process = launch(["run", "--quiet", "--", "bash", "-c", script])
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while not (tmp_path / "proof").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_unusable_runtime_directory_costs_the_recording_only(aiobs: Run, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    done = aiobs("run", "--", "echo", "ran", env={"AIOBS_RUNTIME_DIR": str(open_to_all)})
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert done.stderr.startswith(b"aiobs: nothing is recorded: ")
    assert b"chmod 700" in done.stderr


def test_a_working_directory_that_takes_no_folder_costs_the_recording_only(aiobs: Run, tmp_path: Path) -> None:
    (tmp_path / "aiobs-runs").write_text("a file is in the way")
    done = aiobs("run", "--", "bash", "-c", "echo ran; exit 6")
    assert (done.returncode, done.stdout) == (6, b"ran\n")
    assert done.stderr.startswith(b"aiobs: nothing is recorded: ")
    assert b"name another folder" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_switched_off_it_only_runs_the_command(aiobs: Run, tmp_path: Path) -> None:
    done = aiobs("run", "--", "bash", "-c", "echo ran $PYTHONPATH; exit 5", env={"AIOBS_ENABLED": "0"})
    assert (done.returncode, done.stderr) == (5, b"")
    assert b"pythonpath" not in done.stdout
    assert not (tmp_path / "aiobs-runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "true"], b""),
        ([], b"command"),
        (["--env", "novalue", "true"], b"--env='novalue': write NAME=VALUE"),
        (["--keep-every", "-3", "true"], b"AIOBS_KEEP_EVERY='-3'"),
        (["--no-folder", "true"], b"leaves nowhere to write to"),
        (["--run-dir", "/proc/nowhere", "true"], b"/proc/nowhere"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(aiobs: Run, words: Sequence[str], said: bytes) -> None:
    done = aiobs("run", "--quiet", *words)
    assert done.returncode == (2 if said else 0)
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
