"""A data file that changed after approval: noticed before a round, never in one, and the owner says how to go on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from protocols.wire import encode
from secfed import cli
from secfed.engines.flare.worker import NodeWorker
from secfed.errors import UserError
from secfed.node.approve import approve, examine
from secfed.node.data_watch import DataChanged, DataWatch, data_digest
from secfed.node.home import Home
from secfed.node.node import Node
from secfed.rounds.channel import RoundOpening
from secfed.rounds.handover import AttendanceRequest
from tests.homes import Hospitals, approve_at, make_hospitals


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    hospitals = make_hospitals(tmp_path_factory.mktemp("hospitals"), base)
    for home in hospitals.homes:
        approve_at(home, hospitals.study_path)
    return hospitals


@pytest.fixture
def home(pristine: Hospitals, tmp_path: Path) -> Home:
    """The first hospital's home, and a data file, for one test."""
    shutil.copytree(pristine.homes[0].path, tmp_path / "home")
    data = shutil.copy(Home.open(tmp_path / "home").node.data[0].file, tmp_path / "letters.jsonl")
    path = tmp_path / "home" / "node.toml"
    path.write_text(path.read_text().replace(pristine.homes[0].node.data[0].file, str(data)))
    return Home.open(tmp_path / "home")


@pytest.fixture
def node(pristine: Hospitals, home: Home) -> Iterator[Node]:
    with home.open_node(pristine.study.digest) as opened:
        yield opened


def data_of(home: Home) -> Path:
    return Path(home.node.data[0].file)


def withdraw_patient(home: Home) -> None:
    """The first record's patient is taken out of the file."""
    lines = data_of(home).read_text().splitlines(keepends=True)
    patient = json.loads(lines[0])["patient"]
    data_of(home).write_text("".join(line for line in lines if json.loads(line)["patient"] != patient))


def opening(node: Node, number: int = 1) -> bytes:
    return encode(RoundOpening((), node.chain.context(number).opening()))


def console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    captured = capsys.readouterr()
    return int(ending.value.code or 0), captured.out + captured.err


def test_a_round_is_not_joined_on_data_that_changed(home: Home, node: Node) -> None:
    withdraw_patient(home)
    with pytest.raises(DataChanged, match="secfed node data accept letters"):
        node.handle(opening(node))
    assert node._session.client is None
    assert node.parts.store.floor(node.study.digest) == 0
    assert not node.parts.ledger.holds("commit", node.study.digest, 1)


