"""A run in one process that was cut short: it goes on with the same command, or it has left nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dp.ledger import Ledger
from secfed.cli import main
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.engines.embedded.run import execute, prepare
from secfed.errors import UserError
from secfed.files.whole import alone_in
from secfed.node.sites import LEDGER_FILE, Site, is_reserved, reserve_once
from secfed.rounds.events import Event
from secfed.study.manifest import Study
from secfed.verify.folder import verify_folder
from tests.tiny import make_tiny_base

PROGRAM = "from secfed.cli import main; main()"
ROUNDS = 8
SETTINGS = DemoSettings(patients=400, test_records_per_chapter=3, layers=(0, 1), max_length=12, steps=ROUNDS, rank=2)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "workspace"
    prepare_demo(folder, base=make_tiny_base(tmp_path_factory.mktemp("base")), settings=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def begun(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The workspace, and the folder of a run of it that was cut short after its second round."""
    out = tmp_path_factory.mktemp("begun") / "out"
    cut_short(workspace, out, 2, signal.SIGKILL)
    return workspace, out


def command(workspace: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "run", str(workspace / "study.toml"), "--out", str(out), "--yes", "--json"]


WAIT = """
import time
from secfed.aggregator import journal
noted = journal.Journal.open_round
def wait_in(self, number):
    noted(self, number)
    if number > {after}:
        time.sleep(600)
journal.Journal.open_round = wait_in
"""
"""Has a run wait in the next round, as long as the signal may take: otherwise it may be over before that comes."""


def cut_short(workspace: Path, out: Path, after: int, by: signal.Signals) -> tuple[int, list[dict[str, Any]]]:
    """Run it, and send a signal once this round is over. Gives the exit status and what it had printed."""
    events, arguments = [], command(workspace, out)
    arguments[2] = WAIT.format(after=after) + PROGRAM
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if (events[-1]["event"], events[-1].get("round_number")) == ("round-closed", after):
                process.send_signal(by)
    return process.returncode, events


def again(workspace: Path, out: Path) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    done = subprocess.run(command(workspace, out), capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return events, events[-1]


@pytest.mark.parametrize("by", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.sweep)])
def test_a_run_that_was_cut_short_goes_on_with_the_same_command(
    workspace: Path, tmp_path: Path, by: signal.Signals
) -> None:
    out = tmp_path / "out"
    status, before = cut_short(workspace, out, 2, by)
    assert status == (-signal.SIGKILL if by == signal.SIGKILL else 2)
    if by == signal.SIGINT:
        assert before[-1]["event"] == "error"
        assert "continues after the last round" in before[-1]["text"]
    assert verify_folder(out).problem is not None  # it has not ended
    events, summary = again(workspace, out)
    (going_on,) = [each["text"] for each in events if each["event"] == "note" and "going on" in each["text"]]
    opened = [each["round_number"] for each in events if each["event"] == "round-opened"]
    # The round in which it was cut short is void, or was not opened yet.
    assert opened == list(range(opened[0], ROUNDS + 1))
    assert opened[0] in (3, 4)
    assert going_on == f"going on after round {opened[0] - 1} of {ROUNDS}"
    assert [each["number"] for each in summary["rounds"]] == list(range(1, ROUNDS + 1))
    assert not any(each["attempt_void"] for each in summary["rounds"] if each["number"] in (1, 2, *opened))
    assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
    assert verify_folder(out).problem is None


def test_a_folder_takes_no_other_run_while_its_own_is_unfinished(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    cut_short(workspace, out, 1, signal.SIGKILL)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    shutil.copytree(workspace, other)
    text = (other / "study.toml").read_text()
    (other / "study.toml").write_text(text.replace('name = "icd-chapters"', 'name = "another"', 1))
    assert_refused(command(other, out), "already holds another run", capsys)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["study.toml", "first_state.cbor", "receipts/taxi.pdf", "sums/july.bin", "adapter/mine", "report.html"]
)
def test_a_folder_in_which_somebody_elses_files_have_the_names_of_a_runs_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(
        command(workspace, tmp_path / "out"), "already exists and does not belong to an unfinished run", capsys
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert mine.read_text() == "mine"


@pytest.mark.sweep
def test_a_run_that_was_killed_before_its_first_round_goes_on_with_the_same_command(
    workspace: Path, tmp_path: Path
) -> None:
    """Its ledgers hold the study already, and what it had laid out is its own."""
    out = tmp_path / "out"
    stop = "import os; from secfed.aggregator import journal; journal.Journal.open_round = lambda *_: os._exit(9)\n"
    arguments = command(workspace, out)
    arguments[2] = stop + PROGRAM
    assert subprocess.run(arguments, capture_output=True, env=os.environ, check=False).returncode == 9
    assert (out / "first_state.cbor").exists()
    _, summary = again(workspace, out)
    assert not any(each["attempt_void"] for each in summary["rounds"])
    assert verify_folder(out).problem is None


@pytest.mark.sweep
@pytest.mark.parametrize("lost", ["report", "times"])
def test_a_run_that_was_stopped_before_its_report_was_whole_writes_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    out = tmp_path / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        where = {"report": "secfed.reports.html.write_report", "times": "secfed.aggregator.results._settle_times"}
        patch.setattr(where[lost], stop)
        assert_refused(command(workspace, out), "the run was stopped", capsys)
    assert verify_folder(out).problem is not None
    again(workspace, out)
    assert verify_folder(out).problem is None


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["sites/{name}/ledger.sqlite*"], "would forget what this study has spent"),
        (["sites/{name}/node.sqlite*"], "would forget which rounds it has joined"),
        (["journal.jsonl", "sites/*/ledger.sqlite*"], "would forget what this study has spent"),
        (["journal.jsonl", "sites/*/*.sqlite*"], "would forget what this study has spent"),
        (["journal.jsonl", "receipts/*", "sums/*", "sites/*/ledger.sqlite*"], "would forget what this study has spent"),
        (["receipts/*"], "0001.cbor is missing"),
        (["sums/0001.bin"], "0001.bin is missing"),
    ],
)
def test_a_run_whose_memory_is_gone_does_not_go_on(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: list[str], words: str
) -> None:
    """The budget would be granted a second time, or every further round would fail."""
    (workspace, before), out = begun, tmp_path / "out"
    shutil.copytree(before, out)
    for pattern in gone:
        for path in out.glob(pattern.format(name="harbour-clinic")):
            path.unlink()
    left = files_in(out)
    assert_refused(command(workspace, out), words, capsys)
    assert files_in(out) == left


