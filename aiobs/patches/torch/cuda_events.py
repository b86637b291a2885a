"""A GPU's streams and events, as timing needs them: the protocol, and PyTorch's CUDA behind it.

Nothing else in aiobs touches CUDA for timing, so everything else is tested with a device that is simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aiobs.wrapping import Live, replace

STREAMS_LIMIT = 256


class Event(Protocol):
    """A moment in a stream. Only one that has been reached may be asked for a time."""

    def record(self, stream: Any) -> None:
        """Put it at the end of what is queued in `stream`."""

    def query(self) -> bool:
        """Whether the GPU has reached it."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to `end_event`, both of the same GPU."""
        ...

    def synchronize(self) -> None:
        """Wait until it is reached."""


class Place:
    """A GPU's number and one of its streams; the same object each time, compared as such."""

    __slots__ = ("device", "stream")

    def __init__(self, device: int, stream: Any) -> None:
        self.device, self.stream = device, stream


class Gpus(Protocol):
    """The GPUs of this process."""

    def here(self) -> Place | None:
        """The current GPU and stream of the calling thread; None while a graph is being captured."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def capturing(self) -> bool:
        """Whether a graph is being captured: neither recording nor asking is allowed then."""
        ...


class TorchGpus:
    """PyTorch's CUDA, which the program has initialised. ROCm builds have the same under the same names."""

    def __init__(self) -> None:
        import torch

        core: Any = torch._C
        self._device: Callable[[], int] = core._cuda_getDevice
        self._handle: Callable[[int], int] = core._cuda_getCurrentRawStream
        self._stream_captures: Callable[[], bool] = core._cuda_isCurrentStreamCapturing
        self._stream: Callable[[int], Any] = torch.cuda.current_stream
        self._event: Callable[..., Any] = torch.cuda.Event
        self._places: dict[tuple[int, int], Place] = {}

    def here(self) -> Place | None:
        """See :class:`Gpus`; without making a stream object each time, which is most of what that would cost."""
        if captures.count or self._stream_captures():
            return None
        device = self._device()
        key = device, self._handle(device)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= STREAMS_LIMIT:
                self._places.clear()
            found = self._places[key] = Place(device, self._stream(device))
        return found

    def event(self) -> Event:
        """See :class:`Gpus`."""
        event: Event = self._event(enable_timing=True)
        return event

    def capturing(self) -> bool:
        """See :class:`Gpus`. A capture in another thread counts: asking any event could spoil it."""
        return captures.count > 0 or self._stream_captures()


class Captures:
    """How many graphs are being captured in this process."""

    def __init__(self) -> None:
        self.count = 0

    def place(self) -> list[Callable[[], None]]:
        """Count from now on; returns what ends it."""
        from torch.cuda import CUDAGraph

        self.count = 0
        return [
            replace(CUDAGraph, "capture_begin", self._begins),
            replace(CUDAGraph, "capture_end", self._ends),
        ]

    def _begins(self, original: Any, live: Live) -> Any:
        def capture_begin(*args: Any, **kwargs: Any) -> Any:
            if not live:
                return original(*args, **kwargs)
            self.count += 1
            try:
                return original(*args, **kwargs)
            except BaseException:
                self.count -= 1
                raise

        return capture_begin

    def _ends(self, original: Any, live: Live) -> Any:
        def capture_end(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                if live:
                    self.count = max(0, self.count - 1)

        return capture_end


captures = Captures()
