"""A run that is not finished is said to be so, never to hold, and is broken where what is there does not hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from secfed.models.adapter import ADAPTER_FILES
from secfed.reports import folder as run_folder
from secfed.reports.folder import ledger_file, receipt_file, sum_file
from secfed.study.approvals import SIGNATURES
from secfed.verify.folder import verify_folder
from secfed.verify.unfinished import NotFinished
from tests.command_line import exit_code
from tests.secfed.federation import Federation
from tests.secfed.verify.verified import WEIGHTS, problem_in

SITES = [f"hospital-{node}" for node in range(5)]
LAST = [
    *(f"adapter/{name}" for name in ADAPTER_FILES),
    *map(ledger_file, SITES),
    run_folder.SUMMARY,
    run_folder.REPORT,
    run_folder.REPORT_PAGE,
]
ROUNDS = [place(number) for number in (1, 2, 4) for place in (sum_file, receipt_file)]
IN_ONE_PROCESS = [run_folder.STUDY, SIGNATURES, run_folder.FIRST_STATE, *ROUNDS, *LAST]
BETWEEN_MACHINES = [run_folder.STUDY, run_folder.FIRST_STATE, *ROUNDS, SIGNATURES, *LAST]
STAGES = [(order, at) for order in (IN_ONE_PROCESS, BETWEEN_MACHINES) for at in range(len(order))]


def cut_off(folder: Path, order: list[str], at: int) -> None:
    """As a run that is there to this file leaves it."""
    for place in order[at:]:
        (folder / place).unlink()


@pytest.mark.parametrize(("order", "at"), STAGES, ids=lambda value: "" if isinstance(value, list) else str(value))
def test_a_run_that_is_not_finished_is_neither_broken_nor_whole_at_any_stage(
    folder: Path, order: list[str], at: int
) -> None:
    cut_off(folder, order, at)
    verdict = verify_folder(folder)
    assert isinstance(verdict.problem, NotFinished), verdict.problem
    fixed = [place for place in order[at:] if place not in ROUNDS and place != SIGNATURES]
    named = [place for place in verdict.missing if place != SIGNATURES]
    if at:
        assert sorted(named) == sorted(fixed)
    assert (SIGNATURES in verdict.missing) == (SIGNATURES in order[at:])


@pytest.mark.parametrize("at", range(len(BETWEEN_MACHINES) - len(LAST), len(BETWEEN_MACHINES)))
@pytest.mark.parametrize("place", [run_folder.STUDY, run_folder.FIRST_STATE, *ROUNDS, SIGNATURES])
def test_what_is_there_of_an_unfinished_run_is_checked(folder: Path, at: int, place: str) -> None:
    cut_off(folder, BETWEEN_MACHINES, at)
    damaged = bytearray((folder / place).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / place).write_bytes(damaged)
    verdict = verify_folder(folder)
    assert verdict.problem is not None
    assert not verdict.missing, "it is broken, and that comes first"
    assert place.startswith(verdict.problem.place)


@pytest.mark.parametrize("place", LAST[1:-1])  # an adapter is looked at once both of its files are there
def test_each_of_the_last_files_is_checked_as_soon_as_it_is_there(folder: Path, place: str) -> None:
    after = LAST.index(place) + 1
    for gone in LAST[after:]:
        (folder / gone).unlink()
    (folder / place).write_bytes((folder / place).read_bytes()[:-30])
    verdict = verify_folder(folder)
    assert verdict.problem is not None
    assert (verdict.problem.place, verdict.missing) == (place, ())


@pytest.mark.parametrize("place", [each for each in IN_ONE_PROCESS if each != run_folder.REPORT_PAGE])
def test_a_file_that_others_come_after_was_taken_away(folder: Path, place: str) -> None:
    (folder / place).unlink()
    verdict = verify_folder(folder)
    assert verdict.problem is not None
    assert verdict.missing == ()


@pytest.mark.parametrize("last", [[run_folder.REPORT_PAGE], LAST[-3:], LAST])
def test_a_finished_run_without_its_last_files_does_not_pass_and_what_is_missing_is_named(
    folder: Path, last: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in last:
        (folder / place).unlink()
    assert exit_code(monkeypatch, "verify", str(folder)) == 1
    printed = capsys.readouterr().out
    assert "NOT FINISHED" in printed
    assert "BROKEN" not in printed
    assert "everything holds" not in printed
    assert all(place in printed for place in last)
    assert "somebody removed these files" in printed
    assert exit_code(monkeypatch, "verify", str(folder), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["finished"], sorted(result["missing"])) == (False, False, sorted(last))
    assert result["problem"]["place"] == result["missing"][0]


def test_a_whole_run_is_finished_and_a_broken_one_is_not_said_to_be_either(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "verify", str(folder), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["finished"], result["missing"]) == (True, True, [])
    (folder / WEIGHTS).write_bytes(b"")
    assert exit_code(monkeypatch, "verify", str(folder), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["finished"], result["missing"]) == (False, None, [])


def test_what_is_being_written_of_a_round_is_no_fault_of_a_run_that_goes_on(folder: Path) -> None:
    cut_off(folder, BETWEEN_MACHINES, BETWEEN_MACHINES.index(SIGNATURES))
    for place in ("receipts/.0005.cbor.4711", "sums/.0005.bin.4711"):
        (folder / place).write_bytes(b"half")
    shutil.copy(folder / sum_file(1), folder / sum_file(5))
    assert verify_folder(folder).missing
    shutil.copy(folder / sum_file(1), folder / sum_file(3))
    assert problem_in(folder)[0] == sum_file(3)


@pytest.mark.parametrize("place", ["receipts/.0005.cbor.4711", "sums/.0005.bin.4711", sum_file(5)])
def test_a_finished_run_has_no_half_written_round(folder: Path, place: str) -> None:
    shutil.copy(folder / sum_file(1), folder / place)
    assert problem_in(folder)[0] == place


def test_a_sum_of_an_earlier_round_without_its_receipt_is_no_newest_one(
    folder: Path, made: tuple[Path, Federation]
) -> None:
    cut_off(folder, BETWEEN_MACHINES, BETWEEN_MACHINES.index(SIGNATURES))
    shutil.copy(folder / sum_file(1), folder / sum_file(3))  # round 3 was void
    assert problem_in(folder) == (sum_file(3), "no receipt covers it")
