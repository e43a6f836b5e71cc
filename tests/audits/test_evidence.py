"""Every flipped byte of a run's evidence is found in its file; a verifier that lost a check is found out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from audits import cli
from audits.evidence.flips import Flips, all_found, as_table, by_file, evidence_files, flip_everything, planned
from audits.evidence.resumed import ResumedVerifier, remembered
from dp.ledger_copy import read_copy
from secfed.errors import UserError
from secfed.verify.folder import verify_folder
from tests.secfed.federation import cut
from tests.secfed.run_folders import write_run

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds: one of them without hospital-2, and one void after the uploads."""
    base = tmp_path_factory.mktemp("run")
    write_run(base / "out", base / "work", (cut(2, 2, "masked input"), cut(0, 3, "agree"), cut(1, 3, "agree")))
    return base / "out"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def bit(at: int) -> int:
    return 1 << at % 8


@pytest.mark.sweep
def test_every_single_flipped_byte_of_a_run_is_found_in_its_file(run: Path) -> None:
    before = contents(run)
    results = list(by_file(flip_everything(run)))
    assert [result.place for result in results] == evidence_files(run)
    for result in results:
        assert (result.missed, result.misplaced) == ((), ())
        assert result.found == result.flipped == result.size == len(before[result.place][0])
    claims = {"adapter/adapter_config.json", "summary.json", "report.json", "report.html"}
    assert {result.place for result in results} == set(before) - claims
    assert sum(result.flipped for result in results) == planned(run)
    assert contents(run) == before, "the run's own folder was touched"


def test_the_resumed_verifier_finds_what_the_whole_one_finds(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    verifier = ResumedVerifier(folder)
    for place in evidence_files(folder):
        data = (folder / place).read_bytes()
        for at in range(0, len(data), max(1, len(data) // 10)):
            damaged = bytearray(data)
            damaged[at] ^= bit(at)
            (folder / place).write_bytes(damaged)
            problem = verify_folder(folder).problem
            assert problem is not None
            with remembered():
                assert verifier.fault(place) == problem.place
        (folder / place).write_bytes(data)
        assert verifier.fault(place) is None


def test_a_sample_takes_every_so_many_bytes_and_the_last(run: Path) -> None:
    results = list(by_file(flip_everything(run, every=100, processes=1)))
    assert all_found(results)
    assert sum(result.flipped for result in results) == planned(run, 100)
    for result in results:
        assert result.flipped == len({*range(0, result.size, 100), result.size - 1})


# Verifiers with a check taken out.


def ledger_signatures_unchecked() -> AbstractContextManager[object]:
    return patch("secfed.verify.ledgers.read_copy", lambda data, study, check: read_copy(data, study, lambda *_: True))


def only_a_quorum_of_signatures_checked() -> AbstractContextManager[object]:
    return patch("secfed.verify.rounds.valid_signers", lambda statement, signatures, roster: frozenset(signatures))


def sums_not_held_against_receipts() -> AbstractContextManager[object]:
    from secfed.verify.evidence import read_file

    return patch(
        "secfed.verify.rounds._read_sum",
        lambda folder, chain, number, digest: read_file(folder, f"sums/{number:04d}.bin"),
    )


def verifier_that_fails_on_a_ledger() -> AbstractContextManager[object]:
    def check(data: bytes, study: bytes, signed: object) -> object:
        copy = read_copy(data, study, lambda *_: True)
        return copy if all(signed(line.digest, line.signature) for line in copy.lines) else {}["nothing"]  # type: ignore[operator]

    return patch("secfed.verify.ledgers.read_copy", check)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("weakening", "place", "what"),
    [
        (ledger_signatures_unchecked, "ledgers/hospital-0.jsonl", "missed"),
        (only_a_quorum_of_signatures_checked, "receipts/0001.cbor", "missed"),
        (sums_not_held_against_receipts, "sums/0001.bin", "receipts/0001.cbor"),
        (verifier_that_fails_on_a_ledger, "ledgers/hospital-0.jsonl", "no file (KeyError)"),
    ],
)
def test_a_verifier_without_a_check_is_found_out(
    run: Path, weakening: Callable[[], AbstractContextManager[object]], place: str, what: str
) -> None:
    with weakening():
        results = {result.place: result for result in by_file(flip_everything(run, every=7, processes=1))}
    assert not all_found(list(results.values()))
    found = results[place]
    if what == "missed":
        assert found.missed
    else:
        assert {named for _, named in found.misplaced} == {what}
    kind = place.split("/")[0]
    assert all(all_found([result]) for result in results.values() if not result.place.startswith(kind))


@pytest.mark.sweep
def test_a_missed_flip_is_one_that_the_whole_verifier_accepts(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    with ledger_signatures_unchecked():
        results = {result.place: result for result in by_file(flip_everything(run, every=19, processes=1))}
        place = "ledgers/hospital-4.jsonl"
        data = bytearray((folder / place).read_bytes())
        at = results[place].missed[0]
        data[at] ^= bit(at)
        (folder / place).write_bytes(data)
        assert verify_folder(folder).problem is None
    assert verify_folder(folder).problem is not None


# The command.


def command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["evidence", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_says_how_many_bytes_were_flipped_of_how_many_and_ends_0(run: Path) -> None:
    code, output = command(run, "--sample", "50")
    assert code == 0
    header, *rows, closing = output.splitlines()
    assert header.split() == ["file", "bytes", "flipped", "found", "missed", "misplaced"]
    assert [row.split()[0] for row in rows] == evidence_files(run)
    sizes = sum((run / place).stat().st_size for place in evidence_files(run))
    assert closing.startswith(f"{planned(run, 50):,} of {sizes:,} bytes flipped")


@pytest.mark.sweep
def test_the_command_shows_where_flips_were_missed_and_ends_1(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with ledger_signatures_unchecked():
        code, output = command(run, "--sample", "19")
        code_for_machines, table = command(run, "--sample", "19", "--json")
    assert (code, code_for_machines) == (1, 1)
    files = {entry["file"]: entry for entry in json.loads(table)["files"]}
    broken = files["ledgers/hospital-0.jsonl"]
    assert broken["missed"] + broken["misplaced"] == broken["flipped"] - broken["found"]
    assert broken["missed"] > 10
    assert f"missed at {', '.join(map(str, broken['missed_at']))}, ..." in output
    assert len(broken["missed_at"]) == 10
    assert "MISSED" in output.splitlines()[-1]


def test_flips_blamed_on_another_file_are_shown_with_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with sums_not_held_against_receipts():
        code, output = command(run, "--sample", "20")
    assert code == 1
    assert "blamed on another file: 0 on receipts/0001.cbor, 20 on receipts/0001.cbor, 39 on" in output


def test_the_json_table_adds_up() -> None:
    table = as_table([Flips("a", 30, 3, (0,), ()), Flips("b", 2, 2, (), ((1, "a"),))])
    assert (table["ok"], table["bytes"], table["flipped"], table["found"]) == (False, 32, 5, 3)
    assert table["files"][1]["misplaced_at"] == [{"byte": 1, "named": "a"}]
    assert as_table([Flips("a", 30, 3, (), ())])["ok"] is True


def test_a_folder_that_is_broken_already_is_the_users_to_mend(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match=f"does not hold as it is .*{WEIGHTS}"):
        list(flip_everything(folder))
    with pytest.raises(UserError, match="is not the folder of a run"):
        list(flip_everything(tmp_path))