def test_a_file_of_the_same_length_and_time_is_noticed(home: Home, node: Node) -> None:
    before = data_of(home).stat()
    data = data_of(home).read_bytes()
    data_of(home).write_bytes(data.replace(b"a", b"e", 1))
    os.utime(data_of(home), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert data_of(home).stat().st_size == before.st_size
    with pytest.raises(DataChanged):
        node.handle(opening(node))


def test_a_file_that_is_gone_is_noticed(home: Home, node: Node) -> None:
    data_of(home).unlink()
    with pytest.raises(DataChanged):
        node.handle(opening(node))


def test_a_file_that_was_only_touched_is_the_same(home: Home, node: Node) -> None:
    data_of(home).touch()
    assert node.handle(opening(node))


def test_a_file_is_read_again_only_where_it_may_have_been_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, reads = DataWatch(data_of(home), data_digest(data_of(home)), "letters"), []
    monkeypatch.setattr("secfed.node.data_watch.data_digest", lambda path: reads.append(path) or data_digest(path))
    for _ in range(3):
        watch.check()
    assert len(reads) == 1


def test_a_round_that_has_begun_is_trained_on_what_was_read(home: Home, node: Node) -> None:
    assert node.handle(opening(node))
    patients = len(node.parts.trainer.patients.rows)  # type: ignore[attr-defined]
    withdraw_patient(home)
    with pytest.raises(DataChanged):
        node.handle(opening(node, 2))
    assert len(node.parts.trainer.patients.rows) == patients  # type: ignore[attr-defined]


def test_a_node_is_not_opened_on_data_that_changed_until_its_owner_stands_by_it(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = pristine.study.digest
    withdraw_patient(home)
    with pytest.raises(DataChanged), home.open_node(digest):
        pass
    code, printed = console(monkeypatch, capsys, "node", "data", "accept", "letters", "--home", home.path)
    assert code == 0
    assert "continues with letters as it is now" in printed
    with home.open_node(digest) as node:
        assert node.handle(opening(node))


def test_a_node_is_not_opened_on_data_that_changes_while_it_is_read(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Home.site

    def site(self: Home, *arguments: Any) -> Any:
        found = read(self, *arguments)
        with data_of(home).open("a") as file:
            file.write("\n")
        return found

    monkeypatch.setattr(Home, "site", site)
    with pytest.raises(DataChanged):
        home.approved_site(home.stored(pristine.study.digest))


def test_the_file_that_is_put_back_is_taken_without_a_word(pristine: Hospitals, home: Home) -> None:
    before = data_of(home).read_bytes()
    withdraw_patient(home)
    data_of(home).write_bytes(before)
    with home.open_node(pristine.study.digest) as node:
        assert node.handle(opening(node))


def test_a_change_that_does_not_fit_the_study_is_not_taken(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data_of(home).read_text().splitlines(keepends=True)
    data_of(home).write_text("".join(lines[:3]))
    arguments = ("node", "data", "accept", "letters", "--home", home.path, "--json")
    code, printed = console(monkeypatch, capsys, *arguments)
    assert code == 0
    (study,) = json.loads(printed)["studies"]
    assert "and the study's roster says" in study["problem"]
    with pytest.raises(DataChanged), home.open_node(pristine.study.digest):
        pass


def test_a_file_that_changes_while_its_owner_reads_is_not_approved(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home.study_folder(pristine.study.digest))
    candidate = examine(home, pristine.study_path, None)
    withdraw_patient(home)
    with pytest.raises(UserError, match="has changed since it was shown"):
        approve(home, candidate, datetime.now(UTC))
    assert not home.study_folder(pristine.study.digest).exists()


def test_the_doctor_notices_it_too(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    withdraw_patient(home)
    code, printed = console(monkeypatch, capsys, "doctor", "--home", home.path)
    assert code == 1
    assert "has changed since the study was approved" in printed


def test_a_running_node_stays_away_until_its_owner_stands_by_the_file(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not there for the aggregator, so that no round is opened in vain, and comes back with the new file."""
    monkeypatch.setattr("secfed.engines.flare.worker.OPENING_PAUSE_SECONDS", 0.05)
    digest, told = pristine.study.digest, []
    opened: list[Node] = []

    def open_node() -> Any:
        context = home_now().open_node(digest)

        class Watched:
            def __enter__(self) -> Node:
                opened.append(context.__enter__())
                return opened[-1]

            def __exit__(self, *how: Any) -> Any:
                return context.__exit__(*how)

        return Watched()

    def home_now() -> Home:
        return Home.open(home.path)

    def patients() -> int:
        return len(opened[-1].parts.trainer.patients.rows)  # type: ignore[attr-defined]

    worker, there = NodeWorker(open_node, lambda: bytes(64), told.append), encode(AttendanceRequest(digest))
    with ExitStack() as stack:
        worker.start()
        stack.callback(worker.stop, 10)
        wait_for(lambda: worker.ask(there))
        before = patients()
        withdraw_patient(home)
        assert worker.ask(there) == b""
        wait_for(lambda: any("the node takes no part at present" in text and "data accept" in text for text in told))
        console(monkeypatch, capsys, "node", "data", "accept", "letters", "--home", home.path)
        wait_for(lambda: worker.ask(there))
        assert patients() == before - 1


def wait_for(something: Any) -> None:
    deadline = time.monotonic() + 60
    while not something():
        assert time.monotonic() < deadline
        time.sleep(0.02)
