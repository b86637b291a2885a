"""The version of aiobs that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Of the distribution ``aiobs-sdk``; "0" in a checkout that is not installed."""
    try:
        return version("aiobs-sdk")
    except PackageNotFoundError:
        return "0"
