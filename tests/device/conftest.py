"""Fake GPUs under the real pynvml, in this process: the library is loaded first, so that pynvml finds it by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs.device.fake.state import FakeGpus
from aiobs.device.nvml import NvmlLibrary, open_library

from .stand_ins import loaded_fake

pytest.importorskip("pynvml")


@pytest.fixture(scope="session")
def fake_library() -> Path:
    """The compiled library, loaded."""
    return loaded_fake()


@pytest.fixture
def gpus(fake_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """A machine of two fake GPUs."""
    made = FakeGpus.create(tmp_path, 2)
    monkeypatch.setenv("AIOBS_FAKE_GPU", str(made.path))
    return made


@pytest.fixture
def library(gpus: FakeGpus) -> Iterator[NvmlLibrary]:
    """NVML over them, opened."""
    opened = open_library()
    assert isinstance(opened, NvmlLibrary), opened
    yield opened
    gpus.mend()
    opened.close()
