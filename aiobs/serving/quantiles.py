"""Quantiles of durations in constant memory: a histogram whose buckets grow with the value.

Each power of two is cut into 32 buckets, so a bucket is 3 % wide and its middle at most 1.6 % from any value in it.
There are at most 32 buckets an octave, whatever is counted, and only those that were hit take room. Durations of
less than two microseconds are off by up to 32 ns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def bucket_of(ns: int) -> int:
    """Number of the bucket of a duration in ns; ordered as durations are.

    :meth:`aiobs.serving.stream.Stream.chunk` has the same lines written out, for it has no time for a call.
    """
    ns |= 32
    octave = ns.bit_length() - 6
    return (octave << 5) + (ns >> octave)


def middle_s(bucket: int) -> float:
    """The middle of a bucket, seconds."""
    octave = (bucket >> 5) - 1
    return (((bucket & 31) + 32.5) * (1 << octave)) / 1e9


def quantiles(counts: Mapping[int, int], wanted: Sequence[float]) -> list[float]:
    """Durations in seconds below which the shares `wanted` (ascending, 0 to 1) of all counted ones lie.

    Args:
        counts: how many durations each bucket holds; not empty.
    """
    ordered = sorted(counts)
    total = sum(counts.values())
    found: list[float] = []
    place, below = 0, counts[ordered[0]]
    for share in wanted:
        rank = share * total
        while below < rank and place < len(ordered) - 1:
            place += 1
            below += counts[ordered[place]]
        found.append(middle_s(ordered[place]))
    return found
