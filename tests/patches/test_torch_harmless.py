"""With the patch, everything is as without it: results, random streams, objects, errors, compiled graphs."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiobs import patches

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

Record = Callable[..., Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Any) -> Any:
        return self.inner(x)


def train() -> tuple[Any, ...]:
    torch.manual_seed(3)
    random.seed(3)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    data = TensorDataset(torch.randn(24, 4), torch.randint(0, 2, (24,)))
    losses = []
    for _ in range(2):
        for x, y in DataLoader(data, 4, shuffle=True):
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            losses.append(net(data.tensors[0]).sum().item())
        net.train()
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    return losses, weights, torch.get_rng_state(), random.getstate()


def test_results_and_random_streams_are_bit_equal(record: Record) -> None:
    without = train()
    recording = record()
    with_us = train()
    assert len(recording.finish().steps) == 12
    assert with_us[0] == without[0]
    assert all(torch.equal(a, b) for a, b in zip(with_us[1], without[1], strict=True))
    assert torch.equal(with_us[2], without[2])
    assert with_us[3] == without[3]


def trained() -> tuple[Any, Any]:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in DataLoader(TensorDataset(torch.randn(4, 4), torch.zeros(4, dtype=torch.long)), 2):
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, optimizer


def test_a_watched_model_is_copied_and_pickled_as_ever(record: Record) -> None:
    record()
    net, optimizer = trained()
    assert "__call__" in vars(Net)  # it is watched: else this test would show nothing
    assert set(vars(net)) == set(vars(Net()))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin.inner[0].weight, net.inner[0].weight)
    assert b"aiobs" not in pickle.dumps(net)
    assert b"aiobs" not in pickle.dumps(optimizer)
    for function in (torch.save, torch.load, torch.autograd.backward):
        assert pickle.loads(pickle.dumps(function)) is function


def test_a_saved_model_loads_without_us(record: Record, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import torch\nclass Own(torch.nn.Linear):\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import own  # type: ignore[import-not-found]

        record()
        net = own.Own(2, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        assert "__call__" in vars(own.Own)
        torch.save(net, tmp_path / "net.pt")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own", None)
    code = "import torch, sys; torch.load('net.pt', weights_only=False)(torch.ones(1, 2)); assert 'aiobs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(tmp_path)})


def test_signatures_stay(record: Record) -> None:
    watched = [
        torch.save,
        torch.load,
        torch.autograd.backward,
        torch.amp.GradScaler.step,
        torch.distributed.init_process_group,
    ]
    before = [(inspect.signature(it), it.__name__, it.__qualname__, it.__module__, it.__doc__) for it in watched]
    call_before = inspect.signature(Net.__call__)
    record()
    trained()
    watched = [
        torch.save,
        torch.load,
        torch.autograd.backward,
        torch.amp.GradScaler.step,
        torch.distributed.init_process_group,
    ]
    assert [
        (inspect.signature(it), it.__name__, it.__qualname__, it.__module__, it.__doc__) for it in watched
    ] == before
    assert inspect.signature(Net.__call__) == call_before


def test_errors_are_the_same_objects(record: Record) -> None:
    record()
    mine = ValueError("mine", 7)

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.fail = False

        def forward(self, x: Any) -> Any:
            if self.fail:
                raise mine
            return self.layer(x)

    net = Failing()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    net.fail = True
    with pytest.raises(ValueError, match="mine") as caught:
        net(torch.ones(1, 1))
    assert caught.value is mine and mine.args == ("mine", 7)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(1).sum().backward()
    loader = iter(DataLoader(TensorDataset(torch.ones(1)), 1))
    next(loader)
    with pytest.raises(StopIteration):
        next(loader)


def attributes() -> dict[str, Any]:
    """Every attribute of every module and class of PyTorch that is loaded, and ours of this test."""
    found: dict[str, Any] = {}
    places: list[Any] = [it for name, it in list(sys.modules.items()) if name.split(".")[0] == "torch" and isinstance(it, ModuleType)]  # fmt: skip
    places += [Net]
    for place in places:
        if place.__name__.startswith(("torch.ops", "torch.classes")):
            continue
        for name, value in list(vars(place).items()):
            found[f"{place.__name__}.{name}"] = value
            if issubclass(type(value), type) and value.__module__.startswith("torch"):
                for inner, attribute in list(type.__dict__["__dict__"].__get__(value).items()):
                    if not inner.startswith(("__abstract", "_abc_", "__dict__", "__weakref__")):
                        found[f"{value.__module__}.{value.__qualname__}.{inner}"] = attribute
    del found["torch.utils.hooks.RemovableHandle.next_id"]  # counts handles
    return found


def test_removal_restores_every_object(record: Record) -> None:
    import torch._dynamo
    import torch.distributed._functional_collectives
    import torch.distributed.checkpoint
    from torch.optim import optimizer

    trained()
    before = attributes()
    hooks = dict(optimizer._global_optimizer_pre_hooks), dict(optimizer._global_optimizer_post_hooks)
    callbacks = list(torch._dynamo.callback.callback_handler.start_callbacks)
    recording = record()
    trained()
    changed = {name for name, value in attributes().items() if before.get(name) is not value}
    assert {
        "torch.save",
        "torch.serialization.save",
        "torch.autograd.backward",
        f"{__name__}.Net.__call__",
    } <= changed | {f"{__name__}.Net.__call__"}
    assert "__call__" in vars(Net)
    recording.finish()
    after = attributes()
    assert {name for name in before if after.get(name) is not before[name]} == set()
    assert set(after) - set(before) == set()
    assert "__call__" not in vars(Net)
    assert (dict(optimizer._global_optimizer_pre_hooks), dict(optimizer._global_optimizer_post_hooks)) == hooks
    assert torch._dynamo.callback.callback_handler.start_callbacks == callbacks
    assert patches.active() == []


def test_a_wrapper_put_over_ours_stays_when_we_leave(record: Record) -> None:
    recording = record()
    ours = torch.autograd.backward
    original = ours.__wrapped__
    calls = []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return ours(*args, **kwargs)

    torch.autograd.backward = theirs
    try:
        recording.finish()
        assert torch.autograd.backward is theirs
        torch.ones(1, requires_grad=True).sum().backward()
        assert len(calls) == 1
    finally:
        torch.autograd.backward = original


def test_nothing_warns(record: Record) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording = record()
        trained()
        torch.save({}, io.BytesIO())
        recording.finish()


def graphs(whole: bool, steps: int, backend: str = "aot_eager") -> tuple[Any, ...]:
    """Compile and run; returns the compiler's counts of graphs, breaks by reason, and what it compiled how often."""
    from torch._dynamo.utils import clear_compilation_metrics, counters, get_compilation_metrics

    torch._dynamo.reset()
    clear_compilation_metrics()
    counters.clear()
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    model = net if whole else torch.compile(net, backend=backend)
    compiled = torch.compile(step, backend=backend)
    for x, y in DataLoader(TensorDataset(torch.randn(2 * steps, 4), torch.zeros(2 * steps, dtype=torch.long)), 2):
        if whole:
            compiled(x, y)
        else:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    breaks = {reason.partition("\n")[0]: count for reason, count in counters["graph_break"].items()}
    return dict(counters["stats"]), breaks, [metrics.co_name for metrics in get_compilation_metrics()]


@pytest.mark.parametrize("whole", [False, True])
def test_compiled_graphs_are_the_same(record: Record, whole: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without = graphs(whole, 4)
        recording = record()
        with_us = graphs(whole, 4)
        seen = recording.finish()
    assert with_us == without
    if not whole:
        assert seen.phases() == [["data.wait", "forward", "backward", "optimizer"]] * 4
    else:  # the optimizer is inside a graph: that it has stepped shows in the parameters
        assert seen.phases() == [["data.wait", "forward", "backward"]] * 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_one_graph_once(record: Record) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recording = record()
        stats, breaks, compiled = graphs(False, 3, "inductor")
        seen = recording.finish()
    assert (stats["unique_graphs"], breaks, [name for name in compiled if name]) == (1, {}, ["forward"])
    assert seen.phases() == [["data.wait", "forward", "backward", "optimizer"]] * 3
    assert {span.attributes["aiobs.compile.trigger"] for span in seen.named("compile")} >= {"dynamo"}
