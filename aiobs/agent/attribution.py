"""Which GPUs each recorded process uses, what they did, and what of it belongs to which span."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiobs import names
from aiobs.agent.curve import Curve
from aiobs.agent.energy import Presence, Sharing
from aiobs.agent.exits import stat_fields
from aiobs.agent.reader import FlightReader
from aiobs.agent.readings import Readings, Statistics
from aiobs.agent.work import Work
from aiobs.clock import monotonic_ns
from aiobs.device.base import Identity, Reading
from aiobs.errors import RecordError
from aiobs.telemetry import SpanEvent, Value

MARGIN_NS = 20_000_000
"""What began or ended so long before the records were read is in what was read."""
STARTING_NS = 5_000_000_000
EVER = 1 << 62


class Gpu:
    """One device, as far as readings of it have come.

    Attributes:
        identity: None for one known from an earlier agent only. `lost`: no more readings are to be expected.
    """

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity
        self.readings = Readings()
        self.sharing = Sharing()
        self.lost = False

    @property
    def told_ns(self) -> int:
        """Up to when readings tell what it did."""
        energy = self.readings.energy
        return energy.times[-1] if energy is not None else self.readings.until_ns


class Attribution:
    """See the module's text. Implements :class:`aiobs.agent.work.Hardware`.

    Attributes:
        gpus: by id. `works`: by key.
        listed: whether the devices of this host are known.
        expected: whether readings are to be expected. `hurry`: asks for one at once.
    """

    def __init__(self, period_s: float, clock: Callable[[], int] = monotonic_ns) -> None:
        """`period_s`: seconds between two readings."""
        self.gpus: dict[str, Gpu] = {}
        self.works: dict[str, Work] = {}
        self.listed = self.expected = False
        self.hurry: Callable[[], None] = lambda: None
        self._patience_ns = int((2 * period_s + 0.5) * 1e9)
        self.now = clock
        self._by_pid: dict[int, tuple[str, ...]] = {}

    @property
    def patience_ns(self) -> int:
        """A span waits so long for a reading; longer while the sampler is still starting."""
        return self._patience_ns if self.listed else max(self._patience_ns, STARTING_NS)

    # -- processes -----------------------------------------------------------------------------------------
    def enter(self, reader: FlightReader, key: str) -> Work:
        """A recorded process has appeared."""
        ours = stat_fields(reader.pid)[1] == reader.start_ticks  # else it counts pids in a namespace of its own
        run_span = bytes.fromhex(reader.route.run_span)
        work = self.works[key] = Work(key, reader.pid if ours else 0, reader.wall_offset, run_span, self)
        work.identity = reader.pid, reader.start_ticks
        work.since_ns = reader.created_ns
        return work

    def leave(self, work: Work) -> None:
        """Nothing of this process will be asked for any more."""
        self.works.pop(work.key, None)
        for gpu in self.gpus.values():
            gpu.sharing.forget(work.key)

    def assign(self, work: Work) -> None:
        """Find the GPUs of a process: by its own word, else by what the driver says."""
        if work.wanted is None:
            work.gpus = self._by_pid.get(work.pid, work.gpus if not self.listed else ())
        elif self.listed:
            known = {gpu.partition("-")[2]: gpu for gpu in self.gpus}
            bare = (gpu if gpu in self.gpus else known.get(gpu.rpartition("GPU-")[2], "") for gpu in work.wanted)
            work.gpus = tuple(dict.fromkeys(gpu for gpu in bare if gpu))
        elif self.expected:
            work.gpus = work.wanted

    def silent(self) -> bool:
        """Whether a process has not said which GPUs it uses, so that only the driver knows."""
        return any(work.wanted is None for work in self.works.values())

    # -- what the sampler says -----------------------------------------------------------------------------
    def devices(self, identities: Iterable[Identity]) -> None:
        """These devices are there now."""
        there = {identity.id: identity for identity in identities}
        for gpu, identity in there.items():
            known = self.gpus.setdefault(gpu, Gpu())
            known.identity, known.lost = identity, False
        for gpu, known in self.gpus.items():
            known.lost = known.lost or gpu not in there
        self.listed = True

    def reading(self, gpu: str, reading: Reading) -> None:
        """A device was read."""
        known = self.gpus.get(gpu)
        if known is not None:
            known.readings.add(reading)
            known.lost = False

    def lose(self, gpu: str) -> None:
        """A device is gone: nobody is to wait for readings of it, until there are some."""
        if gpu in self.gpus:
            self.gpus[gpu].lost = True

    def processes(self, users: Mapping[str, Iterable[int]]) -> None:
        """Which processes (pids) the driver sees on each device."""
        found: dict[int, list[str]] = {}
        for gpu, pids in users.items():
            for pid in pids:
                found.setdefault(pid, []).append(gpu)
        self._by_pid = {pid: tuple(gpus) for pid, gpus in found.items()}

    def hit(self, gpu: str, event: SpanEvent, time_ns: int) -> None:
        """Something happened to a device (`time_ns` monotonic): the processes on it are told."""
        family = {gpu, self.owner(gpu)}
        for work in self.works.values():
            if any(used in family or self.owner(used) in family for used in work.gpus):
                work.happened(SpanEvent(event.name, time_ns + work.offset, event.attributes))

    def owner(self, gpu: str) -> str:
        """The device whose energy counter counts for `gpu`: an instance of a divided GPU has none of its own."""
        known = self.gpus.get(gpu)
        return known.identity.parent or gpu if known is not None and known.identity is not None else gpu

    # -- settling ------------------------------------------------------------------------------------------
    def settle(self, drained_ns: int) -> None:
        """Share what was drawn up to the newest readings.

        Args:
            drained_ns: all records written before that have been read (monotonic ns).
        """
        drained_ns -= MARGIN_NS
        due = {
            name: min(drained_ns, gpu.told_ns)
            for name, gpu in self.gpus.items()
            if gpu.told_ns > (gpu.sharing.until_ns or 0) and drained_ns >= gpu.told_ns
        }
        if not due:
            return
        looked: list[Work] = []
        for work in self.works.values():
            self.assign(work)
            if work.gpus:
                try:
                    work.units.look(*work.look())
                except RecordError:
                    pass  # whoever reads the records next says so
                looked.append(work)
        for name, until in due.items():
            gpu = self.gpus[name]
            present = {
                work.key: Presence((work.since_ns, work.ended_ns), work.units.all())
                for work in looked
                if name in {self.owner(used) for used in work.gpus}
            }
            gpu.sharing.settle(gpu.readings.energy or _NONE, until, present)
        for work in looked:
            work.units.settled(min(self._ledger_ns(used) for used in work.gpus))
            work.settle()

    def _ledger_ns(self, gpu: str) -> int:
        owner = self.gpus.get(self.owner(gpu))
        return owner.sharing.until_ns or 0 if owner is not None and not owner.lost else EVER if owner else 0

    # -- what work asks ------------------------------------------------------------------------------------
    def waits(self, work: Work) -> bool:  # noqa: ARG002 - the same for all
        """Whether readings are to be expected."""
        return self.expected

    def settled_ns(self, work: Work) -> int:
        """See :class:`aiobs.agent.work.Hardware`."""
        return min((self._ledger_ns(gpu) for gpu in work.gpus), default=EVER)

    def energy(self, work: Work, begin_ns: int, end_ns: int) -> float | None:
        """See :class:`aiobs.agent.work.Hardware`."""
        owners = {self.owner(gpu) for gpu in work.gpus} & self.gpus.keys()
        if not owners or not all(self.gpus[gpu].readings.counted(begin_ns, end_ns) for gpu in owners):
            return None
        parts = [self.gpus[gpu].sharing.drawn(work.key, begin_ns, end_ns) for gpu in owners]
        return sum(part for part in parts if part is not None) if None not in parts else None

    def totals(self, work: Work) -> dict[str, Value]:
        """See :class:`aiobs.agent.work.Hardware`."""
        accounts = [
            account
            for gpu in {self.owner(gpu) for gpu in work.gpus} & self.gpus.keys()
            if (account := self.gpus[gpu].sharing.accounts.get(work.key)) is not None
            and self.gpus[gpu].readings.energy is not None
        ]
        if not accounts:
            return {}
        outside = sum(account.outside for account in accounts)
        inside = sum(account.inside for account in accounts)
        return {names.GPU_SPAN_ENERGY: inside + outside, names.GPU_SPAN_ENERGY_OUTSIDE: outside}

    def attributes(self, work: Work, begin_ns: int, end_ns: int) -> dict[str, Value]:
        """See :class:`aiobs.agent.work.Hardware`."""
        there = [gpu for gpu in work.gpus if gpu in self.gpus]
        if not there:
            return {}
        found = _attributes([self.gpus[gpu].readings.statistics(begin_ns, end_ns) for gpu in there])
        joules = self.energy(work, begin_ns, end_ns)
        if joules is not None:
            found[names.GPU_SPAN_ENERGY] = joules
        if len(there) == 1:
            found[names.HW_ID] = there[0]
        return found

    # -- across the agent's death --------------------------------------------------------------------------
    def forget(self) -> None:
        """Drop the accounts of processes that are gone."""
        for gpu in self.gpus.values():
            for key in gpu.sharing.accounts.keys() - self.works.keys():
                gpu.sharing.forget(key)

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        anchors = {key: work.units.anchors() for key, work in self.works.items()}
        return {
            name: {"readings": gpu.readings.snapshot(), "sharing": gpu.sharing.snapshot(anchors)}
            for name, gpu in self.gpus.items()
            if gpu.readings.until_ns
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `snapshot` gave."""
        for name, past in state.items():
            gpu = self.gpus[name] = Gpu()
            gpu.readings.restore(past["readings"])
            gpu.sharing.restore(past["sharing"])


_NONE = Curve()
_NONE.add(0, 0.0)


def _attributes(all_gpus: list[Statistics]) -> dict[str, Value]:
    """What is said of a span that ran on these GPUs."""
    found: dict[str, Value] = {names.GPU_SPAN_SAMPLES: min(it.samples for it in all_gpus)}
    means = [it.mean for it in all_gpus if it.mean is not None]
    if means:
        found[names.GPU_SPAN_UTILIZATION_MEAN] = round(sum(means) / len(means), 6)
        found[names.GPU_SPAN_UTILIZATION_MAX] = max(it.max for it in all_gpus if it.max is not None)
    memory = [it.memory_bytes for it in all_gpus if it.memory_bytes is not None]
    if memory:
        found[names.GPU_SPAN_MEMORY_PEAK] = int(max(memory))
    if any(it.throttle_known for it in all_gpus):
        found[names.GPU_SPAN_THROTTLED] = max((s for it in all_gpus for s in it.throttled_s.values()), default=0.0)
        for it in all_gpus:
            for reason, seconds in it.throttled_s.items():
                key = names.GPU_SPAN_THROTTLED_PREFIX + reason
                before = found.get(key, 0.0)
                assert isinstance(before, float)
                found[key] = max(before, seconds)
    return found
