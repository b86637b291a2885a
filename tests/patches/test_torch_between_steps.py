"""What lies between training steps: evaluation, checkpoints, compilation. Spans in the run's trace, no steps."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

Record = Callable[..., Any]
PLAIN = ["data.wait", "forward", "backward", "optimizer"]


def loader(batches: int) -> Any:
    return DataLoader(TensorDataset(torch.randn(2 * batches, 4), torch.zeros(2 * batches, dtype=torch.long)), 2)


def train(net: Any, optimizer: Any, batches: int) -> None:
    net.train()
    for x, y in loader(batches):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def evaluate(net: Any, batches: int, graded: bool = False) -> None:
    net.eval()
    with torch.set_grad_enabled(graded):
        for x, _ in loader(batches):
            net(x)
            time.sleep(0.005)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def made() -> tuple[Any, Any]:
    net = Net()
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize("graded", [False, True])
def test_evaluation_after_each_epoch(record: Record, graded: bool) -> None:
    recording = record()
    net, optimizer = made()
    for _ in range(2):
        train(net, optimizer, 3)
        evaluate(net, 4, graded)
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 6
    spans = seen.named("evaluate")
    assert [span.attributes["aiobs.evaluate.batches"] for span in spans] == [4, 4]
    assert all(span.duration_s >= 0.015 for span in spans)
    assert spans[0].end_ns <= seen.steps[3].span.start_ns
    assert seen.open_steps == 0


def test_evaluation_before_training_and_by_a_model_left_in_eval_mode(record: Record) -> None:
    recording = record()
    net, optimizer = made()
    evaluate(net, 2)
    train(net, optimizer, 2)
    evaluate(net, 2)
    for x, y in loader(2):  # as the Hugging Face trainer does, which calls train() after the batch is there
        net.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 4
    assert len(seen.named("evaluate")) == 2


def test_evaluation_of_one_batch_without_a_loader(record: Record) -> None:
    recording = record()
    net, optimizer = made()
    train(net, optimizer, 2)
    net.eval()
    with torch.inference_mode():
        net(torch.zeros(2, 4))
    train(net, optimizer, 2)
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 4
    assert len(seen.named("evaluate")) == 1


def test_evaluation_of_an_averaged_copy(record: Record) -> None:
    recording = record()
    net, optimizer = made()
    copy = torch.optim.swa_utils.AveragedModel(net)
    train(net, optimizer, 2)
    evaluate(copy, 3)
    train(net, optimizer, 2)
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 4
    (span,) = seen.named("evaluate")
    assert span.attributes["aiobs.evaluate.batches"] == 3


def test_a_teacher_is_a_part_of_the_step(record: Record) -> None:
    recording = record()
    net, optimizer = made()
    teacher = Net().eval()
    for x, _ in loader(3):
        with torch.no_grad():
            target = teacher(x)
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), target).backward()
        optimizer.step()
    seen = recording.finish()
    assert seen.phases() == [["data.wait", "forward", "forward", "backward", "optimizer"]] * 3
    assert seen.named("evaluate") == []


def test_training_in_eval_mode_is_training(record: Record) -> None:
    recording = record()
    net, optimizer = made()
    net.eval()
    for x, y in loader(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 3
    assert seen.named("evaluate") == []


def test_inference_alone_records_nothing(record: Record) -> None:
    recording = record()
    net = Net().eval()
    with torch.no_grad():
        for _ in range(3):
            net(torch.zeros(1, 4))
    seen = recording.finish()
    assert seen.steps == [] and seen.named("evaluate") == [] and seen.open_steps == 0


def test_checkpoints_lie_between_steps(record: Record, tmp_path: Path) -> None:
    recording = record()
    net, optimizer = made()
    path = tmp_path / "model.pt"
    for x, y in loader(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        torch.save(net.state_dict(), path)
    net.load_state_dict(torch.load(path))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    seen = recording.finish()
    assert seen.phases() == [PLAIN] * 3
    saves = seen.named("checkpoint save")
    assert len(saves) == 4
    for save in saves[:3]:
        assert save.attributes == {"aiobs.checkpoint.path": str(path), "aiobs.checkpoint.size": path.stat().st_size}
    assert saves[3].attributes == {"aiobs.checkpoint.size": len(buffer.getvalue())}
    assert len(seen.named("checkpoint load")) == 1
    assert seen.steps[0].span.end_ns <= saves[0].start_ns
    assert saves[0].end_ns <= seen.steps[1].span.start_ns


def test_a_failed_save_says_why_and_raises_the_same(record: Record, tmp_path: Path) -> None:
    recording = record()
    with pytest.raises(RuntimeError, match="does not exist"):
        torch.save({}, tmp_path / "nowhere" / "model.pt")
    (span,) = recording.finish().named("checkpoint save")
    assert span.status == 2
    assert "does not exist" in span.message


def test_distributed_checkpoints_stall_and_background(record: Record, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    recording = record()
    net, _ = made()
    dcp.save({"model": net.state_dict()}, checkpoint_id=tmp_path / "one", no_dist=True)
    dcp.async_save({"model": net.state_dict()}, checkpoint_id=tmp_path / "two", no_dist=True).result()
    dcp.load({"model": net.state_dict()}, checkpoint_id=tmp_path / "one", no_dist=True)
    deadline = time.monotonic() + 5
    while recorder_has_open_spans() and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = recording.finish()
    first, second = seen.named("checkpoint save")
    assert first.attributes["aiobs.checkpoint.size"] > 0
    assert second.attributes["aiobs.checkpoint.async"] is True
    (write,) = seen.named("checkpoint write")
    assert write.links[0].span_id.hex() == second.span_id
    assert write.attributes["aiobs.checkpoint.size"] > 0
    assert (second.kind, write.kind) == (4, 5)
    assert len(seen.named("checkpoint load")) == 1


def recorder_has_open_spans() -> bool:
    from aiobs.recorder import layout, state

    flight = state.flight
    return flight is not None and len(flight.free) < layout.SLOTS


def test_compilations_are_told_and_survive_a_reset(record: Record) -> None:
    recording = record()

    def double(x: Any) -> Any:
        return x * 2

    torch.compile(double, backend="eager")(torch.ones(2))
    torch._dynamo.reset()
    torch.compile(double, backend="eager")(torch.ones(2))
    seen = recording.finish()
    assert len(seen.named("compile")) == 2
    for span in seen.named("compile"):
        assert span.attributes["aiobs.compile.trigger"] == "dynamo"
        assert span.end_ns > span.start_ns
    torch.compile(lambda x: x * 3, backend="eager")(torch.ones(2))
    torch._dynamo.reset()
    assert torch._dynamo.callback.callback_handler.start_callbacks == []
