"""Ordinary training loops: each phase gets its own time, and what is left is ``other``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.testing import Captured

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

Record = Callable[..., Any]
torch.set_num_threads(1)  # on a busy machine several wait for each other, which would be timed here
PLAIN = ["data.wait", "forward", "backward", "optimizer"]


class Slow(Dataset[Any]):
    def __init__(self, size: int, seconds: float = 0.0) -> None:
        self.size, self.seconds = size, seconds

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.full((4,), float(index)), torch.tensor(index % 2)


class Net(nn.Module):
    def __init__(self, forward_s: float = 0.0, backward_s: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.forward_s, self.backward_s = forward_s, backward_s

    def forward(self, x: Any) -> Any:
        time.sleep(self.forward_s)
        y = self.layer(x)
        if self.backward_s and y.requires_grad:
            y.register_hook(lambda _: time.sleep(self.backward_s))
        return y


class SlowSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        time.sleep(0.01)
        return super().step(closure)


def train(net: Any, loader: Any, optimizer: Any, other_s: float = 0.0) -> None:
    for x, y in loader:
        loss = nn.functional.cross_entropy(net(x), y)
        time.sleep(other_s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fastest(seen: Any, phase: str) -> float:
    """Fewest seconds of a phase in a step after the first; a busy machine makes some of them longer."""
    return min(step.totals()[phase] for step in seen.steps[1:])


def test_each_phase_gets_its_own_time(record: Record) -> None:
    recording = record()
    net = Net(forward_s=0.02, backward_s=0.03)
    train(net, DataLoader(Slow(8, 0.02), batch_size=2), SlowSGD(net.parameters(), lr=0.1), other_s=0.015)
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 4
    expected = {"data.wait": 0.04, "forward": 0.02, "backward": 0.03, "optimizer": 0.01, "other": 0.015}
    for name, seconds in expected.items():
        assert seconds <= fastest(seen, name) < seconds + 0.012, name
    for before, after in zip(seen.steps, seen.steps[1:]):
        assert after.span.start_ns == before.span.end_ns
        assert after.number == before.number + 1
    assert seen.open_steps == 0
    assert seen.resource["service.name"] == "trainer"


def test_the_service_keeps_the_name_the_user_gave(record: Record) -> None:
    recording = record(service_name="mine")
    net = Net()
    train(net, DataLoader(Slow(2), batch_size=2), torch.optim.SGD(net.parameters(), lr=0.1))
    assert recording.finish().resource["service.name"] == "mine"


def test_workers_and_epochs(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    loader = DataLoader(Slow(8), batch_size=2, num_workers=2)
    for _ in range(2):
        train(net, loader, optimizer)
    seen = recording.finish()
    # The first step of an epoch also waits for the workers to start.
    assert seen.phases() == [["data.wait", *PLAIN], PLAIN, PLAIN, PLAIN] * 2


def test_without_a_data_loader(record: Record) -> None:
    recording = record()
    net = Net(forward_s=0.005)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)
    train(net, [(x, y)] * 4, optimizer, other_s=0.02)
    seen = recording.finish()
    assert seen.phases() == [PLAIN[1:]] * 4
    assert 0.005 <= fastest(seen, "forward") < 0.018
    assert 0.02 <= fastest(seen, "other") < 0.035


def test_gradient_accumulation(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for index, (x, y) in enumerate(DataLoader(Slow(18), batch_size=2)):
        nn.functional.cross_entropy(net(x), y).backward()
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert recording.finish().phases() == [[*PLAIN[:3] * 3, "optimizer"]] * 3


def test_a_gan_step_has_both_optimizers(record: Record) -> None:
    recording = record()
    generator, critic = Net(), nn.Sequential(nn.Linear(2, 1))
    g_step, d_step = (torch.optim.Adam(it.parameters()) for it in (generator, critic))
    for x, _ in DataLoader(Slow(6), batch_size=2):
        fake = generator(x)
        d_step.zero_grad()
        (critic(fake.detach()).mean() - critic(x[:, :2]).mean()).backward()
        d_step.step()
        g_step.zero_grad()
        critic(fake).mean().neg().backward()
        g_step.step()
    once = ["data.wait", "forward", "forward", "forward", "backward", "optimizer", "forward", "backward", "optimizer"]
    assert recording.finish().phases() == [once] * 3


def test_several_critic_steps_for_each_generator_step(record: Record) -> None:
    recording = record()
    generator, critic = Net(), nn.Sequential(nn.Linear(2, 1))
    g_step, d_step = (torch.optim.Adam(it.parameters()) for it in (generator, critic))
    for index, (x, _) in enumerate(DataLoader(Slow(12), batch_size=2)):
        d_step.zero_grad()
        (critic(generator(x).detach()).mean() - critic(x[:, :2]).mean()).backward()
        d_step.step()
        if index % 3 == 2:
            g_step.zero_grad()
            critic(generator(x)).mean().neg().backward()
            g_step.step()
    steps = recording.finish().phases()
    assert [names.count("optimizer") for names in steps] == [1, 1, 2, 1, 1, 2]
    assert all(names[0] == "data.wait" and names.count("data.wait") == 1 for names in steps)


def test_several_critic_steps_without_a_data_loader(record: Record) -> None:
    recording = record()
    generator, critic = nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 1))
    g_step, d_step = (torch.optim.Adam(it.parameters()) for it in (generator, critic))
    x = torch.zeros(2, 4)
    for index in range(6):
        d_step.zero_grad()
        critic(generator(x).detach()).mean().backward()
        d_step.step()
        if index % 3 == 2:
            g_step.zero_grad()
            critic(generator(x)).mean().neg().backward()
            g_step.step()
    assert [names.count("optimizer") for names in recording.finish().phases()] == [1, 1, 2, 1, 1, 2]


def test_closures_take_turns_with_their_optimizer(record: Record) -> None:
    recording = record()
    net = Net(forward_s=0.002)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)

    for x, y in DataLoader(Slow(4), batch_size=2):

        def closure(x: Any = x, y: Any = y) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    seen = recording.finish()
    assert len(seen.steps) == 2
    for step, names in zip(seen.steps, seen.phases()):
        assert names[:4] == ["data.wait", "optimizer", "forward", "optimizer"]
        assert names.count("forward") == names.count("backward") >= 2
        totals = step.totals()
        assert sum(totals.values()) == pytest.approx(step.seconds, rel=1e-6)


def test_a_skipped_amp_step_is_told(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for index, (x, y) in enumerate(DataLoader(Slow(8), batch_size=2)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) * (float("inf") if index == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    seen = recording.finish()
    assert [step.skipped for step in seen.steps] == [False, True, False, False]
    assert seen.phases() == [[*PLAIN, "optimizer"]] * 4


def test_a_skipped_step_of_a_fused_optimizer_is_told(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for index, (x, y) in enumerate(DataLoader(Slow(6), batch_size=2)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) * (float("inf") if index == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert [step.skipped for step in recording.finish().steps] == [False, True, False]


@pytest.mark.parametrize("loader", [True, False])
def test_parameters_changed_without_an_optimizer_end_a_step(record: Record, loader: bool) -> None:
    recording = record()
    net = Net()
    keep = torch.optim.SGD(net.parameters(), lr=0.1)  # makes the model known; never steps
    batch = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)
    for x, y in DataLoader(Slow(6), batch_size=2) if loader else [batch] * 4:
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
    assert recording.finish().phases()[:3] == [PLAIN[0 if loader else 1 : 3]] * 3
    del keep


def test_training_in_another_thread(record: Record) -> None:
    from threading import Thread

    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    thread = Thread(target=train, args=(net, DataLoader(Slow(6), batch_size=2), optimizer))
    thread.start()
    thread.join()
    seen = recording.finish()
    assert len(seen.steps) >= 2
    assert seen.phases()[1] == PLAIN


def test_a_loader_read_ahead_by_another_thread_makes_no_steps(record: Record) -> None:
    from concurrent.futures import ThreadPoolExecutor

    recording = record()
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(list, DataLoader(Slow(6), batch_size=2)).result()) == 3
    seen = recording.finish()
    assert seen.steps == []
    assert seen.open_steps == 0


def test_looking_at_the_data_is_no_step(record: Record) -> None:
    recording = record()
    loader = DataLoader(Slow(6), batch_size=2)
    for _ in loader:
        pass
    next(iter(loader))
    net = Net()
    train(net, loader, torch.optim.SGD(net.parameters(), lr=0.1))
    assert recording.finish().phases() == [PLAIN] * 3


def test_an_optimizer_that_raises_does_not_upset_the_next_step(record: Record) -> None:
    recording = record()
    net = Net()

    class Failing(torch.optim.SGD):
        fail = True

        def step(self, closure: Any = None) -> Any:
            if self.fail:
                raise RuntimeError("out of memory")
            return super().step(closure)

    optimizer = Failing(net.parameters(), lr=0.1)
    for x, y in DataLoader(Slow(6), batch_size=2):
        nn.functional.cross_entropy(net(x), y).backward()
        try:
            optimizer.step()
        except RuntimeError:
            optimizer.fail = False
    steps = recording.finish().phases()
    assert steps == [[*PLAIN, *PLAIN], PLAIN]


def test_many_calls_without_gradients_leave_room_for_what_follows(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        with torch.no_grad():
            for _ in range(400):
                net(torch.zeros(1, 4))
        net(torch.zeros(1, 4)).sum().backward()
        optimizer.step()
    for names in recording.finish().phases():
        assert names[-3:] == PLAIN[1:]


def test_a_model_that_is_never_called_as_such_has_its_forward_between_data_and_backward(record: Record) -> None:
    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, _ in DataLoader(Slow(6), batch_size=2):
        time.sleep(0.01)
        net.layer(x).sum().backward()
        optimizer.step()
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 3
    for step in seen.steps:
        assert step.span.attributes["aiobs.phase.forward_source"] == "gap"
        assert step.totals()["forward"] >= 0.01


def test_steps_the_user_marks_win(record: Record) -> None:
    import aiobs

    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in range(4):
        with aiobs.step(number):
            for x, y in DataLoader(Slow(4), batch_size=2):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
    seen = recording.finish()
    assert [step.number for step in seen.steps] == [0, 1, 2, 3]
    assert [names.count("optimizer") for names in seen.phases()] == [2] * 4


def test_marked_steps_with_the_data_outside(record: Record) -> None:
    import aiobs

    recording = record()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in DataLoader(Slow(6), batch_size=2):
        with aiobs.step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    seen = recording.finish()
    assert [names[-3:] for names in seen.phases()] == [PLAIN[1:]] * 3
    assert seen.open_steps == 0


def test_the_step_in_which_the_program_fails_is_told(tmp_path: Path, runtime_dir: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import aiobs; aiobs.init(agent='off')\n"
        "import torch\n"
        "net = torch.nn.Sequential(torch.nn.Linear(2, 1))\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "for index in range(3):\n"
        "    loss = net(torch.ones(1, 2)).sum()\n"
        "    if index == 2:\n"
        "        raise ArithmeticError('the loss is not a number')\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("ArithmeticError: the loss is not a number") == 1
    captured = Captured()
    captured.read(runtime_dir / "records")
    steps = captured.named("train step")
    assert [step.attributes.get("error.type") for step in steps] == [None, None, "ArithmeticError"]
    assert steps[2].status == 2
