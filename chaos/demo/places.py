"""Where the programs of the demo are: in the wheel as ``aiobs/examples``, in a checkout beside ``aiobs``."""

from __future__ import annotations

from pathlib import Path

from aiobs.errors import NotEnabledError


def examples() -> Path:
    """The folder with the examples.

    Raises:
        NotEnabledError: it was not shipped.
    """
    package = Path(__file__).absolute().parents[2]  # aiobs, or the checkout where chaos/ is not reached by its link
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "serve_llm.py").is_file():
            return folder.resolve()
    raise NotEnabledError("the examples", "demo")
