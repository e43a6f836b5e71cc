"""The recorded vectors: both implementations reproduce every session and refuse every defect by its class."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from audits.vectors import (
    FOLDER,
    Session,
    check_defect,
    check_session,
    dealers,
    defects,
    ledgers,
    load_defects,
    load_sessions,
    receipts,
    rounds,
    write,
)
from audits.vectors.__main__ import main
from audits.vectors.transcripts import STAGES
from protocols import errors


@functools.cache
def sessions() -> dict[str, Session]:
    return load_sessions()


DEFECTS = {defect.name: defect for defect in load_defects()}


@pytest.mark.parametrize("name", sorted(sessions()))
def test_both_implementations_send_exactly_the_recorded_bytes(name: str) -> None:
    assert check_session(sessions()[name]) == []


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_refused_by_its_class_and_names_the_party_at_fault(name: str) -> None:
    assert check_defect(DEFECTS[name], sessions()[DEFECTS[name].session]) == []


def test_the_vectors_cover_three_sizes_every_stage_and_rings_on_both_sides_of_32_bits() -> None:
    rounds = [scenario.round for scenario, _ in sessions().values()]
    assert {len(of.roster) for of in rounds} == {3, 5, 8}
    assert {stage for scenario, _ in sessions().values() for stage in scenario.absent.values()} == set(STAGES)
    assert {of.ring_bits for of in rounds} >= {8, 32, 60}


def test_the_defects_cover_every_stage_on_both_sides_and_every_class_of_fault() -> None:
    places = {(defect.stage, isinstance(defect.receiver, int)) for defect in DEFECTS.values()}
    assert places == {(stage, side) for stage in STAGES for side in (True, False)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    faults = {kind.__name__ for kind in kinds if issubclass(kind, errors.RemoteError)}
    assert {defect.error for defect in DEFECTS.values()} == faults - {"RemoteError"}


def test_every_defect_but_a_second_message_or_another_memory_differs_from_the_honest_message() -> None:
    same = [d.name for d in DEFECTS.values() if not d.remove and not d.insert]
    assert same == [d.name for d in DEFECTS.values() if d.seen_ledgers]


def test_a_message_without_a_defect_is_reported_as_not_refused() -> None:
    honest = dataclasses.replace(DEFECTS["one element more by one"], remove=0, insert="")
    assert check_defect(honest, sessions()[honest.session]) == [
        "the real nodes: not refused",
        "the reference: not refused",
    ]


def test_a_defect_under_another_class_is_reported() -> None:
    defect = dataclasses.replace(DEFECTS["one element more by one"], error="BadSignature")
    assert len(check_defect(defect, sessions()[defect.session])) == 1


@pytest.mark.parametrize("side", ["to_nodes", "from_nodes"])
@pytest.mark.parametrize("stage", STAGES)
def test_one_changed_byte_in_a_recorded_message_is_reported(stage: str, side: str) -> None:
    scenario, transcript = sessions()["three-nodes-nobody-leaves"]
    messages = {**getattr(transcript, side)[stage]}
    messages[2] = messages[2][:-1] + bytes([messages[2][-1] ^ 1])
    changed = dataclasses.replace(transcript, **{side: {**getattr(transcript, side), stage: messages}})
    assert check_session((scenario, changed)) != []


def test_fresh_vectors_survive_writing_and_reading(tmp_path: Path) -> None:
    fresh = defects.make(sessions())
    write(sessions(), fresh, tmp_path)
    assert load_sessions(tmp_path) == sessions()
    again = load_defects(tmp_path)
    assert again == fresh
    assert [defect.name for defect in again] == list(DEFECTS)


def test_every_file_says_where_it_comes_from_and_all_are_small() -> None:
    files = list(FOLDER.glob("*.json"))
    assert all("SPEC.md, version 2" in json.loads(path.read_text())["provenance"]["specification"] for path in files)
    assert sum(path.stat().st_size for path in files) < 1_800_000


def test_the_command_checks_everything_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["vectors", "--random", "2"])
    assert main() == 0
    counted = (
        f"{len(sessions())} sessions, {len(DEFECTS)} defects, {len(receipts.load().defects)} bad receipts, "
        f"{len(dealers.load())} dishonest dealers, {len(rounds.load().cases)} cases across rounds, "
        f"{len(rounds.load().answers)} bad answers, {len(ledgers.load().defects)} bad ledgers, "
        "2 random sessions: 0 findings"
    )
    assert capsys.readouterr().out.splitlines()[-1] == counted


@pytest.mark.sweep
def test_the_command_ends_1_and_prints_the_finding_when_an_implementation_departs_from_a_vector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["vectors"])
    monkeypatch.setattr("protocols.receipts.count_signers", lambda statement, signatures, roster: 5)
    assert main() == 1
    assert "too few signatures: the real verifier: not refused" in capsys.readouterr().err
