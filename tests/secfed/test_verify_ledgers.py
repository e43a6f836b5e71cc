"""The offline verifier on ledgers that a node wrote to its own liking: chain and signatures are right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crypto.identity import Identity
from dp.budgets import Grant
from dp.ledger_copy import write_copy
from protocols.receipts import Receipt
from protocols.wire import decode
from secfed.run_folder import ledger_file, receipt_file
from secfed.sites import LEDGER_LABEL
from secfed.study import load_study
from secfed.verify.ledgers import check_ledger
from secfed.verify.rounds import check_rounds
from tests.secfed.federation import identities, make_policy
from tests.secfed.verified import LIMITS, problem_in

# A node that writes a ledger of its own liking: chain and signatures are right.
BUDGET = make_policy().budget


def rounds(ledger: Any, study: bytes, committed: tuple[int, ...], released: dict[int, bytes]) -> None:
    for number in committed:
        ledger.commit(study, number)
    for number, receipt in released.items():
        ledger.release(study, number, receipt)


def forged(ledger: Any, body: dict[str, Any]) -> None:
    """An entry that no ledger would have taken."""
    ledger._append(ledger.entries(), body)


def rewritten(folder: Path, tmp_path: Path, story: Callable[[Any, bytes], None], node: int = 1) -> tuple[str, str]:
    """What is found when this hospital's ledger tells this story."""
    from dp.ledger import Ledger

    key: Identity = identities(5)[node]
    study = load_study(folder / "study.toml").digest
    with Ledger(tmp_path / "forged.sqlite", lambda entry: key.sign(LEDGER_LABEL, entry)) as ledger:
        story(ledger, study)
        (folder / ledger_file(f"hospital-{node}")).write_bytes(write_copy(ledger.entries()))
    return problem_in(folder)


def receipts_of(folder: Path) -> dict[int, bytes]:
    return {
        number: decode(Receipt, (folder / receipt_file(number)).read_bytes(), LIMITS, None).digest()
        for number in (1, 2, 4)
    }


@pytest.mark.parametrize("reserved", ["5.63", "8.01"])
def test_a_ledger_that_reserved_less_than_the_study_spends_or_more_than_it_promises_is_found(
    folder: Path, tmp_path: Path, reserved: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(replace(BUDGET.grant, epsilon=9))
        ledger.reserve(BUDGET.population, study, reserved, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    place, reason = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert reason == f"it reserved epsilon {reserved}, where the study spends 5.64 and promises 8"


def test_a_ledger_that_reserved_another_delta_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 9e-6, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "what it reserved is not what the study asks for")


@pytest.mark.parametrize("reserved", ["5.64", "8"])
def test_what_can_be_spent_is_enough_to_reserve_and_what_is_promised_is_not_too_much(
    folder: Path, tmp_path: Path, reserved: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, reserved, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    # The ledger itself is right; what the summary tells of it is another's.
    assert rewritten(folder, tmp_path, story)[0] == "summary.json"


def test_a_ledger_without_a_reservation_is_found(folder: Path, tmp_path: Path) -> None:
    place, reason = rewritten(folder, tmp_path, lambda ledger, study: ledger.grant(BUDGET.grant))
    assert place == ledger_file("hospital-1")
    assert "reserved exactly once" in reason


def test_an_update_in_a_sum_that_was_never_committed_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2), {})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (
        ledger_file("hospital-1"),
        "its update is in the sum of round 4, which it never committed",
    )


def test_a_round_beyond_the_study_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 5, 4), {})

    place, reason = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert "line 5 commits round 5" in reason


def test_a_release_with_another_receipt_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), {1: bytes(32)})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "line 7 releases round 1 with another receipt")


