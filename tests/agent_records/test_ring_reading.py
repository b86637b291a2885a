"""A writer that never waits: laps are counted, nothing is misread, holes are stepped over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiobs.agent.assemble import Assembler
from aiobs.agent.reader import FlightReader
from aiobs.agent.ring import CHUNK
from aiobs.recorder import layout

WRITER = """
    start()
    print(flush=True)
    deadline = time.monotonic() + float(os.environ["SECONDS"])
    def work(k):
        i = 0
        while time.monotonic() < deadline:
            for _ in range(100):
                with recorder.span("work", k=k, i=i, check=(i * 7919 + k) % 10007, text=str(i)):
                    pass
                i += 1
            if i % 1000 == 0 and k == 0:
                with recorder.span("long", i=i, text=str(i % 10) * 1500):
                    pass
        counts.append(i)
    counts = []
    threads = [threading.Thread(target=work, args=(k,)) for k in range(int(os.environ["THREADS"]))]
    for t in threads: t.start()
    for t in threads: t.join()
    with recorder.span("written", total=sum(counts)):
        pass
    kill()
"""


@pytest.mark.parametrize(("threads", "pause"), [("1", 0.0), ("3", 0.0), ("1", 0.15)])
def test_a_reader_behind_a_fast_writer_misreads_nothing(recorded: Any, threads: str, pause: float) -> None:
    """The ring holds 512 cells, so that the reader is passed again and again."""
    process = recorded.start(WRITER, RING=str(512 * layout.CELL_BYTES), SECONDS="1.0", THREADS=threads)
    process.stdout.readline()
    reader = FlightReader(next(recorded.directory.glob("*.fr")))
    assembler = Assembler(reader.route)
    rows: list[Any] = []

    def take() -> None:
        rows.extend(row for _, found in assembler.take(time.time_ns(), metrics=False).spans for row in found)

    while process.poll() is None:
        assembler.add(reader, CHUNK)
        take()
        time.sleep(pause)
    from aiobs.agent.exits import Exit

    assembler.process_ended(reader, Exit("signal", None, "SIGKILL", time.monotonic_ns()))
    take()
    process.communicate()
    seen: dict[int, list[int]] = {}
    for row in rows:
        values = dict(zip(row[0].keys, row[6], strict=True))
        if row[0].name == "work":
            assert values["check"] == (values["i"] * 7919 + values["k"]) % 10007
            assert values["text"] == str(values["i"])
            assert row[5] - row[4] < 10**9
            seen.setdefault(values["k"], []).append(values["i"])
        elif row[0].name == "long":
            assert values["text"] == str(values["i"] % 10) * 1500
    for numbers in seen.values():
        assert len(set(numbers)) == len(numbers)
        assert numbers == sorted(numbers)
    written = next(row for row in rows if row[0].name == "written")[6][0]
    read = sum(map(len, seen.values()))
    assert reader.counters()["damaged"] == 0
    assert read <= written
    if pause:
        assert reader.lost > 0
    # What is missing was counted (parts of long records count too, and whoever lost a part is not whole).
    assert 0 <= reader.lost + reader.torn - (written - read) <= 40 * (written // 1000 + 1)


def test_what_was_lost_is_said(recorded: Any) -> None:
    reader = recorded.run(
        """
        start()
        process = recorder.start_span("process")
        for i in range(2000):
            with recorder.span("work", i=i):
                pass
        kill()
    """,
        RING=str(512 * layout.CELL_BYTES),
    )
    told = recorded.told(reader)
    numbers = [row[6][0] for row in told.named("work")]
    assert numbers == list(range(2000 - len(numbers), 2000))
    assert 256 < len(numbers) <= 512
    assert reader.counters()["lost"] == 2000 - len(numbers)
    (lost,) = [log for log in told.logs if log.event_name == "aiobs.records.lost"]
    assert lost.attributes == {"aiobs.records.count": 2000 - len(numbers)}
    assert "aiobs.records.lost" in [event.name for event in told.one("process")[7].events]
    reader.commit(reader.position)
    assert FlightReader(reader.path).lost == 2000 - len(numbers)
    assert FlightReader(reader.path).position == 2001


HOLE = """
    start()
    for i in range(20):
        with recorder.span("work", i=i):
            pass
    kill()
"""


def tear(path: Path, seq: int) -> None:
    """Make the record look as if its writer had died before its last word."""
    with path.open("r+b") as file:
        file.seek(layout.RING_AT + seq * layout.CELL_BYTES + layout.HEAD_SEQ)
        file.write(bytes(8))


def test_a_hole_is_waited_for_and_then_stepped_over(recorded: Any) -> None:
    reader = recorded.run(HOLE)
    tear(reader.path, 8)
    now = [0]

    def read() -> int:
        cells = reader.read(now=lambda: now[0])
        return cells.count if cells else 0

    assert read() == 7
    assert read() == 0
    now[0] += 1_900_000_000
    assert read() == 0
    now[0] += 200_000_000
    assert read() == 12
    assert reader.torn == 1
    assert read() == 0


def test_holes_of_a_dead_writer_are_stepped_over_at_once(recorded: Any) -> None:
    reader = recorded.run(HOLE)
    for seq in (1, 8, 9, 20):
        tear(reader.path, seq)
    told = recorded.told(reader)
    assert [row[6][0] for row in told.named("work")] == [i for i in range(20) if i + 1 not in (1, 8, 9, 20)]
    assert reader.torn == 3  # nobody can know of the last one


def test_a_long_record_that_lost_a_part_is_left_out(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        for i in range(3):
            with recorder.span("long", i=i, text="x" * 1000):
                pass
        kill()
    """)
    tear(reader.path, 3)
    told = recorded.told(reader)
    assert [row[6][0] for row in told.named("long")] == [1, 2]
    assert reader.counters()["damaged"] == 0
    assert reader.torn == 2  # the cell, and the record that lacks it


