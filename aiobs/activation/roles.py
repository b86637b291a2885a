"""What a Python process is for, read off its command line: a worker, a launcher of workers, or a tool.

``aiobs run`` reaches every Python that the command starts, and many of them are not the user's program:
compilers' probes, resource trackers, package installers. Those must start as fast as ever and leave no trace.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER = "worker"
LAUNCHER = "launcher"
FORK_SERVER = "forkserver"
"""Never records itself; the workers that it forks do."""
TOOL = "tool"

_VALUE_OPTIONS = frozenset({"-X", "-W", "--check-hash-based-pycs"})
_LAUNCHER_MODULES = frozenset({
    "torch.distributed.run", "torch.distributed.launch", "torch.distributed.elastic.multiprocessing",
    "accelerate.commands.launch", "accelerate.commands.accelerate_cli", "deepspeed.launcher.runner", "deepspeed.launcher.launch",
    "lightning.fabric.cli", "horovod.runner.launch",
})  # fmt: skip
_LAUNCHER_SCRIPTS = frozenset({"torchrun", "accelerate", "accelerate-launch", "deepspeed", "fabric", "horovodrun"})
_TOOL_PACKAGES = frozenset({
    "aiobs", "pip", "ensurepip", "venv", "virtualenv", "conda", "uv", "poetry", "pipx", "build", "setuptools", "compileall", "pydevd",
})  # fmt: skip
_TOOL_SCRIPTS = frozenset({
    "aiobs", "pip", "pip3", "virtualenv", "conda", "mamba", "uv", "poetry", "pipx", "ninja", "cmake", "nvcc", "hipify-clang",
    "setup.py", "pydevd.py", "get-pip.py", "opentelemetry-instrument", "opentelemetry-bootstrap", "ddtrace-run",
})  # fmt: skip
# How children of the standard library, of PyTorch and of pip betray themselves, in a path or in a -c program.
_TOOL_MARKS = (
    "multiprocessing.resource_tracker", "torch/_inductor/", "torch._inductor", "torch/utils/cpp_extension",
    "triton/runtime", "pip/__pip-runner__.py", "pyproject_hooks/_in_process", "debugpy/adapter",
)  # fmt: skip
_PROBE = 'cdll.LoadLibrary("'
"""In the -c programs with which inductor tries out what the processor can do."""


def role(argv: Sequence[str]) -> tuple[str, str]:
    """What the process with the command line `argv` (``sys.orig_argv``) is for, and why it is thought so.

    The second string is empty for an ordinary worker.
    """
    how, program = _main(argv)
    if how == "c" and "multiprocessing.forkserver" in program:
        return FORK_SERVER, "multiprocessing's fork server"
    if how == "c" and _PROBE in program and "from ctypes import cdll" in program:
        return TOOL, "a probe of torch._inductor"
    for mark in _TOOL_MARKS:
        if mark in program:
            return TOOL, f"a process of {mark}"
    if how == "m":
        if program in _LAUNCHER_MODULES:
            return LAUNCHER, program
        if program.partition(".")[0] in _TOOL_PACKAGES:
            return TOOL, f"python -m {program}"
    elif how == "script":
        name = program.replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
        folder = program.replace("\\", "/").split("/")
        if name in _LAUNCHER_SCRIPTS:
            return LAUNCHER, name
        if name in _TOOL_SCRIPTS or (name == "__main__.py" and len(folder) > 1 and folder[-2] in _TOOL_PACKAGES):
            return TOOL, name
    return WORKER, ""


def _main(argv: Sequence[str]) -> tuple[str, str]:
    """How the program was given and what it is: ("c", code), ("m", module), ("script", path) or ("", "")."""
    position = 1
    while position < len(argv):
        word = argv[position]
        if word in _VALUE_OPTIONS:
            position += 2
        elif word == "-" or not word.startswith("-"):
            return "script", word
        elif word == "--":
            return ("script", argv[position + 1]) if position + 1 < len(argv) else ("", "")
        elif word.startswith("--"):
            position += 1
        else:
            for at, letter in enumerate(word[1:], 1):
                if letter in "cm":
                    value = word[at + 1 :] or (argv[position + 1] if position + 1 < len(argv) else "")
                    return letter, value
                if letter in "XW":
                    break  # the rest of the word is its value
            position += 1
    return "", ""