def test_a_release_of_a_round_whose_sum_its_update_is_not_in_is_found(folder: Path, tmp_path: Path) -> None:
    """hospital-2 committed round 2 and dropped out before the sum: it has nothing to release."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    place, reason = rewritten(folder, tmp_path, story, node=2)
    assert (place, reason) == (ledger_file("hospital-2"), "it released round 2, whose sum its update is not in")


OTHER_STUDY = bytes([7]) * 32
STAMPED = {"epsilon": "1", "delta": "1e-7"}


def took(ledger: Any, study: bytes) -> None:
    """What a ledger takes; each forgery below follows as line 4."""
    ledger.grant(Grant("adults", 1000, 10, 1e-5))
    ledger.reserve("adults", study, 8, 5e-6, 4)
    ledger.commit(study, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"kind": "withdraw", "study": None}, "withdraws a study that has committed a round"),
        ({"kind": "withdraw", "study": OTHER_STUDY.hex()}, "is a withdraw of a study that holds no reservation"),
        (
            {"kind": "commit", "study": OTHER_STUDY.hex(), "round": 1},
            "is a commit of a study that holds no reservation",
        ),
        (
            {"kind": "grant", "population": "adults", "patients": 1000, "disjoint": "", **STAMPED},
            "grants a budget a second time",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 1000, "disjoint": "", **STAMPED},
            "grants what cannot be granted: this ledger's budget is for adults",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**7, "disjoint": "they say", **STAMPED},
            "grants what cannot be granted: a delta of 1E-7 is above 1/(10 N)",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**200, "disjoint": "they say", **STAMPED},
            "grants what cannot be granted: a population has 1 to",
        ),
        (
            {"kind": "reserve", "population": "more", "study": OTHER_STUDY.hex(), "rounds": 1, **STAMPED},
            "reserves what cannot be reserved: no privacy budget is granted to more",
        ),
        (
            {
                "kind": "reserve",
                "population": "adults",
                "study": OTHER_STUDY.hex(),
                "rounds": 1,
                **STAMPED,
                "epsilon": "2.5",
            },
            "reserves what cannot be reserved: this study asks for epsilon 2.5",
        ),
    ],
)
def test_an_entry_that_frees_or_moves_what_is_spent_is_found_though_its_node_signed_it(
    folder: Path, tmp_path: Path, body: dict[str, Any], reason: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        took(ledger, study)
        forged(ledger, {**body, "study": study.hex()} if body.get("study", "") is None else body)

    place, found = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert found.startswith(f"line 4 {reason}")


def test_a_withdrawn_reservation_pays_for_nothing(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        ledger.withdraw(study)
        forged(ledger, {"kind": "commit", "study": study.hex(), "round": 1})

    place, found = rewritten(folder, tmp_path, story)
    assert (place, found) == (ledger_file("hospital-1"), "line 4 is a commit of a study that holds no reservation")


def test_the_account_of_a_study_is_that_of_its_population(folder: Path, tmp_path: Path) -> None:
    """A second population that is attested is no fault, and what was withdrawn is not spent."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(Grant("adults", 1000, 20, 1e-5))
        ledger.grant(Grant(BUDGET.population, 10_000, 10, 1e-5, "The registry: nobody is in both"))
        ledger.reserve("adults", OTHER_STUDY, 20, 1e-5, 4)
        ledger.withdraw(OTHER_STUDY)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    assert rewritten(folder, tmp_path, story)[0] == "summary.json"  # which tells of the ledger that was there before
    study = load_study(folder / "study.toml")
    history = check_rounds(folder, study)
    account = check_ledger(folder, study, 1, history.receipts)
    assert (account.population, account.balance.left_epsilon, account.committed) == ("test", 2, {1, 2, 3, 4})


def test_a_ledger_that_was_cut_after_an_entry_is_missed_by_the_summary(folder: Path) -> None:
    path = folder / ledger_file("hospital-1")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    place, reason = problem_in(folder)
    assert place == "summary.json"
    assert reason.startswith("ledger_sequence")


def test_a_ledger_signed_by_another_node_is_found(folder: Path) -> None:
    shutil.copyfile(folder / ledger_file("hospital-3"), folder / ledger_file("hospital-1"))
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert reason.startswith("line 1 is not what this node signed")
