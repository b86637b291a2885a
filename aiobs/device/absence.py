"""Why a vendor's devices cannot be read here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Absence:
    """A library that cannot be opened.

    Attributes:
        vendor: nvidia, amd, intel.
        reason, remedy: for people; the remedy may be "".
        worth_saying: whether there seems to be hardware all the same; else its absence is no news.
    """

    vendor: str
    reason: str
    remedy: str = ""
    worth_saying: bool = False
