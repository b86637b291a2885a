"""The agent's memory on disk: what a killed, damaged or full one looks like to the next agent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiobs.agent.journal import COMPACT_BYTES, Journal
from aiobs.agent.spool import MEMORY_BYTES, Allowance, Lane
from aiobs.ports import Body


def body(text: str, items: int = 1) -> Body:
    return Body("traces", text.encode(), items)


def drain(lane: Lane) -> list[str]:
    """Everything that may be sent, taken in order."""
    taken = []
    while (found := lane.next(0)) is not None:
        entry, content = found
        lane.remove(entry)
        taken.append(content.content.decode())
    return taken


# -- journal -----------------------------------------------------------------------------------------------
def test_the_next_agent_finds_the_last_commit(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    assert journal.fresh
    for turn in range(3):
        journal.commit({"turn": turn})
    journal.close()
    again = Journal(path)
    assert (again.last, again.damage, again.fresh) == ({"turn": 2}, "", False)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_short_was_no_commit(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"turn":1}\n' + b'{"turn":2}\n'[:-cut])
    whole = cut == 1  # only the line feed is missing
    journal = Journal(path)
    assert journal.last == {"turn": 2 if whole else 1}
    assert not journal.damage
    journal.commit({"turn": 3})
    journal.close()
    assert Journal(path).last == {"turn": 3}
    assert Journal(path).damage == ""


def test_garbage_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"turn":1}\n\x00\xff\x00 nonsense\n[1]\n')
    journal = Journal(path)
    assert journal.last == {"turn": 1}
    assert "line" in journal.damage


def test_the_journal_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for turn in range(50):
        journal.commit({"turn": turn, "pending": "x" * 100_000})
        assert path.stat().st_size <= COMPACT_BYTES + 200_000
    journal.close()
    assert Journal(path).last["turn"] == 49
    assert [item.name for item in tmp_path.iterdir()] == ["journal.jsonl"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_commit_the_disk_refuses_leaves_the_journal_as_it_was(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal.jsonl")
    journal.commit({"turn": 1})
    with pytest.raises(OSError, match=r"full|space"):
        journal.commit({"turn": 2, "pending": "x" * 400_000})
    assert journal.last == {"turn": 1}
    journal.commit({"turn": 3})
    journal.close()
    assert Journal(small_disk / "journal.jsonl").last == {"turn": 3}


# -- spool -------------------------------------------------------------------------------------------------
def test_nothing_is_sent_before_its_turn_is_committed(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane", Allowance(1 << 20), 0)
    lane.put(body("a"))
    assert drain(lane) == []
    lane.commit()
    lane.put(body("b"))
    assert drain(lane) == ["a"]


def test_bodies_without_a_commit_are_gone_for_the_next_agent(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane", Allowance(1 << 20), 0)
    lane.put(body("done"))
    committed = lane.last
    lane.put(body("not done"))
    (tmp_path / "lane" / "000000000009.new").write_bytes(b"torn")
    again = Lane(tmp_path / "lane", Allowance(1 << 20), committed)
    assert drain(again) == ["done"]
    assert list((tmp_path / "lane").iterdir()) == []
    again.put(body("next"))
    assert again.last > committed


def test_with_the_journal_lost_every_body_counts(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane", Allowance(1 << 20), 0)
    for text in "abc":
        lane.put(body(text))
    assert drain(Lane(tmp_path / "lane", Allowance(1 << 20), None)) == ["a", "b", "c"]


def test_beyond_the_cap_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    allowance = Allowance(1000)
    lane = Lane(tmp_path / "lane", allowance, 0)
    other = Lane(tmp_path / "other", allowance, 0)
    other.put(body("o" * 100, items=5))
    for letter in "abcd":
        lane.put(body(letter * 300, items=7))
    lane.commit()
    other.commit()
    assert allowance.used() <= 1000
    assert [text[0] for text in drain(lane)] == ["b", "c", "d"]
    assert lane.dropped == {"spool_full": 7}
    assert other.dropped == {}


def test_the_body_under_way_is_not_evicted(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane", Allowance(700), 0)
    lane.put(body("a" * 300))
    lane.commit()
    found = lane.next(0)
    assert found is not None
    lane.put(body("b" * 300))
    lane.put(body("c" * 300))
    lane.commit()
    lane.remove(found[0])
    assert [text[0] for text in drain(lane)] == ["c"]
    assert lane.dropped == {"spool_full": 1}


def test_a_full_disk_is_said_once_and_memory_stands_in_up_to_its_limit(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lane = Lane(small_disk / "lane", Allowance(1 << 30), 0)
    size = 1 << 20
    count = MEMORY_BYTES // size + 4
    for number in range(count):
        lane.put(body(f"{number:03}" + "x" * (size - 3), items=10))
    assert [lane.durable] == [False]  # not narrowed: it changes below
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1
    assert lane.dropped == {"disk_full": 40}
    assert [text[:3] for text in drain(lane)] == [f"{number:03}" for number in range(4, count)]
    lane.put(body("small again"))
    lane.commit()
    assert lane.durable
    assert drain(lane) == ["small again"]
    assert os.listdir(small_disk / "lane") == []
