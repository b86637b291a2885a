"""What GPUs did, on the spans of real programs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

UNITS = ("train step", "request", "work", "child work")


def counted(told: Any, gpus: Any) -> float:
    """Joules that the counters rose by: they began at 1000 each."""
    return sum(told.last("hw.energy", hw__id=gpu.uuid) - 1000.0 for gpu in gpus.gpus)


def accounted(told: Any, gpus: Any) -> float:
    """Joules of all units, of processes outside their units, and of nobody."""
    outside = sum(span["attributes"].get("aiobs.gpu.energy.outside", 0.0) for span in told.named("process"))
    nobody = sum(told.last("aiobs.gpu.energy.unattributed", hw__id=gpu.uuid) for gpu in gpus.gpus)
    return told.joules(*UNITS) + outside + nobody


@pytest.mark.slow
def test_the_joules_of_all_spans_add_up_to_the_counters(program: Any, gpus: Any, sampled: Callable[[], None]) -> None:
    """Two processes on one GPU, one process on two, overlapping requests, nested spans, steps, pauses."""
    child = """
        import sys, time, aiobs
        from aiobs import names, recorder
        from aiobs.device.fake.gpu import fake_uuid
        aiobs.init()
        recorder.set_resource({names.GPU_IDS: [fake_uuid(0)]})
        time.sleep(0.5)
        with aiobs.span("child work"):
            time.sleep(0.8)
    """
    running = program(f"""
        import textwrap
        on(0, 1)
        wait("ready")
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent({child!r})])
        requests = [threading.Thread(target=serve, args=("request", 0.3 + 0.2 * i)) for i in range(3)]
        for thread in requests:
            thread.start()
            time.sleep(0.1)
        for number in range(5):
            with aiobs.step(number):
                with aiobs.phase("forward"):
                    time.sleep(0.1)
                with aiobs.phase("backward"):
                    time.sleep(0.05)
        time.sleep(0.2)
        with aiobs.span("work"):
            with aiobs.span("inner"):
                time.sleep(0.3)
        child.wait()
        wait("done")
    """)
    running.hear("ready")
    sampled()
    for gpu, watts in zip(gpus.gpus, (300.0, 500.0)):
        gpu.power_watts = watts
    gpus.gpus[0].wave(200, 0.7)
    running.go()
    running.hear("done")
    for gpu in gpus.gpus:
        gpu.wave(0, 0)
        gpu.power_watts = 0
    sampled()
    running.go()
    told = running.end()
    assert counted(told, gpus) > 1000
    assert accounted(told, gpus) == pytest.approx(counted(told, gpus), rel=1e-3)
    for name in UNITS:
        assert all(span["attributes"]["aiobs.gpu.energy"] > 0 for span in told.named(name)), name
    assert len(told.named("train step")) == 5
    assert told.one("inner")["attributes"]["aiobs.gpu.energy"] == pytest.approx(told.joules("work"), rel=0.02)
    phases = told.joules("forward", "backward")
    assert phases == pytest.approx(told.joules("train step"), rel=0.02)
    work = told.one("child work")["attributes"]
    assert 0 < work["aiobs.gpu.utilization.mean"] <= work["aiobs.gpu.utilization.max"] <= 0.5
    assert work["aiobs.gpu.memory.peak"] == 1 << 30
    assert work["aiobs.gpu.samples"] >= 2
    assert work["hw.id"] == gpus.gpus[0].uuid
    assert told.one("run")["attributes"].keys().isdisjoint({"aiobs.gpu.energy"})


def test_an_xid_is_an_event_of_the_span_it_hit_and_of_the_process(
    program: Any, gpus: Any, sampled: Callable[[], None]
) -> None:
    running = program("""
        on(0)
        with aiobs.span("before"):
            pass
        with aiobs.span("hit"):
            wait("in")
        with aiobs.span("after"):
            pass
    """)
    running.hear("in")
    sampled()
    gpus.gpus[1].xid(13)  # not ours
    gpus.gpus[0].xid(31)
    time.sleep(0.5)
    running.go()
    told = running.end()

    def events(span: dict[str, Any]) -> list[dict[str, Any]]:
        return [event for event in span.get("events", []) if event["name"] == "aiobs.gpu.xid"]

    (event,) = events(told.one("hit"))
    assert event["attributes"]["aiobs.gpu.event.number"] == 31
    assert event["attributes"]["hw.id"] == gpus.gpus[0].uuid
    assert event["attributes"]["aiobs.gpu.event.text"]
    assert not events(told.one("before"))
    assert not events(told.one("after"))
    assert len(events(next(span for span in told.named("process") if span["attributes"].get("hw.id")))) == 1
    assert [
        log["attributes"]["aiobs.gpu.event.number"] for log in told.logs if log.get("eventName") == "aiobs.gpu.xid"
    ] == [31]
    assert told.last("hw.errors", hw__id=gpus.gpus[0].uuid, error__type="xid_31") == 1
    assert told.last("hw.errors", hw__id=gpus.gpus[1].uuid, error__type="xid_13") == 1


def test_a_gpu_that_is_lost_is_an_event_and_delays_nothing(
    program: Any, gpus: Any, sampled: Callable[[], None]
) -> None:
    running = program("""
        on(0)
        with aiobs.span("hit"):
            wait("in")
        wait("out")
    """)
    running.hear("in")
    sampled()
    gpus.gpus[0].lose()
    time.sleep(0.6)
    running.go()
    running.hear("out")
    running.go()
    told = running.end()
    assert "aiobs.gpu.lost" in [event["name"] for event in told.one("hit")["events"]]
    assert told.last("hw.status", hw__id=gpus.gpus[0].uuid, hw__state="failed") == 1
    assert told.last("hw.status", hw__id=gpus.gpus[1].uuid, hw__state="ok") == 1


@pytest.mark.slow
def test_a_driver_that_hangs_costs_the_sampler_and_no_span(
    program: Any, gpus: Any, sampled: Callable[[], None]
) -> None:
    running = program("""
        on(0)
        with aiobs.span("before"):
            wait("before")
        for number in range(10):
            with aiobs.span("meanwhile"):
                time.sleep(0.02)
        with aiobs.span("later"):
            wait("later")
    """)
    running.hear("before")
    sampled()
    gpus.hang("nvmlDeviceGetUtilizationRates")
    running.go()
    running.hear("later")
    first = gpus.callers()
    deadline = time.monotonic() + 30
    while gpus.callers() == first:
        assert time.monotonic() < deadline, "no other sampler was started"
        time.sleep(0.05)
    gpus.mend()
    sampled()
    running.go()
    told = running.end()
    assert len(told.named("meanwhile")) == 10
    assert told.last("aiobs.gpu.sampler.restarts") >= 1
    assert told.one("later")["attributes"]["aiobs.gpu.samples"] >= 1


@pytest.mark.slow
def test_an_agent_that_is_killed_costs_readings_but_no_joule(
    program: Any, gpus: Any, sampled: Callable[[], None], runtime_dir: Path
) -> None:
    running = program("""
        on(0)
        wait("ready")
        for number in range(8):
            with aiobs.span("work"):
                time.sleep(0.2)
        with aiobs.span("work"):
            wait("kill")
        with aiobs.span("work"):
            time.sleep(0.2)
        wait("done")
    """)
    running.hear("ready")
    sampled()
    gpus.gpus[0].power_watts = 300
    running.go()
    running.hear("kill")
    os.kill(json.loads((runtime_dir / "agent" / "status.json").read_text())["pid"], signal.SIGKILL)
    running.go()
    running.hear("done")
    gpus.gpus[0].power_watts = 0
    running.go()
    told = running.end()
    ids = [span["spanId"] for span in told.spans]
    assert len(ids) == len(set(ids))
    assert len(told.named("work")) == 10
    assert accounted(told, gpus) == pytest.approx(counted(told, gpus), rel=1e-3)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in gpus.callers()):
        assert time.monotonic() < deadline, "a sampler outlived its agent"
        time.sleep(0.05)


def test_the_agent_as_a_thread_has_a_sampler_too_and_waits_for_its_last_word(
    program: Any, gpus: Any, sampled: Callable[[], None]
) -> None:
    running = program(
        """
        on(0)
        wait("ready")
        with aiobs.span("work"):
            time.sleep(0.3)
        print(os.getpid())
        """,
        AIOBS_AGENT="thread",
    )
    running.hear("ready")
    sampled()
    gpus.gpus[0].power_watts = 300
    running.go()
    told = running.end()
    assert told.one("work")["attributes"]["aiobs.gpu.energy"] == pytest.approx(90, rel=0.1)
    (own,) = [span for span in told.named("process") if "hw.id" in span["attributes"]]
    assert own["attributes"]["aiobs.gpu.energy"] >= told.joules("work")


def test_the_recorded_process_never_calls_the_driver_itself(
    program: Any, gpus: Any, sampled: Callable[[], None]
) -> None:
    running = program("""
        on(0)
        wait(str(os.getpid()))
        with aiobs.span("work"):
            time.sleep(0.3)
        with open("/proc/self/maps") as maps:
            assert "libnvidia-ml" not in maps.read()
    """)
    assert running.process.stdout is not None
    pid = int(running.process.stdout.readline())
    sampled()
    running.go()
    running.end()
    assert gpus.calls()
    assert not gpus.calls(pid)


def test_devices_off_leaves_the_gpus_alone(program: Any, gpus: Any) -> None:
    running = program(
        """
        on(0)
        with aiobs.span("work"):
            time.sleep(0.3)
        """,
        AIOBS_DEVICES="off",
    )
    told = running.end()
    assert not gpus.callers()
    assert not any(key.startswith(("aiobs.gpu.energy", "aiobs.gpu.util")) for key in told.one("work")["attributes"])
    assert "hw.status" not in told.points
