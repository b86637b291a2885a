"""System calls that Python has not, or not yet in 3.10: namespaces, mounts, interfaces by ioctl, death signals."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

NEWNS, NEWUTS, NEWUSER, NEWNET = 0x00020000, 0x04000000, 0x10000000, 0x40000000
BIND, MOVE, RECURSIVE, PRIVATE = 0x1000, 0x2000, 0x4000, 0x40000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_UP = 1
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def enter(path: str, flag: int) -> None:
    """Enter the namespace that the file `path` holds. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_open(descriptor, flag, path)
    finally:
        os.close(descriptor)


def enter_open(descriptor: int, flag: int, path: str) -> None:
    """Enter the namespace that an open file holds; `path` is for the message. Raises OSError."""
    _checked(_libc.setns(descriptor, flag), path)


def die_with_parent(death: signal.Signals = signal.SIGKILL) -> None:
    """Get the signal `death` when the thread that started this process ends. Taking on other rights undoes it: call it
    last."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2). Raises OSError."""
    _checked(_libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, None), target)


def is_up(interface: str) -> bool:
    """Whether an interface of our network namespace is up. Raises OSError where there is none."""
    return bool(_flags(interface) & _UP)


def set_up(interface: str, up: bool) -> None:
    """Switch an interface of our network namespace on or off. Raises OSError."""
    flags = _flags(interface)
    _ioctl(_SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | _UP if up else flags & ~_UP))


def set_address(interface: str, address: str, mask: str) -> None:
    """Give an interface of our network namespace its IPv4 address. Raises OSError."""
    for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
        told = struct.pack("16sHH4s8x", interface.encode(), socket.AF_INET, 0, socket.inet_aton(value))
        _ioctl(request, told)


def _flags(interface: str) -> int:
    found = _ioctl(_SIOCGIFFLAGS, struct.pack("16sH14x", interface.encode(), 0))
    return int(struct.unpack("16xH14x", found)[0])


def _ioctl(request: int, told: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return fcntl.ioctl(asked.fileno(), request, told)
