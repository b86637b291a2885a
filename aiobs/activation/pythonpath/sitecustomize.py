"""First on ``PYTHONPATH`` under ``aiobs run``: starts aiobs in this Python, then steps out of the way.

It leaves ``sys.path`` as it would be without it, and lets the ``sitecustomize`` run that it stands in front of
(a distribution's, another tool's), whose errors stay that one's own. Its own are never shown: the process
belongs to the user.
"""

from __future__ import annotations

import os
import sys


def _activate() -> None:
    try:
        from aiobs.activation import lazy
    except Exception as error:
        _say_missing(error)
        return
    lazy.activate()


def _say_missing(error: Exception) -> None:
    # The one outcome that aiobs.activation.notes cannot write: that there is no aiobs for this Python.
    try:
        with open(os.environ["AIOBS_ACTIVATION_LOG"], "a", encoding="utf-8", errors="replace") as log:
            log.write(f"{os.getpid()}\t{sys.executable}\tmissing: {type(error).__name__}: {error}\n")
    except (KeyError, OSError):
        pass


def _give_way() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    mine = sys.modules.pop(__name__)
    try:
        __import__("sitecustomize")  # the next one on sys.path
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules[__name__] = mine


_activate()
_give_way()
