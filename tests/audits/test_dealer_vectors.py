"""Dishonest dealers: both aggregators name them, or get the sum in spite of them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from audits.vectors import Session, dealers, load_sessions
from audits.vectors.dealers import SUM, VOID, check_dealer
from protocols.unmasking import Search, Unmasking


@functools.cache
def sessions() -> dict[str, Session]:
    return load_sessions()


CASES = {case.name: case for case in dealers.load()}


@pytest.mark.parametrize("name", CASES)
def test_the_round_ends_as_it_must_on_both_implementations(name: str) -> None:
    case = CASES[name]
    assert check_dealer(case, sessions()[case.session]) == []


def test_the_names_are_different_and_every_lie_is_there_with_both_ends() -> None:
    assert len(CASES) == len(dealers.load())
    assert {case.ends for case in CASES.values()} == {VOID, SUM}
    for words in ("self-mask share", "mask-key share", "mask key of another", "pair seed"):
        assert any(words in name and case.ends == VOID for name, case in CASES.items()), words


def test_fresh_cases_survive_writing_and_reading_and_end_the_same(tmp_path: Path) -> None:
    fresh = dealers.make(sessions())
    dealers.write(fresh, tmp_path)
    assert dealers.load(tmp_path) == fresh
    assert [(case.name, case.ends) for case in fresh] == [(case.name, case.ends) for case in CASES.values()]
    assert all(check_dealer(case, sessions()[case.session]) == [] for case in fresh[:2])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.ends == VOID])
def test_a_dealer_that_is_honest_after_all_is_reported(name: str) -> None:
    honest = dataclasses.replace(CASES[name], messages={})
    total = sessions()[honest.session][1].total
    assert check_dealer(honest, sessions()[honest.session]) == [
        f"the real aggregator: sum {total}",
        f"the reference: sum {total}",
    ]


def test_the_wrong_name_is_reported() -> None:
    case = CASES["mask-key shares of another secret"]
    wrong = dataclasses.replace(case, dealer=2, messages={})
    assert len(check_dealer(wrong, sessions()[case.session])) == 2


def test_without_other_subsets_one_share_would_void_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bent share must be among the first t tried, or nothing was got around."""
    case = CASES["one self-mask share on no polynomial"]
    monkeypatch.setattr(Search, "subsets", lambda _, nodes, size: iter([tuple(nodes[-size:])]))
    (finding,) = check_dealer(case, sessions()[case.session])
    assert finding == "the real aggregator: void 0"


def test_without_the_commitment_to_the_self_mask_the_lie_would_go_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["self-mask shares of another secret"]
    monkeypatch.setattr(Unmasking, "_is_self_mask_seed", lambda *_: True)
    (finding,) = check_dealer(case, sessions()[case.session])
    assert finding.startswith("the real aggregator: sum")


def test_a_lie_leaves_the_other_envelopes_as_they_were_recorded() -> None:
    case = CASES["two self-mask shares on no polynomial"]
    honest = sessions()[case.session][1].from_nodes["share"][case.dealer]
    change = case.messages["share"]
    assert len(case.messages) == 1
    assert len(honest) > 15_000 < change.at
    assert change.remove < 3_000
