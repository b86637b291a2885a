"""Which GPUs would be read, what cannot be read of them, and why there are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from aiobs.cli.findings import NOTE, OK, PROBLEM, Finding
from aiobs.device.fake import with_library
from aiobs.device.likely import likely
from aiobs.settings import Settings

TIMEOUT_S = 30.0
_LOOK = "from aiobs.cli.device_check import look; look()"


def check_devices(settings: Settings) -> Iterator[Finding]:
    """Open the vendors' libraries as the agent's sampler does: in a process of their own, which may hang."""
    if settings.devices == "off":
        yield Finding("devices", NOTE, "AIOBS_DEVICES=off: no GPU is read")
        return
    if not likely(os.environ):
        yield Finding("devices", OK, "no GPU on this host")
        return
    home = os.pathsep.join(path for path in sys.path if path)
    environment = with_library({**os.environ, "PYTHONPATH": home})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        yield Finding("devices", PROBLEM, f"the driver did not answer within {TIMEOUT_S:g} s", "see whether nvidia-smi hangs too; the node may need a reboot")  # fmt: skip
        return
    except (subprocess.CalledProcessError, ValueError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        yield Finding("devices", PROBLEM, f"the GPUs cannot be looked at: {said[-1] if said else error}")
        return
    yield from _findings(found)


def _findings(found: dict[str, Any]) -> Iterator[Finding]:
    for library in found["libraries"]:
        names = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in library["devices"].items())
        fake = library["fake"]
        text = f"{library['vendor']}, driver {library['driver'] or 'unknown'}: {names}"
        yield Finding("devices", NOTE if fake else OK, f"fake GPUs: {text}" if fake else text)
        for problem in library["problems"]:
            yield Finding("devices", NOTE, f"{library['vendor']}: {problem}")
    if not found["libraries"] and not any(absent["worth_saying"] for absent in found["absent"]):
        yield Finding("devices", OK, "no GPU that can be read on this host")
    for absent in found["absent"]:
        if absent["worth_saying"]:
            yield Finding("devices", PROBLEM, f"{absent['vendor']} GPUs cannot be read: {absent['reason']}", absent["remedy"])  # fmt: skip


def look() -> None:
    """Print what there is as JSON, for :func:`check_devices`."""
    from dataclasses import asdict

    from aiobs.device.find import open_libraries

    found = open_libraries()
    libraries = []
    for library in found.libraries:
        identities = [device.identity for device in library.devices()]
        library.wait_events(0)
        names = [f"{identity.name}{' (instance)' if identity.parent else ''}" for identity in identities]
        libraries.append(
            {
                "vendor": library.vendor,
                "driver": identities[0].driver if identities else "",
                "devices": {name: names.count(name) for name in dict.fromkeys(names)},
                "fake": any(identity.fake for identity in identities),
                "problems": list(library.problems),
            }
        )
    found.close()
    print(json.dumps({"libraries": libraries, "absent": [asdict(absent) for absent in found.absent]}))
