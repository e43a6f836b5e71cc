"""An aggregator whose disk is full waits, loses nothing, leaves nothing half written, and goes on by itself."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from secfed.aggregator.aggregation import Aggregation, load
from secfed.aggregator.journal import Journal
from secfed.engines.embedded.channel import ENGINE
from secfed.engines.flare.progress import RunLog, read_log, waits_for_room
from secfed.errors import UserError
from secfed.files.full_disk import Room, has_room, is_full
from secfed.files.whole import append_line, try_lock, write_whole
from secfed.models import model as models
from secfed.rounds.events import Note, RoundClosed
from tests.secfed.aggregator.test_aggregation import Study, study

__all__ = ["study"]  # the fixture


class FullDisk:
    """A disk that is full at the first attempt to write each file: all but the last byte fits."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.refused = folder.resolve(), set[str]()
        self._fsync, self._save = os.fsync, save_file
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(models, "save_file", self.save_file)

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file() and self.folder in path.parents and self._is_first(path):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)

    def save_file(self, tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        if self._is_first(path):
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        self._save(tensors, path, metadata=metadata)

    def _is_first(self, path: Path) -> bool:
        name = str(path.relative_to(self.folder)).removesuffix(f".{os.getpid()}").replace("/.", "/").removeprefix(".")
        new, self.refused = name not in self.refused, self.refused | {name}
        return new


@dataclass
class Waits:
    """What is told, and how often there was a pause."""

    full: list[str] = field(default_factory=list)
    again: int = 0
    pauses: int = 0

    def room(self) -> Room:
        def over() -> None:
            self.again += 1

        def pause(seconds: float) -> None:
            self.pauses += 1

        return Room(self.full.append, over, pause)


def test_a_study_goes_on_though_the_disk_is_full_at_every_file_that_it_writes(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits()
    disk = FullDisk(study.home.run(study.digest), monkeypatch)
    work = load(study.home, study.digest)
    summary = Aggregation(work, study.sites, study.events.append, lambda seconds: None, room=waits.room()).run(ENGINE)
    study.check(summary)
    assert not any(each["attempt_void"] for each in summary["rounds"])
    written = {str(path.relative_to(work.out)) for path in work.out.rglob("*") if path.is_file()}
    assert disk.refused >= written - {"adapter/README.md"}, "a file is written that a full disk leaves cut short"
    assert waits.pauses == len(disk.refused)
    assert waits.again == len(waits.full) > 0
    lines = [json.loads(line) for line in (work.out / "journal.jsonl").read_text().splitlines()]
    assert [line["opened"] for line in lines if "opened" in line] == [1, 2]
    assert [line["closed"]["number"] for line in lines if "closed" in line] == [1, 2]


def test_without_room_to_wait_for_a_full_disk_is_an_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(study.home.run(study.digest), monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        study.run()


def test_another_error_than_a_full_disk_is_not_waited_for() -> None:
    waits = Waits()

    def refused() -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        waits.room().write(refused)
    assert not waits.pauses


def test_a_full_disk_is_known_behind_other_errors() -> None:
    def wrapped(error: Exception) -> Exception:
        try:
            raise UserError("the report cannot be written", "Make room") from error
        except UserError as outer:
            return outer

    assert is_full(OSError(errno.ENOSPC, "full"))
    assert is_full(wrapped(OSError(errno.EDQUOT, "over quota")))
    assert not is_full(wrapped(OSError(errno.EACCES, "no")))
    assert not is_full(ValueError("28"))


def test_a_job_that_is_ended_waits_no_longer() -> None:
    class Ended(Exception):
        pass

    def pause(seconds: float) -> None:
        raise Ended

    def full() -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(Ended):
        Room(lambda said: None, lambda: None, pause).write(full)


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    append_line(path, "first")
    with path.open("a") as file:
        file.write('{"cut')  # by a crash
    honest = os.write

    def full(descriptor: int, data: bytes) -> int:
        honest(descriptor, bytes(data)[:3])
        raise OSError(errno.ENOSPC, "full")

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            append_line(path, "second")
    assert path.read_bytes() == before
    append_line(path, "second")
    assert path.read_text().split("\n") == ["first", '{"cut', "second", ""]


def test_a_runs_log_holds_nothing_up_and_has_every_line_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "digest"
    log = RunLog(folder)
    log.start("job")
    honest = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: honest(descriptor, bytes(data)[:20]))
        patch.setattr("secfed.engines.flare.progress.has_room", lambda folder: False)
        log.no_room(waits=True)
        log.show(Note("the disk is full"))
        log.show(RoundClosed(1, 3, 4, 1.0, 0.5))
        assert waits_for_room(folder)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    log.no_room(waits=False)
    log.end("completed", "state")
    log.flush()
    assert [event["event"] for event in read_log(folder)] == ["start", "note", "round-closed", "end"]
    assert not waits_for_room(folder)


def test_a_line_that_a_crash_cut_short_takes_no_other_with_it(tmp_path: Path) -> None:
    """The next one is the end, perhaps, without which a study that is complete would be run again."""
    folder = tmp_path / "runs" / "digest"
    RunLog(folder).start("job")
    with (tmp_path / "runs" / "digest.progress.jsonl").open("a") as file:
        file.write('{"time": "2026')
    RunLog(folder).end("completed", "state")
    assert [event["event"] for event in read_log(folder)] == ["start", "end"]


def test_a_folder_has_room_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_room(tmp_path)
    with monkeypatch.context() as patch:
        FullDisk(tmp_path, patch)
        assert not has_room(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_locked_for_one_descriptor(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(lock)
    again = try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_a_receipt_that_did_not_fit_is_kept_whole_once_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `write_whole` leaves on a full disk is the old file, and no other."""
    Journal(tmp_path)
    path = tmp_path / "receipts" / "0001.cbor"
    FullDisk(tmp_path, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"receipt")
    assert not list(path.parent.iterdir())
    write_whole(path, b"receipt")
    assert path.read_bytes() == b"receipt"
