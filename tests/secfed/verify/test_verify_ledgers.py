"""The offline verifier on ledgers that a node wrote to its own liking: chain and signatures are right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crypto.identity import Identity
from dp.bookkeeping import first_fault
from dp.budgets import Grant
from dp.entries import Totals, content_digest, entry_text
from dp.ledger import Ledger
from dp.ledger_copy import copy_for, read_copy, write_copy
from protocols.receipts import Receipt
from protocols.wire import decode
from secfed.reports.folder import SUMMARY, ledger_file, receipt_file
from secfed.rounds.run_facts import EMBEDDED, RunFacts
from secfed.study.manifest import load_study
from secfed.study.signing import entry_check, entry_signer
from tests.secfed.federation import identities, make_policy
from tests.secfed.verify.verified import LIMITS, problem_in

# A node that writes a ledger of its own liking: chain and signatures are right.
BUDGET = make_policy().budget


FACTS = RunFacts(EMBEDDED, "1" * 64, "2" * 64, "3" * 64, 0).body()
NOTHING = Totals(0, *(Decimal(0),) * 4)
CLOSE = {"kind": "close", "round": 4, "state": "00" * 32, "population": BUDGET.population, "lines": 1}


def rounds(ledger: Any, study: bytes, committed: tuple[int, ...], released: dict[int, bytes]) -> None:
    ledger.run(study, FACTS)
    for number in committed:
        ledger.commit(study, number)
    for number, receipt in released.items():
        ledger.release(study, number, receipt)


def forged(ledger: Any, body: dict[str, Any]) -> None:
    """An entry that no ledger would have taken."""
    ledger._append(ledger.entries(), body)


def rewritten(folder: Path, tmp_path: Path, story: Callable[[Any, bytes], None], node: int = 1) -> tuple[str, str]:
    """What is found when this hospital's ledger tells this story, and is closed where the run ends."""
    key: Identity = identities(5)[node]
    study = load_study(folder / "study.toml").digest
    path = tmp_path / "forged.sqlite"
    path.unlink(missing_ok=True)
    with Ledger(path, entry_signer(key)) as ledger:
        story(ledger, study)
        if not ledger.is_closed(study):
            ledger.close_study(study, 4, bytes.fromhex(json.loads((folder / SUMMARY).read_text())["state_digest"]))
        copy = copy_for(ledger.entries(), study)
        assert copy is not None
        (folder / ledger_file(f"hospital-{node}")).write_bytes(write_copy(copy))
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
    assert reason == f"it reserved epsilon {reserved}, but the study spends 5.64 and promises 8"


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
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        forged(ledger, {**CLOSE, "study": study.hex(), **NOTHING.body()})

    place, reason = rewritten(folder, tmp_path, story)
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
    assert "line 7 commits round 5" in reason


def test_a_release_with_another_receipt_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), {1: bytes(32)})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "line 9 releases round 1 with another receipt")


def test_a_release_of_a_round_whose_sum_its_update_is_not_in_is_found(folder: Path, tmp_path: Path) -> None:
    """hospital-2 committed round 2 and dropped out before the sum: it has nothing to release."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    place, reason = rewritten(folder, tmp_path, story, node=2)
    assert (place, reason) == (ledger_file("hospital-2"), "it released round 2, but its update is not in that sum")


OTHER_STUDY = bytes([7]) * 32


def test_a_withdrawal_after_a_commit_is_found_though_its_node_signed_it(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1,), {})
        forged(ledger, {"kind": "withdraw", "study": study.hex()})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "line 6 withdraws a study that has committed a round")


def test_a_withdrawn_reservation_pays_for_nothing(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        ledger.withdraw(study)
        forged(ledger, {"kind": "commit", "study": study.hex(), "round": 1})

    place, found = rewritten(folder, tmp_path, story)
    assert (place, found) == (ledger_file("hospital-1"), "line 5 is a commit of a study that holds no reservation")


def test_a_node_that_does_not_say_how_it_ran_before_it_commits_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        ledger.commit(study, 1)
        ledger.run(study, FACTS)

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (
        ledger_file("hospital-1"),
        "it does not say, before its first commit, how its node ran the study",
    )


def test_a_study_that_is_closed_for_another_population_than_paid_for_it_is_found(folder: Path, tmp_path: Path) -> None:
    """A copy shows the grant of the population that it is closed for, and no other."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.grant(replace(BUDGET.grant, population="adults", disjoint="The registry"))
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1,), {})
        forged(ledger, {**CLOSE, "study": study.hex(), **TOTALS, "lines": 4, "population": "adults"})

    place, reason = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert "makes a reservation that is not allowed: no privacy budget is granted to test yet" in reason


@pytest.mark.parametrize("number", [0, 2, 3])  # round 3 gave no sum
def test_a_study_that_is_closed_with_the_model_of_another_round_is_found(
    folder: Path, tmp_path: Path, number: int
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))
        ledger.close_study(study, number, bytes.fromhex(json.loads((folder / SUMMARY).read_text())["state_digest"]))

    place, reason = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert reason == "it closes the study with a model that no receipt of that round gives"


