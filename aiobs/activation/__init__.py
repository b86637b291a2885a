"""Zero-code activation: how a Python started by ``aiobs run`` comes to record without a word in its code.

``aiobs run`` puts :data:`FOLDER` first on ``PYTHONPATH``. Python imports ``sitecustomize`` from there at its
start, which asks :mod:`~aiobs.activation.roles` what this process is for and, in a worker, waits for the first
library worth recording (:mod:`~aiobs.activation.lazy`). A Python that never imports one pays a few
milliseconds and nothing else.
"""

from __future__ import annotations

import os

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pythonpath")
"""The folder that goes first on ``PYTHONPATH``."""

LOG_VARIABLE = "AIOBS_ACTIVATION_LOG"
"""Environment variable: file to which each Python appends one line ``pid <tab> executable <tab> outcome``."""
HOOKED = "hooked"
"""Outcome: waiting for a library worth recording."""
STARTED = "started"
"""Outcome: such a library was imported, recording has begun."""
SKIPPED = "skipped: "
"""Outcome, followed by the reason: a process that is not to be recorded."""
MISSING = "missing: "
"""Outcome, followed by the error: aiobs cannot be imported by this Python."""
FAILED = "failed: "
"""Outcome, followed by the error: a fault of ours kept it from recording."""

TRIGGERS_VARIABLE = "AIOBS_TRIGGERS"
"""Environment variable: comma-separated modules whose import starts recording; set by ``aiobs run``."""
TRIGGERS = ("torch", "opentelemetry.trace")
"""The modules where the variable is not set."""
