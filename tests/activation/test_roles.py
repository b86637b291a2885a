"""Which Python processes are the user's program, told by their command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aiobs.activation.roles import FORK_SERVER, LAUNCHER, TOOL, WORKER, role

SPAWN = [
    "python",
    "-c",
    "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)",
    "--multiprocessing-fork",
]
PROBE = '\nimport sys\nif sys.platform != "linux":\n    import torch  # noqa: F401\nfrom ctypes import cdll\ncdll.LoadLibrary("/tmp/x.so")\n'


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "train.py"],
        ["python", "train.py", "-m", "pip"],
        ["/opt/venv/bin/python3.11", "-u", "-W", "ignore", "-X", "dev", "train.py"],
        ["python", "-Wignore", "-bb", "--", "-odd-name.py"],
        ["python", "-m", "package.train", "--pip"],
        ["python", "-um", "package.train"],
        ["python", "-c", "import torch; train()"],
        ["python"],
        ["python", "-"],
        ["python", "-m", "debugpy", "--listen", "5678", "train.py"],
        ["python", "-m", "pytest"],
        ["python", "/usr/local/bin/uvicorn", "app:app"],
        ["python", "-m", "aiobs_like.train"],
        ["python", "/home/me/pip/train.py"],
        SPAWN,
    ],
    ids=" ".join,
)
def test_the_users_program(argv: list[str]) -> None:
    assert role(argv) == (WORKER, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "/opt/venv/bin/torchrun", "--nproc-per-node", "2", "train.py"],
        ["python", "-m", "torch.distributed.run", "train.py"],
        ["python", "-m", "torch.distributed.launch", "train.py"],
        ["python", "/opt/venv/bin/accelerate", "launch", "train.py"],
        ["python", "-m", "accelerate.commands.launch", "train.py"],
        ["python", "/opt/venv/bin/deepspeed", "train.py"],
    ],
    ids=" ".join,
)
def test_launchers_of_ranks(argv: list[str]) -> None:
    assert role(argv)[0] == LAUNCHER


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "-m", "pip", "install", "torch"],
        ["python", "-Im", "ensurepip"],
        ["python", "-m", "venv", ".venv"],
        ["python", "/opt/venv/bin/pip3", "list"],
        ["python", "/opt/venv/lib/python3.11/site-packages/pip/__main__.py", "list"],
        ["python", "/opt/venv/lib/python3.11/site-packages/pip/__pip-runner__.py", "list"],
        ["python", "setup.py", "build_ext"],
        ["python", "/opt/venv/bin/opentelemetry-instrument", "python", "train.py"],
        ["python", "-S", "-m", "aiobs.agent", "--runtime-dir", "x"],
        ["python", "/opt/venv/bin/aiobs", "run"],
        ["python", "-m", "aiobs.cli"],
        ["python", "-c", "from multiprocessing.resource_tracker import main;main(6)"],
        ["python", "/opt/torch/_inductor/compile_worker/__main__.py", "--kind=fork"],
        ["python", "/opt/torch/_inductor/__autotune_main__.py", "--parent=3"],
        ["python", "-c", PROBE],
        ["python", "/opt/pycharm/plugins/pydev/pydevd.py", "--file", "train.py"],
    ],
    ids=lambda argv: " ".join(argv)[:50],
)
def test_tools(argv: list[str]) -> None:
    what, why = role(argv)
    assert what == TOOL
    assert why


def test_the_fork_server() -> None:
    assert (
        role(["python", "-c", "from multiprocessing.forkserver import main; main(5, 6, ['__main__'])"])[0]
        == FORK_SERVER
    )


@pytest.mark.parametrize("argv", [[], ["python", "-m"], ["python", "-c"], ["python", "-W"], ["python", "--"]], ids=str)
def test_odd_command_lines_do_no_harm(argv: list[str]) -> None:
    assert role(argv)[0] == WORKER


def test_the_real_processes_of_multiprocessing_look_as_expected() -> None:
    code = (
        "import multiprocessing as m, sys\n"
        "def show(): print(sys.orig_argv, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    import multiprocessing.resource_tracker as t, multiprocessing.util as u\n"
        "    u.spawnv_passfds = lambda path, args, fds: print([a.decode() if isinstance(a, bytes) else a for a in args]) or 1\n"
        "    t._resource_tracker.ensure_running()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    first = done.stdout.splitlines()[0]
    assert role(eval(first))[0] == TOOL
