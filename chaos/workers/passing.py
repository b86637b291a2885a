"""A file system that passes everything on to the folder it covers, after :class:`Strain` had its say.

The folder is held by a descriptor that was opened before the mount, so that everything is reached below it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Iterable
from threading import Event, local
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy

from aiobs.chaos.workers.strain import Strain

_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2
_THREADS = 64
"""So many operations may wait at the same time."""
_STAT = (
    "st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize",
)  # fmt: skip
_HIDDEN = ".fuse_hidden"
"""How the library names a file that was removed while it is open."""
_NOT_BELOW = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_DIRECT
"""Flags that are the kernel's business; direct writes want memory that is aligned, which ours is not."""


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _below(path: str) -> str:
    return path.lstrip("/") or "."


def _looked_at(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # removed since it was listed
        return None


def _attributes(found: os.stat_result) -> dict[str, Any]:
    times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
    return {**{name: getattr(found, name) for name in _STAT}, "st_rdev": found.st_rdev, **times}


class Passing(mfusepy.Operations):  # type: ignore[misc]
    """See the module's text. A file's handle is the descriptor of the file below."""

    use_ns = True
    flag_nopath = flag_nullpath_ok = True

    def __init__(self, root: int, strain: Strain) -> None:
        self._root, self._strain = root, strain
        self._names: dict[int, str] = {}
        self._removed: dict[str, int] = {}
        self._thread = local()
        self.started = Event()

    def _hit(self, kinds: str | tuple[str, ...], name: str, size: int = 0) -> int:
        """Let the operation wait or fail; returns how many bytes of it may be done."""
        begun = getattr(self._thread, "begun", "")
        self._thread.begun = ""
        return size if begun and begun == name else self._strain.on(kinds, name, size)

    def init(self, path: str) -> None:  # noqa: ARG002
        self.started.set()

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        fh = self._removed.get(_last(path or ""), -1) if fh is None else fh
        if fh >= 0:
            return _attributes(os.fstat(fh))
        return _attributes(os.stat(_below(path or ""), dir_fd=self._root, follow_symlinks=False))

    def statfs(self, path: str) -> dict[str, int]:  # noqa: ARG002
        found = os.statvfs(self._root)
        names = (
            "f_bavail",
            "f_bfree",
            "f_blocks",
            "f_bsize",
            "f_favail",
            "f_ffree",
            "f_files",
            "f_frsize",
            "f_namemax",
        )
        return {name: getattr(found, name) for name in names}

    def opendir(self, path: str) -> int:
        descriptor = os.open(_below(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
        self._names[descriptor] = path
        return descriptor

    def readdir(self, path: str | None, fh: int) -> Iterable[tuple[str, dict[str, int], int]]:  # noqa: ARG002
        self._hit("list", self._names.get(fh, ""))
        # A descriptor of its own: listing moves its position, and two may list the same open folder.
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fh)
        try:
            found = [
                (name, {"st_ino": it.st_ino, "st_mode": it.st_mode}, 0)
                for name in os.listdir(folder)
                if (it := _looked_at(name, folder)) is not None
            ]
        finally:
            os.close(folder)
        return [(".", {"st_mode": stat.S_IFDIR}, 0), ("..", {"st_mode": stat.S_IFDIR}, 0), *found]

    def releasedir(self, path: str | None, fh: int) -> int:
        return self.release(path, fh)

    def readlink(self, path: str) -> str:
        return os.readlink(_below(path), dir_fd=self._root)

    # -- files ----------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        self._hit(("open", "change") if flags & os.O_ACCMODE != os.O_RDONLY else "open", path)
        descriptor = os.open(_below(path), flags & ~_NOT_BELOW | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        self._names[descriptor] = path
        return descriptor

    def create(self, path: str, mode: int, flags: int) -> int:  # type: ignore[override, unused-ignore]
        self._hit(("open", "change"), path)
        wanted = flags & ~os.O_DIRECT | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_below(path), wanted, mode, dir_fd=self._root)
        self._give_to_caller(path)
        self._names[descriptor] = path
        return descriptor

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        content = os.pread(fh, size, offset)
        allowed = self._hit("read", self._names.get(fh, ""), len(content))
        return content[:allowed]

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        allowed = self._hit("write", self._names.get(fh, ""), len(data))
        return os.pwrite(fh, data[:allowed], offset)

    def flush(self, path: str | None, fh: int) -> int:  # noqa: ARG002
        self._hit("close", self._names.get(fh, ""))
        os.close(os.dup(fh))
        return 0

    def fsync(self, path: str | None, datasync: int, fh: int) -> int:  # noqa: ARG002
        self._hit("fsync", self._names.get(fh, ""))
        (os.fdatasync if datasync else os.fsync)(fh)
        return 0

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> int:
        return self.fsync(path, datasync, fh)

    def release(self, path: str | None, fh: int) -> int:  # noqa: ARG002
        self._names.pop(fh, None)
        os.close(fh)
        return 0

    def fallocate(self, path: str | None, mode: int, offset: int, size: int, fh: int) -> int:  # noqa: ARG002
        if mode:
            raise OSError(errno.EOPNOTSUPP, "only plain allocation is passed on")
        self._hit("write", self._names.get(fh, ""))
        os.posix_fallocate(fh, offset, size)
        return 0

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> int:
        fh = self._removed.get(_last(path or "")) if fh is None else fh
        name = self._names.get(fh, "") if fh is not None else path or ""
        self._hit("change", name)
        if fh is not None:
            os.ftruncate(fh, length)
            return 0
        descriptor = os.open(_below(name), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)
        return 0

    # -- names and attributes -------------------------------------------------------------------------------

    def _give_to_caller(self, path: str) -> None:
        """What was made belongs to who asked for it, not to us."""
        if os.geteuid() != 0:
            return
        user, group, _ = mfusepy.fuse_get_context()
        parent = os.stat(os.path.dirname(_below(path)) or ".", dir_fd=self._root)
        inherits = parent.st_mode & stat.S_ISGID
        os.chown(_below(path), user, -1 if inherits else group, dir_fd=self._root, follow_symlinks=False)

    def mkdir(self, path: str, mode: int) -> int:
        self._hit("change", path)
        os.mkdir(_below(path), mode, dir_fd=self._root)
        self._give_to_caller(path)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        self._hit("change", path)
        os.mknod(_below(path), mode, dev, dir_fd=self._root)
        self._give_to_caller(path)
        return 0

    def symlink(self, target: str, source: str) -> int:
        self._hit("change", target)
        os.symlink(source, _below(target), dir_fd=self._root)
        self._give_to_caller(target)
        return 0

    def link(self, target: str, source: str) -> int:
        self._hit("change", target)
        os.link(_below(source), _below(target), src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)
        return 0

    def unlink(self, path: str) -> int:
        if (kept := self._removed.pop(_last(path), None)) is not None:
            os.close(kept)
            return 0
        self._hit("change", path)
        os.unlink(_below(path), dir_fd=self._root)
        return 0

    def rmdir(self, path: str) -> int:
        self._hit("change", path)
        os.rmdir(_below(path), dir_fd=self._root)
        return 0

    def _remove_open(self, path: str, name: str) -> int:
        """Remove a file that is open. The library asks for it to be renamed, so that it keeps a path until it is
        closed, and `name` is this path; here it leaves the folder at once, and a descriptor is kept in its place.

        If it is to give way to a renamed one, the rename follows in the same thread: it has begun here, so what may
        fail has failed before anything was removed.
        """
        self._hit("change", path)
        found = os.stat(_below(path), dir_fd=self._root, follow_symlinks=False)
        for descriptor in list(self._names):
            try:
                if os.path.samestat(os.fstat(descriptor), found):
                    self._removed[name] = os.dup(descriptor)
                    break
            except OSError:  # closed meanwhile
                continue
        os.unlink(_below(path), dir_fd=self._root)
        self._thread.begun = path
        return 0

    def rename(self, old: str, new: str) -> int:
        if _last(new).startswith(_HIDDEN):
            return self._remove_open(old, _last(new))
        self._hit("change", new)
        os.rename(_below(old), _below(new), src_dir_fd=self._root, dst_dir_fd=self._root)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._hit("change", path)
        if (kept := self._removed.get(_last(path))) is not None:
            os.fchmod(kept, stat.S_IMODE(mode))
            return 0
        os.chmod(_below(path), stat.S_IMODE(mode), dir_fd=self._root)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self._hit("change", path)
        if (kept := self._removed.get(_last(path))) is not None:
            os.fchown(kept, uid, gid)
            return 0
        os.chown(_below(path), uid, gid, dir_fd=self._root, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None, fh: int | None = None) -> int:
        self._hit("change", path)
        fh = self._removed.get(_last(path)) if fh is None else fh
        now = time.time_ns()
        if fh is not None:
            os.utime(fh, ns=times or (now, now))
        else:
            os.utime(_below(path), ns=times or (now, now), dir_fd=self._root, follow_symlinks=False)
        return 0


def _moment(seconds: int, nanoseconds: int, old: int) -> int:
    if nanoseconds == _OMIT:
        return old
    return time.time_ns() if nanoseconds == _NOW else seconds * 1_000_000_000 + nanoseconds


class _Served(mfusepy.FUSE):  # type: ignore[misc]
    """What the library leaves out: the open file of a call that has one, and the flags of a rename."""

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
        fh = int(fip.contents.fh) if fip else None
        return int(self.operations.truncate(os.fsdecode(path) if path else None, length, fh))

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        if flags:  # exchange and no-replace: without them the kernel and programs have another way
            return -errno.EINVAL
        return int(self.operations.rename(os.fsdecode(old), os.fsdecode(new)))

    def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> int:
        if path is None:
            os.fchmod(int(fip.contents.fh), stat.S_IMODE(mode))
            return 0
        return int(self.operations.chmod(os.fsdecode(path), mode))

    def utimens_fuse_3(self, path: bytes | None, buf: Any, fip: Any) -> int:
        name, fh = os.fsdecode(path) if path else "", int(fip.contents.fh) if fip else None
        if not buf:
            return int(self.operations.utimens(name, None, fh))
        before = self.operations.getattr(name, fh)
        wanted = (buf.contents.actime, before["st_atime"]), (buf.contents.modtime, before["st_mtime"])
        atime, mtime = (_moment(int(it.tv_sec), int(it.tv_nsec), old) for it, old in wanted)
        return int(self.operations.utimens(name, (atime, mtime), fh))


def serve(passing: Passing, path: str, source: str, kind: str) -> None:
    """Mount at `path` and answer until the kernel needs nothing any more. Raises RuntimeError: it cannot be mounted."""
    os.umask(0)
    options: dict[str, Any] = {"allow_other": True} if os.geteuid() == 0 else {}
    if mfusepy.fuse_version_minor >= 12:  # without it ten at a time would be served, and the eleventh wait for them
        options["max_threads"] = _THREADS
    _Served(
        passing, path, foreground=True, fsname=source, subtype=kind, default_permissions=True, use_ino=True,
        attr_timeout=0, entry_timeout=0, negative_timeout=0, encoding=sys.getfilesystemencoding(),
        **options,
    )  # fmt: skip
