"""What network interfaces and InfiniBand ports have counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")
WORD_BYTES = 4
"""InfiniBand ports count data in words."""


@dataclass(frozen=True)
class Traffic:
    """Counters of one interface or port, since it came up."""

    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    received_errors: int
    sent_errors: int


def read_interfaces(proc: Path = PROC) -> dict[str, Traffic]:
    """The interfaces of our network namespace by name, without the loopback."""
    try:
        lines = (proc / "net" / "dev").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, Traffic] = {}
    for line in lines:
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) >= 11 and name.strip() != "lo":
            numbers = [int(words[i]) for i in (0, 8, 1, 9, 2, 10)]
            found[name.strip()] = Traffic(*numbers)
    return found


def read_infiniband(sys: Path = SYS) -> dict[str, Traffic]:
    """InfiniBand and RoCE ports as ``<device>/<port>``; {} where there are none."""
    found: dict[str, Traffic] = {}
    for counters in sorted((sys / "class" / "infiniband").glob("*/ports/*/counters")):
        received, sent = (_whole(counters / f"port_{way}_data") for way in ("rcv", "xmit"))
        if received is None or sent is None:
            continue
        packets = [_whole(counters / f"port_{way}_packets") or 0 for way in ("rcv", "xmit")]
        errors = [_whole(counters / name) or 0 for name in ("port_rcv_errors", "port_xmit_discards")]
        name = f"{counters.parents[2].name}/{counters.parent.name}"
        found[name] = Traffic(received * WORD_BYTES, sent * WORD_BYTES, *packets, *errors)
    return found


def _whole(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:  # a counter that this hardware does not have
        return None
    return int(text) if text.isdigit() else None