def test_parts_without_their_record_do_not_hide_what_follows(recorded: Any) -> None:
    """A writer thread may die in the middle of a long record; the others go on."""
    reader = recorded.run("""
        start()
        with recorder.span("long", a="x" * 4000, b="x" * 4000, c="x" * 4000):
            pass
        for i in range(10):
            with recorder.span("work", i=i):
                pass
        kill()
    """)
    parts = -(-(3 * 4000 + 6) // layout.CELL_PAYLOAD) - 1
    tear(reader.path, 1 + parts)  # the record itself
    told = recorded.told(reader)
    assert [row[6][0] for row in told.named("work")] == list(range(10))
    assert reader.torn == 1


def test_a_long_record_with_holes_between_its_parts_is_whole(recorded: Any) -> None:
    """One thread was killed between taking a number and writing; another finished its record."""
    reader = recorded.run("""
        start()
        from aiobs.recorder.state import state
        numbers = iter([1, 2, 4, 5, 7, 8, 9, 11])     # 3, 6 and 10 were another thread's
        state.flight.next_seq = lambda: next(numbers)
        for i in range(2):
            with recorder.span("long", i=i, text="x" * 400):
                pass
        kill()
    """)
    told = recorded.told(reader)
    assert [row[6] for row in told.named("long")] == [(0, "x" * 400), (1, "x" * 400)]
    assert reader.torn == 3


@pytest.mark.parametrize("restart", [False, True])
def test_a_record_may_come_long_after_its_parts(recorded: Any, restart: bool) -> None:
    """A thread may lose its turn in the middle of a long record, while others write thousands."""
    reader = recorded.run("""
        start()
        from aiobs.recorder.state import state
        flight = state.flight
        late = recorder.start_span("long", {"i": 1, "text": "x" * 400})
        plain, taken = flight.next_seq, []
        def slow():
            taken.append(plain())
            if len(taken) == 3:
                flight.next_seq = plain
                for i in range(3000):
                    with recorder.span("short", i=i):
                        pass
            return taken[-1]
        flight.next_seq = slow
        late.end()
        kill()
    """)
    told = recorded.told(reader, restart=restart)
    assert told.attributes(told.one("long")) == {"i": 1, "text": "x" * 400}
    assert len(told.named("short")) == 3000


def test_short_stretches_do_not_cut_long_records(recorded: Any) -> None:
    reader = recorded.run("""
        start()
        for i in range(5):
            with recorder.span("long", i=i, text="x" * 9000):
                pass
        kill()
    """)
    assembler = Assembler(reader.route)
    while assembler.add(reader, 16):
        pass
    ((_, rows),) = assembler.take(time.time_ns(), metrics=False).spans
    assert [row[6][0] for row in rows] == list(range(5))


def test_liveness_follows_the_lock(recorded: Any, wait_for: Callable[..., None]) -> None:
    process = recorded.start("start(); print(flush=True); time.sleep(60)")
    process.stdout.readline()
    reader = FlightReader(next(recorded.directory.glob("*.fr")))
    assert reader.alive()
    assert not reader.closed()
    process.kill()
    process.communicate()
    wait_for(lambda: not reader.alive())


def test_reading_in_the_writers_process_leaves_its_lock_alone(recorded: Any) -> None:
    """POSIX locks go when any descriptor of the file is closed; others would take the writer for dead."""
    process = recorded.start("""
        from aiobs.agent.reader import FlightReader
        start()
        (path,) = Path(os.environ["RECORDS"]).glob("*.fr")
        reader = FlightReader(path)
        assert reader.own_process() and reader.alive()
        reader.close()
        print(flush=True)
        time.sleep(60)
    """)
    try:
        process.stdout.readline()
        assert FlightReader(next(recorded.directory.glob("*.fr"))).alive()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("lapped", [False, True])
def test_a_span_whose_record_was_half_written_comes_truncated(recorded: Any, lapped: bool) -> None:
    """The writer died between the first and the last byte of the record: all but the seq is there."""
    reader = recorded.run(f"""
        start()
        from aiobs.recorder import layout
        from aiobs.recorder.state import state
        for _ in range({600 if lapped else 3}):
            with recorder.span("before"):
                pass
        span = recorder.start_span("cut off")
        flight = state.flight
        cell = flight.ring_at + flight.next_seq() % flight.cells * layout.CELL_BYTES
        slot = next(i for i in range(layout.SLOTS_AT, layout.AREAS_AT, layout.CELL_BYTES)
                    if int.from_bytes(flight.mm[i + 24 : i + 32], "little") == span.id)
        flight.mm[cell : cell + layout.HEAD_END] = flight.mm[slot : slot + layout.HEAD_END]
        kill()
    """, RING=str(512 * layout.CELL_BYTES))  # fmt: skip
    told = recorded.told(reader)
    assert told.attributes(told.one("cut off"))["aiobs.truncated"] is True
