"""Run something as a user without any rights, from tests that run as root.

The interpreter and the tree may lie in folders that only root may enter. In a mount namespace of its own, such a
folder is covered by an empty one, in which only what is needed is found, at its usual path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).parents[2]


def why_not() -> str:
    """Why this cannot be done here, "" where it can."""
    if os.geteuid() != 0:
        return "becomes another user: needs root"
    if not shutil.which("setpriv"):
        return "needs setpriv (package util-linux)"
    allowed = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "unshare", "-Urnm", "true"],
        capture_output=True, check=False,
    )  # fmt: skip
    return "" if allowed.returncode == 0 else "this kernel gives users no user namespaces"


@contextmanager
def home_of_nobody() -> Iterator[Path]:
    """A folder that the user may write."""
    folder = Path(tempfile.mkdtemp(prefix="aiobs-nobody-"))
    os.chown(folder, NOBODY, NOBODY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_as_nobody(
    argv: Sequence[str], home: Path, variables: Mapping[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `argv`, in the tree's folder, as a user to whom nothing belongs but `home`."""
    kept = {it: os.environ[it] for it in ("PATH", "LANG", "AIOBS_CHAOS", "AIOBS_ENVIRONMENT") if it in os.environ}
    environment = {
        **kept, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
        **(variables or {}),
    }  # fmt: skip
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]
    with tempfile.TemporaryDirectory(prefix="aiobs-paths-") as stash:
        os.chmod(stash, 0o755)
        script = "\n".join([*_opened(Path(stash)), f"cd {shlex.quote(str(ROOT))}", f"exec {shlex.join(words)}"])
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script],
            env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


def _opened(stash: Path) -> list[str]:
    """The commands that make interpreter and tree reachable for everybody."""
    needed = sorted({Path(it).resolve() for it in (sys.base_prefix, sys.prefix, ROOT)})
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        above = [it for it in reversed(path.parents) if not it.stat().st_mode & 0o001]
        if above and not any(path.is_relative_to(it) for it in closed.get(above[0], ())):
            closed.setdefault(above[0], []).append(path)
    lines = []
    paths = [path for found in closed.values() for path in found]
    for index, path in enumerate(paths):
        lines += [f"mkdir {stash}/{index}", f"mount --rbind {shlex.quote(str(path))} {stash}/{index}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(folder))}" for folder in closed]
    for index, path in enumerate(paths):
        place = shlex.quote(str(path))
        lines += [f"mkdir -p {place}", f"mount --rbind {stash}/{index} {place}"]
    return lines
