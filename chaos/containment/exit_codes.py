"""What ``aiobs verdict`` exits with: another number for each outcome, so that a pipeline can tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from aiobs.chaos.containment.model import Verdict

EXIT_CODES = {
    "contained": 0,
    "leaked": 10,
    "not_recovered": 11,
    "inconclusive": 12,
    "invalid": 13,
    "aborted": 14,
    "residue": 15,
}
"""1 is left to crashes and 2 to wrong usage."""

_GRAVITY = ("residue", "leaked", "not_recovered", "aborted", "invalid", "inconclusive", "contained")


def exit_code(verdict: Verdict) -> int:
    """The exit code of one verdict."""
    return EXIT_CODES[verdict.kind]


def gravest(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several faults' verdicts the one that counts."""
    return min(verdicts, key=lambda verdict: _GRAVITY.index(verdict.kind))
