"""Two hosts of one run, each with an agent of its own, and a run folder they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiobs.agent.assemble import Assembler
from aiobs.agent.exits import Exit
from aiobs.agent.rendezvous import Rendezvous

RANK = """
    start(rank={rank}, world_size=2, keep_first=1, keep_every=0, keep_slow_ratio=10.0)
    for number in range(40):
        timed(2000 if number == 20 and {rank} else 10)
"""


def test_a_step_slow_on_one_host_is_kept_on_the_other(
    recorded: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    readers = [recorded.run(RANK.format(rank=rank)) for rank in (0, 1)]
    hosts = [Assembler(reader.route) for reader in readers]
    for number, host in enumerate(hosts):
        host.rendezvous = Rendezvous(tmp_path / "run", f"host-{number}")
    steps: list[set[int]] = [set(), set()]

    def take(number: int) -> None:
        batch = hosts[number].take(time.time_ns())
        steps[number] |= {
            row[6][0] for _, rows in batch.spans for row in rows if row[0].name in ("train step", "rank step")
        }

    for number in (0, 1):
        hosts[number].add(readers[number])
        take(number)
    assert 20 in steps[1]
    wait_for(lambda: take(0) or 20 in steps[0])
    for number in (0, 1):
        hosts[number].process_ended(readers[number], Exit("exit", 0, "", 0))
        take(number)
    assert steps[0] == steps[1] == {0, 20, 39}


def test_a_file_that_others_wrote_rubbish_to_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "keep"
    folder.mkdir()
    (folder / "other").write_bytes(b"\xff\x00 nonsense\n" + b"ab" * 16 + b" slow\nhalf a li")
    (folder / "dir").mkdir()
    assert Rendezvous(tmp_path).hear() == [(bytes([0xAB]) * 16, "slow")]


def test_a_meeting_place_that_cannot_be_written_is_no_meeting_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    meeting = Rendezvous(tmp_path / "file")
    meeting.tell(bytes(16), "slow")
    assert meeting.hear() == []
