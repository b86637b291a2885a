"""TorchScript modules and AOTInductor packages, of the real PyTorch."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches, span
from aiobs.testing import capture

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning", "ignore::FutureWarning")
CALL = "torchscript call"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(x)
        return made


def loaded() -> Any:
    """A scripted module as a server has it: saved and loaded again."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), file)
        file.seek(0)
        return torch.jit.load(file)


X = torch.ones(3, 4)


def test_a_call_is_one_span_whatever_it_is_made_of() -> None:
    net = loaded()
    without = net(X)
    with capture() as captured, span("handler"):
        with_us = net(X)
    assert torch.equal(without, with_us)
    call = captured.span(CALL)
    assert call.parent_id == captured.span("handler").span_id
    assert call.attributes == {"aiobs.model.name": "Net", "aiobs.model.inputs": "[3,4]"}


def test_errors_are_the_models() -> None:
    net = loaded()
    with capture() as captured, pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.ones(3, 5))
    assert captured.span(CALL).status == 2


def test_inside_a_training_step_there_is_no_such_span() -> None:
    teacher, student = loaded(), Net()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with capture() as captured:
        for _ in range(3):
            loss = (student(X) - teacher(X)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    # Before the first backward nobody can know that this is training.
    assert len(captured.named(CALL)) <= 1
    assert len(captured.named("train step") or captured.named("rank step")) == 3


def test_modules_are_saved_and_copied_as_ever() -> None:
    net = loaded()
    with capture():
        assert "torchscript" in patches.active()
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(net, file)
        assert b"aiobs" not in file.getvalue()
        assert torch.equal(net.forward(X), net(X))
        assert b"aiobs" not in pickle.dumps(Net())
    assert "__call__" not in vars(torch.jit.ScriptModule)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_package_of_aot_inductor_is_seen(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(Net().eval(), (X,))
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "net.pt2"))
        model = torch._inductor.aoti_load_package(path)
    without = model(X)
    with capture() as captured:
        with_us = model(X)
    assert torch.equal(without, with_us)
    assert captured.span("aot_inductor call").attributes["aiobs.model.inputs"] == "[3,4]"
