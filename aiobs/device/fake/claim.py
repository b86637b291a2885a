"""Which fake GPU a process is on: its local rank's, as it would choose a real one."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from aiobs import names
from aiobs.device.fake import VARIABLE
from aiobs.device.fake.gpu import fake_uuid
from aiobs.device.fake.layout import STRUCTURES


def resource(environment: Mapping[str, str]) -> dict[str, object]:
    """Resource attributes of a process among fake GPUs; none where there are none."""
    try:
        with open(environment[VARIABLE], "rb") as file:
            file.seek(STRUCTURES["State"].gpu_count.offset)
            (count,) = struct.unpack("=I", file.read(4))
    except (OSError, struct.error):
        return {}
    rank = environment.get("LOCAL_RANK", "0")
    if not count or not rank.isdecimal():
        return {}
    return {names.GPU_IDS: [fake_uuid(int(rank) % count)], names.GPU_FAKE: True}
