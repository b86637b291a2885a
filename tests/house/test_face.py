"""The public face is a list; a new name in it is a decision, made here."""

from __future__ import annotations

import aiobs

FACE = [
    "AiobsError",
    "Context",
    "ExportError",
    "InjectedError",
    "NotEnabledError",
    "PatchError",
    "RecordError",
    "SettingError",
    "Span",
    "__version__",
    "child_environment",
    "current",
    "event",
    "init",
    "log",
    "phase",
    "point",
    "shutdown",
    "span",
    "step",
    "trace",
]


def test_face_is_the_stored_list() -> None:
    assert sorted(aiobs.__all__) == FACE


def test_every_name_of_the_face_is_there() -> None:
    for name in aiobs.__all__:
        assert getattr(aiobs, name) is not None
    assert set(aiobs.__all__) <= set(dir(aiobs))
