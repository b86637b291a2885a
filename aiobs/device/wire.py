"""What the sampler tells the agent: a line of JSON for each message, ``[kind, content]``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from aiobs.device.base import DeviceEvent, Identity, Reading

HELLO, DEVICES, READINGS, EVENTS, PROCESSES, SLOW, NOTE = (
    "hello", "devices", "readings", "events", "processes", "slow", "note",
)  # fmt: skip
"""Kinds. hello: [pid, start ticks]; devices, readings, events: see the functions; processes: {device: [pid, ...]};
slow: [device, group, seconds, new period]; note: a sentence for people."""
NOW, WHO = b"n", b"p"
"""What the agent asks by: read at once; list the processes."""
LINE_LIMIT = 1 << 20


def line(kind: str, content: Any) -> bytes:
    """One message."""
    return json.dumps([kind, content], separators=(",", ":")).encode() + b"\n"


def messages(raw: bytes) -> tuple[list[tuple[str, Any]], bytes]:
    """The whole messages in `raw`, and what is left over. What is no message is left out."""
    *lines, rest = raw.split(b"\n")
    found: list[tuple[str, Any]] = []
    for text in lines:
        try:
            kind, content = json.loads(text)
        except (ValueError, TypeError):
            continue
        found.append((kind, content))
    return found, rest if len(rest) <= LINE_LIMIT else b""


def pack_devices(identities: Iterable[Identity]) -> list[dict[str, Any]]:
    return [asdict(identity) for identity in identities]


def unpack_devices(content: Any) -> list[Identity]:
    return [Identity(**fields) for fields in content]


def pack_reading(device: str, reading: Reading) -> list[Any]:
    return [device, reading.group, reading.time_ns, reading.duration_ns, dict(reading.values)]


def unpack_readings(content: Any) -> Iterator[tuple[str, Reading]]:
    for device, group, time_ns, duration_ns, values in content:
        yield device, Reading(group, time_ns, values, duration_ns)


def pack_events(events: Iterable[DeviceEvent]) -> list[dict[str, Any]]:
    return [asdict(event) for event in events]


def unpack_events(content: Any) -> list[DeviceEvent]:
    return [DeviceEvent(**fields) for fields in content]
