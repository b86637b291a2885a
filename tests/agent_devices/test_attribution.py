"""Spans wait for readings, not for ever; GPUs are found by the process's word or the driver's."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest

from aiobs import names
from aiobs.agent import work as work_module
from aiobs.agent.attribution import Attribution
from aiobs.agent.exits import stat_fields
from aiobs.agent.work import Work
from aiobs.device import quantities as q
from aiobs.device.base import FAST, Identity, Reading
from aiobs.telemetry import Resource, Row, Shape, SpanEvent

S = 10**9
BOOT_S = 100
"""Second 0 of the scripts, in the monotonic clock."""


def at(second: float) -> int:
    return int((BOOT_S + second) * S)


SHAPE = Shape("work")
SERVER = Shape("request", 2)


class Scripted:
    """An attribution whose clock, readings and processes are scripted; seconds throughout."""

    def __init__(self, *identities: Identity) -> None:
        self.now_s = 0.0
        self.attribution = Attribution(1.0, lambda: at(self.now_s))
        self.attribution.expected = True
        self.attribution.devices(
            identities or [Identity("GPU-1", 0, "Test", "test"), Identity("GPU-2", 1, "Test", "test")]
        )

    def process(self, key: str, *gpus: str, pid: int = 0) -> Work:
        reader: Any = SimpleNamespace(
            pid=pid or os.getpid(), start_ticks=stat_fields(pid or os.getpid())[1], wall_offset=0, created_ns=0,
            route=SimpleNamespace(run_span="22" * 8),
        )  # fmt: skip
        work = self.attribution.enter(reader, key)
        if gpus:
            work.described(Resource({names.GPU_IDS: list(gpus)}))
        self.attribution.assign(work)
        return work

    def read(self, second: float, gpu: str = "GPU-1", **values: float) -> None:
        keys = {"joules": q.ENERGY, "busy": q.UTILIZATION}
        self.now_s = max(self.now_s, second)
        self.attribution.reading(gpu, Reading(FAST, at(second), {keys[k]: v for k, v in values.items()}))

    def settle(self, second: float) -> None:
        self.now_s = second
        self.attribution.settle(at(second))


def row(number: int, begin: float, end: float, shape: Shape = SHAPE, parent: bytes = b"") -> Row:
    return shape, b"t" * 16, number.to_bytes(8, "big"), parent, at(begin), at(end), (), None


def through(work: Work, *rows: Row, final: bool = False) -> list[Row]:
    work.see(rows)
    return work.through(list(rows), final=final)


def told(row: Row) -> dict[str, Any]:
    return dict(row[7].attributes) if row[7] else {}


def test_a_span_waits_for_the_reading_after_its_end_and_then_has_its_figures() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.read(0, joules=0, busy=0.5)
    machine.settle(0.1)
    assert through(work, row(1, 0.2, 0.9)) == []
    machine.read(1, joules=100, busy=0.5)
    machine.settle(1.1)
    (done,) = through(work)
    assert told(done)[names.GPU_SPAN_ENERGY] == pytest.approx(70)
    assert told(done)[names.GPU_SPAN_UTILIZATION_MEAN] == 0.5
    assert told(done)[names.HW_ID] == "GPU-1"


def test_a_process_without_gpus_is_not_delayed_and_pays_nothing() -> None:
    machine = Scripted()
    work = machine.process("a")
    rows = [row(1, 0, 1)]
    assert work.through(rows, final=False) is rows
    assert rows[0][7] is None


def test_a_span_does_not_wait_for_ever_and_is_counted() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.read(0, joules=0)
    machine.settle(0.1)
    assert through(work, row(1, 0.2, 0.9)) == []
    machine.now_s = 2.4
    assert through(work) == []
    machine.now_s = 2.8
    (done,) = through(work)
    assert told(done) == {}
    assert [p.value for m in work.metrics.collect(1) if m.name == names.GPU_ROWS_UNATTRIBUTED for p in m.points] == [1]


def test_no_span_waits_for_a_sampler_that_is_gone_or_a_gpu_that_is_lost() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.attribution.expected = False
    assert len(through(work, row(1, 0, 1))) == 1
    machine.attribution.expected = True
    machine.attribution.lose("GPU-1")
    assert len(through(work, row(2, 1, 2))) == 1
    machine.read(3, joules=1)  # it is back
    assert through(work, row(3, 3, 4)) == []
    machine.attribution.devices([Identity("GPU-2", 1, "Test", "test")])
    assert len(through(work, row(4, 4, 5))) == 2


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "ROWS_LIMIT", 10)
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    out = through(work, *(row(number, 0, 1) for number in range(25)))
    assert [int.from_bytes(done[2], "big") for done in out] == list(range(15))
    assert len(through(work, final=True)) == 10


def test_what_waits_survives_the_agent_once_and_with_its_joules() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.read(0, joules=0)
    machine.settle(0.1)
    machine.read(1, joules=100)
    machine.settle(1.1)
    assert through(work, row(1, 1.2, 1.4), row(2, 1.2, 1.4, parent=b"p" * 8)) == []
    kept = json.loads(json.dumps([machine.attribution.snapshot(), work.snapshot()]))
    later = Scripted()
    later.attribution.restore(kept[0])
    again = later.process("a", "GPU-1")
    again.restore(kept[1])
    later.read(3, joules=300)
    again.see([row(1, 1.2, 1.4)])  # the record is read again, as its turn was not committed
    later.settle(3.1)
    out = through(again)
    assert [int.from_bytes(done[2], "big") for done in out] == [1, 2]
    assert told(out[0])[names.GPU_SPAN_ENERGY] == pytest.approx(20)


def test_units_that_ended_before_the_agent_died_still_have_their_part() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.read(0, joules=0)
    machine.settle(0.1)
    assert through(work, row(1, 0.2, 0.6), row(2, 0.4, 0.8)) == []
    work.step(7, at(0.2), at(0.8))
    kept = json.loads(json.dumps([machine.attribution.snapshot(), work.snapshot()]))
    later = Scripted()
    later.attribution.restore(kept[0])
    again = later.process("a", "GPU-1")
    again.restore(kept[1])
    later.read(1, joules=100)
    later.settle(1.1)
    energies = [told(done)[names.GPU_SPAN_ENERGY] for done in through(again)]
    assert energies == [pytest.approx(10 + 20 / 3), pytest.approx(10 + 20 / 3)]
    account = later.attribution.gpus["GPU-1"].sharing.accounts["a"]
    assert (account.inside, account.outside) == (pytest.approx(60), pytest.approx(40))


def test_the_driver_knows_the_gpus_of_a_process_that_does_not_say_them() -> None:
    machine = Scripted()
    work = machine.process("a")
    assert machine.attribution.silent()
    machine.attribution.processes({"GPU-1": [1, os.getpid()], "GPU-2": [2]})
    machine.attribution.assign(work)
    assert work.gpus == ("GPU-1",)


@pytest.mark.parametrize("said", ["GPU-1", "1"])
def test_an_id_is_known_with_and_without_its_prefix(said: str) -> None:
    machine = Scripted()
    assert machine.process("a", said, "GPU-of-another-host").gpus == ("GPU-1",)


def test_instances_share_the_energy_of_their_gpu() -> None:
    whole = Identity("GPU-1", 0, "Test", "test")
    parts = [Identity(f"MIG-{number}", 0, "Test", "test", parent="GPU-1") for number in (1, 2)]
    machine = Scripted(whole, *parts)
    one, other = machine.process("a", "MIG-1"), machine.process("b", "MIG-2")
    for second in (0, 10):
        machine.read(second, joules=second * 100)
        machine.read(second, "MIG-1", busy=0.9)
        machine.read(second, "MIG-2", busy=0.1)
        machine.settle(second + 0.1)
        if not second:
            assert through(one, row(1, 0, 10)) + through(other, row(2, 5, 10)) == []
    (first,), (second_,) = through(one), through(other)
    assert told(first)[names.GPU_SPAN_ENERGY] == pytest.approx(500 + 250)
    assert told(second_)[names.GPU_SPAN_ENERGY] == pytest.approx(250)
    assert told(first)[names.HW_ID] == "MIG-1"


def test_a_span_on_two_gpus_has_the_energy_of_both_and_the_most_of_each() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1", "GPU-2")
    for second in (0, 1):
        machine.read(second, joules=second * 100, busy=0.2)
        machine.read(second, "GPU-2", joules=second * 50, busy=0.8)
        machine.settle(second + 0.1)
    (late,) = through(work, row(1, 0, 1))  # its time had been shared out before it was known
    assert names.GPU_SPAN_ENERGY not in told(late)
    machine.read(2, joules=200, busy=0.2)
    machine.read(2, "GPU-2", joules=100, busy=0.8)
    assert through(work, row(2, 1.25, 1.75)) == []
    machine.settle(2.1)
    (done,) = through(work)
    assert told(done)[names.GPU_SPAN_ENERGY] == pytest.approx(75)
    assert told(done)[names.GPU_SPAN_UTILIZATION_MEAN] == pytest.approx(0.5)
    assert told(done)[names.GPU_SPAN_UTILIZATION_MAX] == 0.8
    assert names.HW_ID not in told(done)


def test_a_reset_of_the_counter_leaves_out_what_it_makes_unknown() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    for second, joules in enumerate((0, 100, 5, 105)):
        machine.read(second, joules=joules)
        work.see([row(second + 1, second + 0.5, second + 0.9)])
        machine.settle(second + 0.1)
    energies = [
        told(done).get(names.GPU_SPAN_ENERGY)
        for done in through(work, *(row(n + 1, n + 0.5, n + 0.9) for n in range(3)))
    ]
    assert energies == [pytest.approx(40), None, pytest.approx(40)]


def test_an_event_hits_the_spans_of_that_time_on_that_gpu() -> None:
    machine = Scripted()
    on, off = machine.process("a", "GPU-1"), machine.process("b", "GPU-2")
    machine.attribution.hit("GPU-1", SpanEvent("xid", 0), at(5))
    rows = [row(1, 0, 4), row(2, 4, 6, SERVER), row(3, 6, 7)]
    assert [bool(done[7] and done[7].events) for done in through(on, *rows, final=True)] == [False, True, False]
    assert [bool(done[7] and done[7].events) for done in through(off, *rows, final=True)] == [False, False, False]
    assert [event.name for event in on.news] == ["xid"]
    assert off.news == []


def test_steps_count_their_energy_whether_they_are_kept_or_not() -> None:
    machine = Scripted()
    work = machine.process("a", "GPU-1")
    machine.read(0, joules=0)
    machine.settle(0.1)
    work.step(1, at(0.1), at(0.5))
    work.step(1, at(0.5), at(0.9))
    machine.read(1, joules=100)
    machine.settle(1.1)
    (metric,) = [metric for metric in work.metrics.collect(1) if metric.name == names.TRAIN_STEP_ENERGY]
    (point,) = metric.points
    assert (point.count, point.sum) == (2, pytest.approx(80))  # type: ignore[union-attr]
