"""Logs are bounded in size and in rate, the first line of a kind is in them, and they end nothing."""

from __future__ import annotations

import logging
import logging.config
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from secfed.bounded_log import (
    BURST,
    FILE_BYTES,
    FILES_KEPT,
    LINE_CHARACTERS,
    SECONDS_EACH,
    BoundedFile,
    ConsoleLog,
    FileLog,
    Fold,
    LineStream,
    cut,
    repeated,
    shape_of,
)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def size_of(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def test_a_flood_of_one_kind_is_written_in_a_burst_then_once_in_a_while_with_its_count() -> None:
    clock = Clock()
    fold = Fold(burst=3, seconds_each=10.0, clock=clock)
    assert [fold.admit("junk") for _ in range(1207)] == [0, 0, 0, *[None] * 1204]
    clock.now = 10.0
    assert fold.admit("junk") == 1204
    assert fold.admit("junk") is None
    assert repeated(1204) == " ... repeated 1,204 times"
    clock.now = 20.0
    assert fold.admit("junk") == 1


def test_a_day_of_junk_writes_so_many_lines_and_no_more() -> None:
    clock = Clock()
    fold = Fold(clock=clock)
    written = 0
    for tenth in range(24 * 3600 * 10):
        clock.now = tenth / 10
        written += fold.admit("junk") is not None
    assert written <= BURST + 24 * 3600 / SECONDS_EACH


def test_the_first_of_a_new_kind_is_written_in_the_middle_of_a_flood() -> None:
    fold = Fold(burst=1, clock=Clock())
    for number in range(10_000):
        fold.admit("junk")
        if number % 1000 == 0:
            assert fold.admit(f"new {number}") == 0


def test_kinds_that_are_too_many_share_one_by_where_they_come_from_until_others_are_quiet() -> None:
    clock = Clock()
    fold = Fold(burst=2, seconds_each=10.0, kinds_max=5, clock=clock)
    assert [fold.admit(("varied", number), "here") for number in range(100)] == [0] * 7 + [None] * 93
    assert fold.admit(("varied", "another place"), "there") == 0
    clock.now = 1000.0
    assert fold.admit(("varied", "later"), "here") == 0


def test_lines_are_alike_that_differ_in_numbers_and_quotations() -> None:
    one = "no answer to a request after 0.1 s: the message (3 bytes) of 'harbour' is too short"
    other = "no answer to a request after 71.2 s: the message (4,123 bytes) of 'hill' is too short"
    assert shape_of(one) == shape_of(other) != shape_of("the node is open for the study")


def test_a_file_is_turned_over_at_its_size_and_the_newest_lines_are_in_it(tmp_path: Path) -> None:
    log = BoundedFile(tmp_path / "node.log", most_bytes=1000, kept=3)
    for number in range(1000):
        assert log.append(f"line {number}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.log", "node.log.1", "node.log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert log.path.read_text().endswith("line 999\n")
    kept = [
        line for name in ("node.log.2", "node.log.1", "node.log") for line in (tmp_path / name).read_text().split("\n")
    ]
    numbers = [int(line.split()[1]) for line in kept if line]
    assert numbers == list(range(numbers[0], 1000))
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_processes_that_share_a_file_lose_no_line_at_a_turn_and_keep_its_size(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from secfed.bounded_log import BoundedFile\n"
        "log = BoundedFile(Path(sys.argv[1]), most_bytes=20_000, kept=50)\n"
        "for n in range(2000): assert log.append(f'{sys.argv[2]} {n}')\n"
    )
    path = tmp_path / "node.log"
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "abc"]
    assert [each.wait() for each in running] == [0, 0, 0]
    assert all(each.stat().st_size <= 20_000 for each in tmp_path.iterdir())
    lines = sorted(line for each in tmp_path.iterdir() for line in each.read_text().splitlines())
    assert lines == sorted(f"{name} {number}" for name in "abc" for number in range(2000))


def test_a_line_of_a_megabyte_is_cut() -> None:
    assert len(cut("x" * 10**6)) < LINE_CHARACTERS + 100
    assert cut("x" * 10**6).endswith(" ... (996,000 characters more)")


def full_disk(*_: object, **__: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["open", "write", "replace", "fstat"])
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file, handler = BoundedFile(tmp_path / "node.log", most_bytes=10), FileLog(str(tmp_path / "log.txt"))
    assert file.append("a first line")
    monkeypatch.setattr(os, call, full_disk)
    assert not file.append("a second")
    handler.emit(logging.LogRecord("x", logging.ERROR, __file__, 1, "a line", None, None))
    monkeypatch.undo()
    assert file.append("a third")


def test_a_record_that_cannot_be_formatted_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FileLog(str(tmp_path / "log.txt")).emit(logging.LogRecord("x", 40, __file__, 1, "%d", ("no number",), None))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["file", "console"])
def test_a_million_records_of_one_place_stay_small_and_another_place_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    fold, path = Fold(clock=Clock()), tmp_path / "log.txt"
    handler = FileLog(str(path), fold) if kind == "file" else ConsoleLog(fold)
    logger = logging.Logger("flood")
    logger.addHandler(handler)
    for number in range(20_000):
        logger.error(f"junk {number} came from {number % 7}: " + "x" * 500)
    logger.error("something else")
    text = path.read_text() if kind == "file" else capsys.readouterr().out
    assert len(text.splitlines()) == BURST + 1
    assert text.endswith("something else\n")


def test_a_log_stays_below_its_size_even_where_every_line_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    endless = Fold(burst=10**9)
    logger = logging.Logger("flood")
    logger.addHandler(FileLog(str(path), endless))
    for number in range(3 * FILE_BYTES * FILES_KEPT // LINE_CHARACTERS):
        logger.error(str(number) + "x" * LINE_CHARACTERS)
    assert 2 * FILE_BYTES < size_of(path) <= FILE_BYTES * FILES_KEPT


def test_threads_write_whole_lines_to_a_stream(tmp_path: Path) -> None:
    stream = LineStream(tmp_path / "audit.log", lambda line: line)

    def write() -> None:
        for number in range(20):
            stream.write(f"{threading.current_thread().name} {number}\n")

    threads = [threading.Thread(target=write, name=f"t{number}") for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    lines = (tmp_path / "audit.log").read_text().splitlines()
    assert sorted(lines) == sorted(f"t{thread} {number}" for thread in range(8) for number in range(20))
