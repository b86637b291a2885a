"""``python -m tests.as_user <folder> <command> …``: root runs a command as an ordinary user.

In mounts of its own, where the interpreter and this tree can be seen though they be in root's home, with a small file
system in ``<folder>/disk`` (AIOBS_TEST_DISK). Nothing of that is seen outside.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

USER = 65534
_CLONE_NEWNS = 0x20000


def why_not() -> str:
    """Why nobody can be made an ordinary user here, or one without namespaces of his own; "" where it can be done."""
    if os.geteuid() != 0:
        return "becomes an ordinary user: needs root"
    if not shutil.which("unshare"):
        return "needs unshare (package util-linux)"
    tried = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, check=False, user=USER, group=USER)
    return "" if tried.returncode == 0 else "this kernel gives users no user namespaces"


def words(folder: Path, *command: str) -> list[str]:
    """The command line that runs `command`, from the tree's folder, as a user to whom ``<folder>/home`` belongs."""
    return [sys.executable, "-m", "tests.as_user", str(folder), *command]


def main() -> None:
    """Become that user and run the command."""
    folder = Path(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        sys.exit(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")
    _mount("--make-rprivate", "/")
    disk, home, stage = folder / "disk", folder / "home", folder / "stage"
    for it in (disk, home, stage):
        it.mkdir()
    os.chown(home, USER, USER)
    _show([Path(it).resolve() for it in (Path(__file__).parents[1], sys.prefix, sys.base_prefix, folder)], stage)
    _mount("-t", "tmpfs", "-o", f"size=4m,uid={USER},gid={USER},mode=700", "tmpfs", str(disk))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    environment = {
        **os.environ, "HOME": str(home), "TMPDIR": str(home), "AIOBS_TEST_DISK": str(disk),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    environment.pop("XDG_RUNTIME_DIR", None)
    os.execvpe(sys.argv[2], sys.argv[2:], environment)


def _show(needed: list[Path], stage: Path) -> None:
    """Lay an empty folder over each one on the way that others may not enter, and put back what is needed."""
    hidden: dict[Path, list[Path]] = {}
    for path in needed:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                hidden.setdefault(parent, []).append(path)
                break
    for parent, paths in hidden.items():
        kept = [stage / f"{number}" for number in range(len(paths))]
        for path, it in zip(paths, kept, strict=True):
            it.mkdir(exist_ok=True)
            _mount("--rbind", str(path), str(it))
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(parent))
        for path, it in zip(paths, kept, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            _mount("--rbind", str(it), str(path))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
