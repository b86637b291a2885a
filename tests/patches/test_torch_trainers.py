"""Trainers of other libraries over the patch: the same steps and phases as a plain loop."""

from __future__ import annotations

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
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def data(batches: int) -> Any:
    return TensorDataset(torch.randn(2 * batches, 4), torch.zeros(2 * batches, dtype=torch.long))


def test_accelerate_with_accumulation(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    recording = record()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = nn.Sequential(nn.Linear(4, 2))
    model, optimizer, loader = accelerator.prepare(
        net, torch.optim.SGD(net.parameters(), lr=0.1), DataLoader(data(6), 2)
    )
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    seen = recording.finish()
    assert len(seen.steps) == 3
    for names in seen.phases():
        assert names.count("forward") == names.count("backward") == 2
        assert names.count("optimizer") == 1


def test_hugging_face_trainer(record: Record, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    recording = record()
    config = transformers.BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    rows = [{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": index % 2} for index in range(12)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6, use_cpu=True,
        eval_strategy="steps", eval_steps=3, save_steps=3, logging_steps=100, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4]).train()
    seen = recording.finish()
    assert len(seen.steps) == 6
    for names in seen.phases():
        assert names.count("forward") == names.count("backward") == 2, names
        assert names.count("optimizer") == 1
    # Two epochs of three steps; Accelerate reads one batch ahead, and an epoch ends by asking in vain.
    assert [names.count("data.wait") for names in seen.phases()] == [3, 2, 2] * 2
    assert len(seen.named("evaluate")) == 2
    assert seen.named("checkpoint save")
    assert seen.resource["service.name"] == "trainer"


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(record: Record, tmp_path: Path, package: str) -> None:
    lightning = pytest.importorskip(package)

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 2)

        def training_step(self, batch: Any, index: int) -> Any:
            time.sleep(0.01)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    recording = record()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=str(tmp_path), num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(data(4), 2), DataLoader(data(3), 2))
    seen = recording.finish()
    assert len(seen.steps) == 8
    for step, names in zip(seen.steps, seen.phases()):
        assert [name for name in names if name != "optimizer"] == PLAIN[:3], names
        totals = step.totals()
        assert 0.01 <= totals["forward"] < 0.05
        assert sum(totals.values()) == pytest.approx(step.seconds, rel=1e-6)
    assert [span.attributes["aiobs.evaluate.batches"] for span in seen.named("evaluate")] == [1, 3, 3]
    assert seen.named("checkpoint save")