def files_in(folder: Path) -> list[Path]:
    """But for what SQLite keeps beside a database, and clears away."""
    return sorted(path for path in folder.rglob("*") if not path.name.endswith(("-shm", "-wal")))


def test_a_run_whose_sum_was_changed_does_not_go_on(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace, before), out = begun, tmp_path / "out"
    shutil.copytree(before, out)
    (out / "sums" / "0001.bin").write_bytes(b"no sum")
    assert_refused(command(workspace, out), "was changed", capsys)


def test_two_processes_do_not_run_in_one_folder(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with alone_in(out):
        assert_refused(command(workspace, out), "another process is at work in", capsys)
    assert not out.exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_failed_before_its_first_round_leaves_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """A disk that is full once the ledgers are to be written; and what was in the folder before stays."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secfed.engines.embedded.run.reserve_once", full)
    assert_refused(command(workspace, out), "No space left on device", capsys)
    assert [path.name for path in out.rglob("*")] == ["notes.txt"] if there else not out.exists()


def test_too_few_sites_for_a_round_end_the_run_and_leave_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "the disk of this site is broken")

    monkeypatch.setattr("secfed.node.answers.attendance", refuse)
    said = assert_refused(command(workspace, tmp_path / "out"), "too few sites take part for a round", capsys)
    assert "the disk of this site is broken" in said
    assert not (tmp_path / "out").exists()


class Silent:
    def show(self, event: Event) -> None:
        """Nothing."""


def test_a_study_that_is_edited_while_its_plan_is_confirmed_is_run_and_kept_as_it_was(
    workspace: Path, tmp_path: Path
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    shutil.copytree(workspace, mine)
    before = (mine / "study.toml").read_bytes()

    def confirmed() -> bool:
        (mine / "study.toml").write_bytes(before.replace(b'name = "icd-chapters"', b'name = "another"'))
        return True

    execute(prepare(mine / "study.toml", out), Silent(), confirmed)
    assert (out / "study.toml").read_bytes() == before
    assert verify_folder(out).problem is None


def test_a_folder_that_somebody_has_used_since_it_was_looked_at_is_refused(workspace: Path, tmp_path: Path) -> None:
    plan = prepare(workspace / "study.toml", tmp_path / "out")
    (tmp_path / "out" / "receipts").mkdir(parents=True)
    (tmp_path / "out" / "receipts" / "0001.cbor").write_bytes(b"another's")
    with pytest.raises(UserError, match="another run"):
        execute(plan, Silent())
    assert (tmp_path / "out" / "receipts" / "0001.cbor").read_bytes() == b"another's"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), UserError("no", "Next step"), KeyboardInterrupt]
)
def test_a_reservation_that_fails_at_one_site_is_withdrawn_at_those_before_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """In the study's own folder, where what the sites remember lies beside their keys and stays."""
    mine, seen = tmp_path / "mine", 0
    shutil.copytree(workspace, mine)
    plan = prepare(mine / "study.toml", mine)

    def third_fails(study: Study, site: Site, ledger: Ledger) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise error
        reserve_once(study, site, ledger)

    monkeypatch.setattr("secfed.engines.embedded.run.reserve_once", third_fails)
    with pytest.raises((UserError, KeyboardInterrupt)):
        execute(plan, Silent())
    for site in plan.sites:
        if (site.records / LEDGER_FILE).exists():
            assert not is_reserved(plan.study, site.records / LEDGER_FILE), site.name


def assert_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["secfed", *arguments[3:]])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr().out
    assert ended.value.code == 2
    assert words in said
    return said
