"""XIDs, memory errors and lost GPUs, as the driver reports them by itself."""

from __future__ import annotations

import threading
import time

import pytest

from aiobs.device import xid
from aiobs.device.base import ECC, FAST, FATAL, LOST, OTHER, RECOVERED, WARNING, XID
from aiobs.device.fake.gpu import ECC_DOUBLE_BIT
from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary


def test_an_xid_reaches_who_waits_at_once(gpus: FakeGpus, library: NvmlLibrary) -> None:
    library.wait_events(0)
    threading.Timer(0.05, lambda: gpus.gpus[1].xid(79)).start()
    begin = time.monotonic()
    (event,) = library.wait_events(5)
    assert 0.04 < time.monotonic() - begin < 2
    assert (event.device, event.kind, event.number, event.severity) == (gpus.gpus[1].uuid, XID, 79, FATAL)
    assert "off the bus" in event.text and "Reboot" in event.action
    assert abs(time.monotonic_ns() - event.time_ns) < 2e9


def test_waiting_ends_with_its_time(library: NvmlLibrary) -> None:
    begin = time.monotonic()
    assert library.wait_events(0.05) == []
    assert 0.04 < time.monotonic() - begin < 2


def test_events_that_come_together_are_all_told(gpus: FakeGpus, library: NvmlLibrary) -> None:
    library.wait_events(0)
    gpus.gpus[0].xid(94)
    gpus.gpus[0].event(ECC_DOUBLE_BIT)
    gpus.gpus[1].event(0x100)
    gpus.gpus[1].xid(9999)
    found = library.wait_events(1)
    assert [(event.kind, event.severity) for event in found] == [(XID, WARNING), (ECC, FATAL), (OTHER, WARNING), (XID, WARNING)]  # fmt: skip
    assert "9999" in found[-1].text


def test_state_and_clock_changes_are_not_asked_for(gpus: FakeGpus, library: NvmlLibrary) -> None:
    library.wait_events(0)
    for noise in (0x1, 0x4, 0x10):
        gpus.gpus[0].event(noise)
    assert library.wait_events(0.03) == []


def test_a_lost_gpu_is_told_once_and_the_other_goes_on(gpus: FakeGpus, library: NvmlLibrary, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    library.wait_events(0)
    gpus.gpus[0].lose()
    (event,) = library.wait_events(1)
    assert (event.device, event.kind, event.number, event.severity) == (gpus.gpus[0].uuid, LOST, 15, FATAL)
    assert library.wait_events(0.02) == []
    gpus.gpus[1].xid(13)
    assert [event.device for event in library.wait_events(1)] == [gpus.gpus[1].uuid]
    monkeypatch.setattr("aiobs.device.nvml_events._LOOK_AGAIN_S", 0.0)
    assert library.wait_events(0.02) == []
    gpus.gpus[0].recover()
    (back,) = library.wait_events(0.02)
    assert (back.device, back.kind) == (gpus.gpus[0].uuid, RECOVERED)
    gpus.gpus[0].xid(31)
    assert [event.number for event in library.wait_events(1)] == [31]
    assert library.devices()[0].read(FAST).values


def test_a_container_without_events_is_said(
    gpus: FakeGpus, library: NvmlLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    gpus.fail("nvmlEventSetCreate", 4)
    begin = time.monotonic()
    assert library.wait_events(0.05) == []
    assert time.monotonic() - begin > 0.04
    assert [problem for problem in library.problems if "no permission" in problem]
    library.wait_events(0)
    assert gpus.calls()["nvmlEventSetCreate"] == 1


def test_a_device_without_events_is_said_and_the_other_listened_to(gpus: FakeGpus, library: NvmlLibrary) -> None:
    gpus.fail("nvmlDeviceRegisterEvents", 3, gpus.gpus[0])
    library.wait_events(0)
    assert [problem for problem in library.problems if gpus.gpus[0].uuid in problem]
    gpus.gpus[1].xid(48)
    assert [event.number for event in library.wait_events(1)] == [48]


def test_an_xid_of_an_instance_names_the_instance(gpus: FakeGpus, library: NvmlLibrary) -> None:
    instance = gpus.gpus[0].add_instance()
    library.devices()
    library.wait_events(0)
    instance.xid(94)
    gpus.gpus[0].xid(95)
    assert [event.device for event in library.wait_events(1)] == [instance.uuid, gpus.gpus[0].uuid]


def test_the_table_of_xids_holds_one_sentence_each() -> None:
    for number, row in xid.XIDS.items():
        assert row.number == number
        assert row.text.endswith(".") and row.severity in (WARNING, FATAL)
    assert xid.describe(40).text != xid.describe(4242).text
    assert {number for number, row in xid.XIDS.items() if row.severity == FATAL} >= {48, 64, 79, 95, 119, 140, 158}
