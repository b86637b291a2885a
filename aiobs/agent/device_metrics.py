"""The newest readings of all devices as metrics, by the conventions for hardware."""

from __future__ import annotations

from collections.abc import Mapping

from aiobs import names
from aiobs.agent.attribution import Gpu
from aiobs.agent.device_events import STATES, Health
from aiobs.agent.metrics import Attributes, Metrics
from aiobs.device.base import Identity
from aiobs.device.quantities import COUNTER, QUANTITIES

GPU = "gpu"


def identify(identity: Identity, *, typed: bool) -> Attributes:
    """The attributes that name a device on its metrics."""
    found = [(names.HW_ID, identity.id), (names.HW_NAME, identity.name), (names.HW_VENDOR, identity.vendor)]
    if typed:
        found.append((names.HW_TYPE, GPU))
    if identity.parent:
        found.append((names.HW_PARENT, identity.parent))
    return tuple(found)


def set_devices(metrics: Metrics, gpus: Mapping[str, Gpu], health: Health, offset: int, now_ns: int) -> None:
    """Set everything that is known of the devices.

    Args:
        offset: wall - monotonic clock, ns. `now_ns`: Unix ns.
    """
    for gpu, known in gpus.items():
        identity = known.identity
        if identity is None:
            continue
        plain, typed = identify(identity, typed=False), identify(identity, typed=True)
        for reading in known.readings.newest.values():
            for key, value in reading.values.items():
                row = QUANTITIES.get(key)
                if row is None:
                    continue
                attributes = (*(typed if row.typed else plain), *row.attributes)
                if known.lost and row.kind != COUNTER:
                    metrics.drop(row.metric, attributes)  # a level that nobody reads any more is no level
                else:
                    metrics.set(row.metric, value, reading.time_ns + offset, attributes)
        for (device, kind), count in health.errors.items():
            if device == gpu:
                metrics.set(names.HW_ERRORS, count, now_ns, (*typed, (names.ERROR_TYPE, kind)))
        state = health.states.get(gpu, STATES[0])
        for one in STATES:
            metrics.set(names.HW_STATUS, float(one == state), now_ns, (*typed, (names.HW_STATE, one)))
        if known.readings.energy is not None:
            metrics.set(names.GPU_ENERGY_UNATTRIBUTED, known.sharing.unattributed, now_ns, plain)
