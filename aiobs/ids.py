"""Trace and span ids: random ones from a private source, and the computed ones of runs and steps.

Every rank computes the same ids for the same step, so all ranks of a job land in one trace without
exchanging a byte. The random ones never touch the global ``random`` stream: that would change the user's
shuffling, and equally seeded ranks would draw equal ids (both happen with OpenTelemetry's default
generator).
"""

from __future__ import annotations

import os
import random
from hashlib import blake2b

# A private generator seeded by the kernel. Seeding again after fork() is what keeps parent and child apart.
_random = random.Random()  # noqa: S311 - ids need to be unique, not secret
random_bits = _random.getrandbits
"""``random_bits(n)``: n random bits as an int; fork-safe, never the global stream."""


def reseed() -> None:
    """Start a new random stream; called in a forked child."""
    _random.seed(int.from_bytes(os.urandom(32), "little"))


reseed()


def random_trace_id() -> bytes:
    """16 random bytes, never all zero."""
    return (random_bits(128) or 1).to_bytes(16, "big")


def random_span_id() -> bytes:
    """8 random bytes, never all zero."""
    return (random_bits(64) or 1).to_bytes(8, "big")


def _digest(size: int, *parts: object) -> bytes:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=size, person=b"aiobs-id-1").digest()


def run_trace_id(run_id: str) -> bytes:
    """Trace id (16 bytes) of the run trace of `run_id`."""
    return _digest(16, "run", run_id)


def run_span_id(run_id: str) -> bytes:
    """Span id (8 bytes) of the root span of the run trace."""
    return _digest(8, "run", run_id)


def step_trace_id(run_id: str, attempt: int, step: int) -> bytes:
    """Trace id (16 bytes) of one training step, equal on every rank."""
    return _digest(16, "step", run_id, attempt, step)


def step_span_id(run_id: str, attempt: int, step: int, rank: int) -> bytes:
    """Span id (8 bytes) of one rank's step span; rank 0's is the root of the step's trace."""
    return _digest(8, "step", run_id, attempt, step, rank)


def phase_span_id(step_span: bytes, index: int) -> bytes:
    """Span id (8 bytes) of the `index`-th phase entry recorded in a step span."""
    return _digest(8, "phase", step_span.hex(), index)


def started_span_id(span: bytes) -> bytes:
    """Span id (8 bytes) of the ``(started)`` announcement of a span that is still open."""
    return _digest(8, "started", span.hex())
