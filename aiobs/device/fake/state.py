"""The fake GPUs as Python sees them: made, changed and asked about through the file that the library reads."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

from aiobs.device.fake.gpu import INSTANCE, FakeGpu, idle
from aiobs.device.fake.layout import DEVICES, EVENTS, FUNCTIONS, MAGIC, RULES, STRUCTURES, VERSION
from aiobs.errors import SettingError

FILE = "state"
_GIB = 1 << 30


class FakeGpus:
    """A machine's fake GPUs: the state file, open.

    Attributes:
        path: of the file, the value of ``AIOBS_FAKE_GPU``.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path`.

        Raises:
            SettingError: it is no such file.
        """
        self.path = path
        size = ctypes.sizeof(STRUCTURES["State"])
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._map = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise SettingError("AIOBS_FAKE_GPU", str(path), f"is no state of fake GPUs: {error}") from error
        self._state = STRUCTURES["State"].from_buffer(self._map)
        if (self._state.magic, self._state.version) != (MAGIC, VERSION):
            raise SettingError("AIOBS_FAKE_GPU", str(path), "is no state of fake GPUs of this version")

    @classmethod
    def create(cls, folder: Path, count: int = 1, *, memory_bytes: int = 80 * _GIB) -> FakeGpus:
        """Make a state file of `count` idle GPUs in `folder`.

        Raises:
            ValueError: more than there is room for, or less than none.
        """
        if not 0 <= count <= DEVICES // 2:
            raise ValueError(f"use 0 to {DEVICES // 2} fake GPUs, not {count}")
        path = folder / FILE
        state = STRUCTURES["State"]()
        state.magic, state.version, state.size = MAGIC, VERSION, ctypes.sizeof(state)
        state.gpu_count, state.cuda_version = count, 13000
        state.driver, state.library = b"999.99", b"13.999.99"
        for gpu in state.gpus:
            gpu.parent = -1
        for index in range(count):
            idle(state.gpus[index], index, memory_bytes)
        # A process may have the file of before mapped: it keeps that one, the next one gets this.
        fresh = path.with_suffix(".new")
        fresh.write_bytes(bytes(state))
        fresh.replace(path)
        return cls(path)

    @property
    def gpus(self) -> list[FakeGpu]:
        """The whole GPUs."""
        return [FakeGpu(self._state.gpus[index], index, self) for index in range(self._state.gpu_count)]

    @property
    def state(self) -> Any:
        """The whole structure (:mod:`aiobs.device.fake.layout`)."""
        return self._state

    def refuse_init(self, code: int) -> None:
        """Let opening the library fail with `code`: 9 no driver, 18 driver and library differ, 4 no permission."""
        self._state.init_code = code

    def post(self, device: int, kind: int, number: int) -> None:
        """Report an event; see :meth:`FakeGpu.event`."""
        state = self._state
        row = state.events[state.event_count % EVENTS]
        row.device, row.type, row.number = device, kind, number
        state.event_count += 1

    def add_instance(self, gpu: FakeGpu, memory_bytes: int, profile: str) -> FakeGpu:
        """See :meth:`FakeGpu.add_instance`."""
        parent = self._state.gpus[gpu.index]
        for index in range(self._state.gpu_count, DEVICES):
            row = self._state.gpus[index]
            if row.kind:
                continue
            row.parent, row.gpu_instance, row.lost = gpu.index, index, 0
            row.name = f"{parent.name.decode()} MIG {profile}".encode()
            row.uuid = f"MIG-fa4e0000-0000-4000-8000-{index:012x}".encode()
            row.memory_total, row.memory_used, row.memory_reserved = memory_bytes, 0, 0
            parent.mig_mode = 1
            row.kind = INSTANCE
            return FakeGpu(row, index, self)
        raise ValueError(f"there is room for {DEVICES} fake devices")

    def fail(self, function: str, code: int, gpu: FakeGpu | None = None) -> None:
        """Let `function` ("" for all) fail with NVML's error `code`, for one GPU or all, until :meth:`mend`.

        Raises:
            ValueError: no such function, or too many rules.
        """
        self._rule(function, gpu, code=code)

    def hang(self, function: str, gpu: FakeGpu | None = None) -> None:
        """Let `function` not return until :meth:`mend`."""
        self._rule(function, gpu, hang=1)

    def delay(self, function: str, seconds: float, gpu: FakeGpu | None = None) -> None:
        """Let `function` take `seconds` longer."""
        self._rule(function, gpu, delay_us=int(seconds * 1e6))

    def mend(self) -> None:
        """Undo :meth:`fail`, :meth:`hang` and :meth:`delay`; calls that hang return."""
        for rule in self._state.rules:
            rule.active = 0

    def calls(self, pid: int | None = None) -> dict[str, int]:
        """How often each function was called, by the process `pid` or by all; the first 64 processes are counted."""
        found: dict[str, int] = {}
        for caller in self._state.callers:
            if caller.pid and pid in (None, caller.pid):
                for name, number in zip(FUNCTIONS, caller.calls, strict=True):
                    if number:
                        found[name] = found.get(name, 0) + number
        return found

    def callers(self) -> set[int]:
        """The processes that have called the library."""
        return {caller.pid for caller in self._state.callers if caller.pid}

    def _rule(self, function: str, gpu: FakeGpu | None, **values: int) -> None:
        if function and function not in FUNCTIONS:
            raise ValueError(f"the fake library has no function {function}")
        for rule in self._state.rules:
            if not rule.active:
                rule.function = FUNCTIONS.index(function) if function else -1
                rule.device = -1 if gpu is None else gpu.index
                rule.code, rule.hang, rule.delay_us = 0, 0, 0
                for name, value in values.items():
                    setattr(rule, name, value)
                rule.active = 1
                return
        raise ValueError(f"{RULES} rules at most; mend() first")