def test_an_engine_that_there_is_none_of_is_found(folder: Path, tmp_path: Path) -> None:
    """Neither is the beginning of one, which the summary's would begin with, too."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        ledger.run(study, {**FACTS, "engine": EMBEDDED[:1]})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "it names an unknown engine")


def paid(ledger: Any, study: bytes, receipts: dict[int, bytes]) -> None:
    """A study that withdrew, one that is reserved, and then this one; two populations, of which this pays from one."""
    ledger.grant(Grant("adults", 1000, 20, 1e-5))
    ledger.grant(Grant(BUDGET.population, 10_000, 10, 1e-5, "The registry: nobody is in both"))
    ledger.reserve("adults", OTHER_STUDY, 20, 1e-5, 4)
    ledger.withdraw(OTHER_STUDY)
    ledger.reserve(BUDGET.population, bytes([8]) * 32, 1.5, "1e-6", 4)
    ledger.commit(bytes([8]) * 32, 1)
    ledger.reserve(BUDGET.population, bytes([9]) * 32, ".25", "1e-6", 4)
    ledger.reserve(BUDGET.population, study, 8, "1e-6", 4)
    rounds(ledger, study, (1, 2, 3, 4), receipts)


def test_a_population_is_told_in_totals_and_no_other_study_or_population_is_shown(tmp_path: Path, folder: Path) -> None:
    key, study = identities(5)[1], load_study(folder / "study.toml").digest
    with Ledger(tmp_path / "ledger.sqlite", entry_signer(key)) as ledger:
        paid(ledger, study, receipts_of(folder))
        ledger.close_study(study, 4, bytes(32))
        ledger.reserve(BUDGET.population, bytes([10]) * 32, ".25", "1e-6", 4)  # afterwards: no part of it
        copy = copy_for(ledger.entries(), study)
    assert copy is not None
    data = write_copy(copy)
    for hidden in (OTHER_STUDY.hex(), (bytes([8]) * 32).hex(), "adults", "1.5", "withdraw"):
        assert hidden not in data.decode()
    read = read_copy(data, study, entry_check(key.public))
    assert read == copy
    assert (len(read.lines), len(read.entries)) == (17, 11)
    assert read.totals.body() == {
        "studies": 3,
        "reserved_epsilon": "9.75",
        "reserved_delta": "0.000003",
        "spent_epsilon": "9.5",
        "spent_delta": "0.000002",
    }
    assert (read.balance.granted_epsilon, read.balance.left_epsilon) == (10, Decimal("0.25"))
    assert first_fault(read.entries, whole=False) is None


TOTALS = {
    "studies": 1,
    "reserved_epsilon": "8",
    "reserved_delta": "0.00001",
    "spent_epsilon": "8",
    "spent_delta": "0.00001",
}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"spent_epsilon": "0"}, "counts other studies, or more or less of them, than the ledger holds"),
        ({"studies": 2}, "counts other studies, or more or less of them, than the ledger holds"),
        ({"lines": 2}, "counts 2 entries of this study, and 4 are shown"),
    ],
)
def test_totals_that_are_not_those_of_the_ledger_are_found(
    folder: Path, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1,), {})
        forged(ledger, {**CLOSE, "study": study.hex(), **TOTALS, "lines": 4, **changed})

    assert rewritten(folder, tmp_path, story) == (ledger_file("hospital-1"), f"line 6 {reason}")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"spent_epsilon": "7.9"}, "counts less than the study's own entries add up to"),
        ({"studies": 0}, "counts less than the study's own entries add up to"),
        ({"spent_epsilon": "9.1"}, "more spent than was reserved"),
        ({"reserved_epsilon": "10.1"}, "counts more than was granted to test"),
        ({"reserved_delta": "0.00001000001"}, "counts more than was granted to test"),
    ],
)
def test_totals_that_cannot_be_right_are_found_where_other_studies_are_hidden(
    folder: Path, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        paid(ledger, study, {})
        told = {**TOTALS, "reserved_epsilon": "9", "spent_epsilon": "8.5", **changed}
        forged(ledger, {**CLOSE, "study": study.hex(), **told, "lines": 7})

    place, found = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert reason in found


def test_a_ledger_that_was_cut_shows_it(folder: Path) -> None:
    path = folder / ledger_file("hospital-1")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert reason.startswith("its last line does not close the study")


def test_a_line_that_was_hidden_on_the_way_is_missed(folder: Path) -> None:
    """Its digest keeps the chain whole. The node has signed how many lines are shown."""
    path = folder / ledger_file("hospital-1")
    lines = path.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if '"kind":"run"' in line)
    line = json.loads(lines[at])
    content = content_digest(entry_text(line["body"])).hex()
    lines[at] = entry_text({"content": content, "signature": line["signature"]})
    path.write_text("\n".join(lines) + "\n")
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert "entries of this study, and" in reason


def test_a_ledger_of_the_earlier_format_is_named_as_one(folder: Path) -> None:
    path = folder / ledger_file("hospital-1")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert reason.startswith("this is a ledger of format 1")


def test_a_ledger_signed_by_another_node_is_found(folder: Path) -> None:
    shutil.copyfile(folder / ledger_file("hospital-3"), folder / ledger_file("hospital-1"))
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert reason.startswith("line 2 is not what this node signed")
