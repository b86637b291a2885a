"""Device time on a real GPU: right, cheap, without waiting, and with graphs. Skipped where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiobs.patches.torch import gpu  # noqa: E402
from aiobs.patches.torch.cuda_events import TorchGpus  # noqa: E402
from aiobs.patches.torch.device_time import DeviceTime  # noqa: E402
from aiobs.testing import capture  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"),
]
SIZE = 4096


class Timed:
    """Device time as a loop uses it, and what it wrote."""

    def __init__(self) -> None:
        torch.cuda.init()
        self.arrivals: dict[int, int] = {}
        self.time = DeviceTime(TorchGpus(), 1, self._write)

    def _write(self, _thread: int, arrivals: Any, _until: int, dropped: int) -> None:
        assert not dropped
        self.arrivals.update({moment: reached for moment, reached, _ in arrivals})

    def phase(self, work: Callable[[], object]) -> tuple[int, int]:
        begin = time.monotonic_ns()
        self.time.mark(begin)
        work()
        end = time.monotonic_ns()
        self.time.mark(end)
        return begin, end

    def seconds(self, phase: tuple[int, int]) -> float:
        return (self.arrivals[phase[1]] - self.arrivals[phase[0]]) / 1e9


def matrix() -> Any:
    return torch.randn(SIZE, SIZE, device="cuda")


def work(a: Any, times: int = 4) -> Callable[[], None]:
    def multiply() -> None:
        for _ in range(times):
            a @ a

    return multiply


def synchronised(function: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def test_phases_take_as_long_as_a_synchronised_clock_says() -> None:
    a = matrix()
    multiply = work(a, 20)
    for _ in range(3):
        synchronised(multiply)
    timed = Timed()
    phases = []
    for _ in range(10):
        phases.append(timed.phase(multiply))
        timed.time.settle()
    torch.cuda.synchronize()
    timed.time.finish()
    expected = median(synchronised(multiply) for _ in range(10))
    assert median(timed.seconds(it) for it in phases[1:]) == pytest.approx(expected, rel=0.02)


def test_moments_are_placed_on_the_wall_clock() -> None:
    a = matrix()
    timed = Timed()
    for _ in range(5):
        _, end = timed.phase(work(a, 20))
        torch.cuda.synchronize()
        done = time.monotonic_ns()
        timed.time.settle()
        assert end <= timed.arrivals[end] <= done
        assert done - timed.arrivals[end] < 200_000


def test_a_phase_costs_at_most_five_microseconds() -> None:
    timed = Timed()
    timed.phase(lambda: None)
    torch.cuda.synchronize()

    def turn(count: int = 8) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            timed.phase(int)
        timed.time.settle()
        return (time.perf_counter() - begin) / count

    for _ in range(50):
        turn()
    assert median(turn() for _ in range(200)) <= 5e-6


def test_nothing_waits_for_the_gpu() -> None:
    a = matrix()
    timed = Timed()
    timed.phase(lambda: None)
    begin = time.perf_counter()
    for _ in range(5):
        timed.phase(work(a, 50))
        timed.time.settle()
    ahead = time.perf_counter() - begin
    torch.cuda.synchronize()
    assert ahead < 0.5 * (time.perf_counter() - begin)


def test_graphs_are_captured_and_replayed_as_without_us() -> None:
    with capture() as captured:
        net = torch.nn.Linear(64, 64, device="cuda")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        x = torch.randn(8, 64, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # as PyTorch asks for before a capture
            for _ in range(3):
                net(x).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(x).sum().backward()
            optimizer.step()
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        for _ in range(3):
            net(x).sum().backward()
            optimizer.step()
        torch.cuda.synchronize()
    found = [span for span in captured.named("forward") if "aiobs.gpu.duration" in span.attributes]
    assert len(found) >= 4


def test_a_training_step_of_ten_milliseconds_takes_no_longer() -> None:
    a = matrix()
    steps = max(4, int(0.01 / synchronised(work(a, 1))))

    def train(times: int = 40) -> float:
        net = torch.nn.Linear(SIZE, SIZE, device="cuda")
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
        found = []
        for _ in range(times):
            begin = time.perf_counter()
            work(a, steps)()
            net(a).sum().backward()
            optimizer.step()
            torch.cuda.synchronize()
            found.append(time.perf_counter() - begin)
        return median(found[5:])

    train()
    ratios = []
    for _ in range(5):
        without = train()
        with capture():
            ratios.append(train() / without)
    assert median(ratios) < 1.01


def test_the_resource_names_the_gpu_and_steps_its_memory() -> None:
    with capture() as captured:
        net = torch.nn.Linear(256, 256, device="cuda")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            net(torch.randn(8, 256, device="cuda")).sum().backward()
            optimizer.step()
        torch.cuda.synchronize()
    step = captured.named("train step")[1]
    assert step.attributes["aiobs.gpu.allocator.allocated"] >= 256 * 256 * 4
    assert all(it.startswith(("GPU-", "MIG-")) for it in step.resource["aiobs.gpu.ids"])
    assert gpu.side.gpus is None


def test_the_gpus_own_error_carries_its_allocator() -> None:
    with capture() as captured:
        torch.cuda.init()
        from aiobs import span

        with pytest.raises(torch.OutOfMemoryError), span("work"):
            torch.empty(1 << 50, device="cuda")
    (told,) = [event.attributes for event in captured.span("work").events if event.name == "aiobs.out_of_memory"]
    assert told["aiobs.out_of_memory.kind"] == "device"
    assert told["aiobs.gpu.allocator.reserved"] >= 0
