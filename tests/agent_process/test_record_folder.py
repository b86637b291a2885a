"""The folder of flight records is scanned when something in it may have changed, and no record is missed for that."""

from __future__ import annotations

import os
import time
from pathlib import Path

from aiobs.agent.records import RecordFolder


def test_a_folder_at_rest_is_not_scanned_and_nothing_new_is_missed(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path)
    (tmp_path / "1-1-0.fr").touch()
    old = time.time() - 10
    os.utime(tmp_path, (old, old))
    assert folder.changed()
    assert not folder.changed()
    (tmp_path / "2-2-0.fr").touch()
    assert folder.changed()
    # The folder's time moves in ticks of the kernel's clock: what comes within the same tick does not show in it.
    assert folder.changed()
    os.utime(tmp_path, (old + 1, old + 1))
    assert folder.changed()
    assert not folder.changed()


def test_a_folder_that_is_gone_is_looked_at(tmp_path: Path) -> None:
    assert RecordFolder(tmp_path / "gone").changed()
