"""GPUs that are not there, for tests, demonstrations and CI: a real ``libnvidia-ml.so.1`` under the real pynvml.

Its answers come from a file (:class:`~aiobs.device.fake.state.FakeGpus`) that can be changed while programs run.
What it says is made up, and marked as such wherever it goes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "AIOBS_FAKE_GPU"
"""Names the state file; the library lies beside it."""
PREFIX = "FAKE GPU"
"""Begins the name of every fake GPU."""


def with_library(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is to see the fake GPUs, if :data:`VARIABLE` is set in it; else as it is.

    The loader reads ``LD_LIBRARY_PATH`` when a program starts: give this to the process that loads NVML, and to
    no other.
    """
    made = dict(environment)
    state = made.get(VARIABLE, "")
    if state:
        before = made.get("LD_LIBRARY_PATH", "")
        made["LD_LIBRARY_PATH"] = os.path.dirname(state) + (os.pathsep + before if before else "")
    return made
