"""The registry: which patches there are, when they come into force, and what becomes of a faulty one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from aiobs import patches
from aiobs.patches.base import Patch
from aiobs.settings import Settings


class Fake:
    installed: ClassVar[list[str]] = []
    fail = False

    def install(self, settings: Settings) -> None:
        if self.fail:
            raise RuntimeError("not as expected")
        self.installed.append("in")

    def remove(self) -> None:
        self.installed.append("out")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    module = ModuleType("fake_patch")
    module.Fake = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_patch", module)
    monkeypatch.setattr(patches, "BUILT_IN", (("fake", "fake_library", "fake_patch:Fake"),))
    Fake.installed.clear()
    monkeypatch.setattr(Fake, "fail", False)
    assert isinstance(Fake(), Patch)
    return Fake


def test_in_force_once_the_library_is_there(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    patches.install_all(Settings())
    assert (patches.active(), patches.pending()) == ([], ["fake"])
    patches.remove_all()
    assert patches.pending() == []
    monkeypatch.setitem(sys.modules, "fake_library", ModuleType("fake_library"))
    patches.install_all(Settings())
    patches.install_all(Settings())
    assert (patches.active(), patches.pending()) == (["fake"], [])
    patches.remove_all()
    patches.remove_all()
    assert fake.installed == ["in", "out"]


@pytest.mark.parametrize("off", [("fake",), ("all",)])
def test_switched_off(fake: type[Fake], monkeypatch: pytest.MonkeyPatch, off: tuple[str, ...]) -> None:
    monkeypatch.setitem(sys.modules, "fake_library", ModuleType("fake_library"))
    patches.install_all(Settings(patches_off=off))
    assert patches.active() == [] and fake.installed == []


def test_one_that_fails_is_taken_out(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOBS_RAISE", "0")
    monkeypatch.setitem(sys.modules, "fake_library", ModuleType("fake_library"))
    monkeypatch.setattr(fake, "fail", True)
    patches.install_all(Settings())
    assert patches.active() == [] and fake.installed == ["out"]


def test_patches_of_other_distributions(fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[aiobs_patch]\nother = fake_patch:Fake [fake_library]\nplain = fake_patch:Fake\n"
    )
    monkeypatch.setattr(patches, "BUILT_IN", ())
    assert [(name, module) for name, module, _ in patches.known()] == []
    monkeypatch.syspath_prepend(tmp_path)
    found = [(name, module) for name, module, _ in patches.known()]
    assert found == [("other", "fake_library"), ("plain", "plain")]
    monkeypatch.setitem(sys.modules, "fake_library", ModuleType("fake_library"))
    patches.install_all(Settings())
    assert (patches.active(), patches.pending()) == (["other"], ["plain"])
    patches.remove_all()


def test_no_library_is_imported_for_its_patch() -> None:
    code = """
import sys
from aiobs import patches
from aiobs.settings import Settings
patches.install_all(Settings())
assert {"torch", "lightning"} <= set(patches.pending()), patches.pending()
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "lightning", "wrapt", "numpy"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fault_in_a_moment_takes_the_patch_out_and_training_goes_on(
    record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from aiobs.patches.torch.loop import Loop

    monkeypatch.setenv("AIOBS_RAISE", "0")
    record()
    original = torch.autograd.backward.__wrapped__
    monkeypatch.setattr(Loop, "_enter", lambda *_: 1 / 0)
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
    assert torch.equal(x.grad, torch.ones(2))
    assert torch.autograd.backward is original


def test_as_an_opentelemetry_instrumentor(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.instrumentation.instrumentor")
    torch = pytest.importorskip("torch")
    from aiobs import runtime
    from aiobs.otel.instrumentor import TorchInstrumentor

    monkeypatch.setenv("AIOBS_AGENT", "off")
    original = torch.save
    try:
        TorchInstrumentor().instrument()
        assert "torch" in patches.active() and torch.save is not original
        TorchInstrumentor().uninstrument()
        assert "torch" not in patches.active() and torch.save is original
        TorchInstrumentor().instrument()
        assert "torch" in patches.active()
    finally:
        runtime.shutdown()
    assert torch.save is original
