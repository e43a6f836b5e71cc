"""The receipts that a verifier must not believe: refused by both verifiers, by class, and nothing moves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from audits.reference import receipts as reference_receipts
from audits.reference.notation import Refused
from audits.vectors import FOLDER, RECEIPTS, load_sessions, receipts
from audits.vectors.receipts import Receipts, check_honest, check_receipt, check_recorded
from audits.vectors.splices import Splice
from protocols import errors, parameters
from secfed.rounds.chain import Chain


@functools.cache
def recorded() -> Receipts:
    return receipts.load()


DEFECTS = {defect.name: defect for defect in recorded().defects}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_bad_receipt_is_refused_by_its_class_and_nothing_moves(name: str) -> None:
    assert check_receipt(DEFECTS[name], recorded()) == []


def test_both_verifiers_take_the_honest_receipts() -> None:
    assert check_honest(recorded()) == []


@pytest.mark.parametrize("name", sorted(load_sessions()))
def test_both_verifiers_take_the_receipts_of_the_recorded_sessions(name: str) -> None:
    assert check_recorded(load_sessions()[name]) == []


def test_the_names_are_different_and_every_class_that_a_verifier_raises_is_there() -> None:
    assert len(DEFECTS) == len(recorded().defects)
    assert {defect.error for defect in DEFECTS.values()} == {
        kind.__name__
        for kind in (
            errors.WrongSession,
            errors.WrongLength,
            errors.WrongType,
            errors.CohortTooSmall,
            errors.BadSignature,
            errors.MalformedMessage,
            errors.NotCanonical,
            errors.UnknownField,
            errors.MissingField,
            errors.OversizedMessage,
        )
    }


def test_every_defect_changes_the_receipt_or_the_sum() -> None:
    nothing = Splice(0, 0, "")
    assert all((d.receipt.remove, d.receipt.insert, d.sum) != (0, "", nothing) for d in DEFECTS.values())


def test_the_file_can_be_made_again_to_the_byte(tmp_path: Path) -> None:
    receipts.write(receipts.make(), tmp_path)
    assert (tmp_path / RECEIPTS).read_bytes() == (FOLDER / RECEIPTS).read_bytes()


def test_an_honest_receipt_among_the_defects_is_reported() -> None:
    honest = dataclasses.replace(DEFECTS["too few signatures"], receipt=Splice(0, 0, ""))
    assert check_receipt(honest, recorded()) == ["the real verifier: not refused", "the reference: not refused"]


def test_a_defect_under_another_class_is_reported() -> None:
    assert len(check_receipt(dataclasses.replace(DEFECTS["no sum"], error="BadSignature"), recorded())) == 1


def test_a_verifier_that_moves_and_then_refuses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def adopt(chain: Chain, receipt: object, packed: bytes) -> None:
        chain.length += 1
        if chain.length > 1:
            raise errors.WrongSession("too late", sender=None)

    monkeypatch.setattr(Chain, "adopt", adopt)
    assert "the real verifier: moved, though it refused" in check_receipt(DEFECTS["no sum"], recorded())


WITHOUT: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "the schema": (
        lambda patch: patch.setattr(reference_receipts, "_check_schema", lambda *_: None),
        "a cohort with a node that the roster does not have",
    ),
    "the signatures": (
        lambda patch: patch.setattr(reference_receipts, "_count", lambda *_: None),
        "one wrong signature in the quorum",
    ),
}


@pytest.mark.parametrize("check", WITHOUT)
def test_a_reference_without_a_check_is_found_out(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out, name = WITHOUT[check]
    take_out(monkeypatch)
    assert check_receipt(DEFECTS[name], recorded()) == ["the reference: not refused"]


def test_a_real_verifier_without_the_rule_for_the_quorum_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters.CohortRules, "check_stage", lambda *_: None)
    assert check_receipt(DEFECTS["survivors below the quorum"], recorded()) != []


def test_the_reference_refuses_a_receipt_of_no_map() -> None:
    with pytest.raises(Refused):
        reference_receipts.verify_receipt(recorded().next, 6, b"\x81\x01", b"", b"")
