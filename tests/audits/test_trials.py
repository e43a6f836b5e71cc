"""The search for what stops an attack finds planted checks, keeps no idle line, and notices a line that is not gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.adversaries.dropped_signatures import DroppedSignatures
from audits.adversaries.one_signature import OneSignature
from audits.adversaries.restored_database import RestoredLedger
from audits.adversaries.split_survivors import SplitSurvivors
from audits.adversaries.trials import NOBODY, Search, _none_idle, examine
from audits.simulator import removal
from audits.simulator.federation import Federation
from audits.simulator.world import Outcome, Refusal
from protocols import client
from protocols.client import Client
from protocols.errors import CohortTooSmall, WrongSession
from protocols.messages import Agreement
from protocols.steps import State, received
from tests.audits.test_removal import plant

COUNTS_TWICE = """
from protocols.errors import CohortTooSmall

def count_signers(node, message):
    if len(message.signatures) < node._quorum:
        raise CohortTooSmall("planted", sender=None)
"""


@contextmanager
def redundant_check(planted: ModuleType) -> Iterator[None]:
    """A node counts the signatures of an agreement twice: a planted check comes before its own."""

    def unmask(node: Client, message: Agreement) -> Any:
        planted.count_signers(node, message)
        return Client._unmask(node, message)

    with patch.dict(client.STEPS, {State.AGREED: received(Agreement, unmask, State.UNMASKED)}):
        yield


@pytest.mark.parametrize("attack", [OneSignature(), DroppedSignatures()], ids=lambda attack: attack.name)
def test_a_planted_redundant_check_is_not_sufficient_alone(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = examine(attack)
    assert honest.sufficient_alone
    with redundant_check(plant(tmp_path, monkeypatch, COUNTS_TWICE)):
        verdict = examine(attack)
    assert verdict.first_refusal == "protocols/planted.py:6"
    assert verdict.reason == "CohortTooSmall: the aggregator: planted"
    assert verdict.sufficient_alone is False
    assert verdict.by_lines.lines == ("protocols/planted.py:6", honest.first_refusal)
    assert verdict.as_it_should_be


def one_line_off(remover: Any, gone: frozenset[int]) -> None:
    remover._gone = frozenset(line + 1 for line in gone)


@pytest.mark.parametrize(
    "mutant",
    [{"visit_Raise": lambda self, node: node, "visit_If": lambda self, node: node}, {"__init__": one_line_off}],
    ids=["nothing", "another line"],
)
def test_a_remover_that_leaves_the_line_in_is_noticed(mutant: dict[str, Any]) -> None:
    removal._compiled.cache_clear()
    try:
        with patch.multiple(removal._Remover, **mutant), pytest.raises(RuntimeError, match="refuses all the same"):
            examine(OneSignature())
    finally:
        removal._compiled.cache_clear()


def test_a_number_that_counts_in_two_places_is_tried_in_each() -> None:
    verdict = examine(SplitSurvivors())
    assert verdict.sufficient_alone is False
    assert verdict.by_lines == Search(None, (str(verdict.first_refusal),), NOBODY)
    assert verdict.rules == ("fewer than t shares give nothing of a secret",)
    assert verdict.beside_rules is not None
    assert verdict.beside_rules.lines == (verdict.first_refusal,)


class Toy(Attack):
    """Reaches its goal without these lines, or without its two rules."""

    name = "toy"
    goal = "to win"

    def __init__(self, needed: set[str], *, rules: int = 0, enough_rules: int = 2) -> None:
        self.needed = needed
        self.rules = rules
        self.enough_rules = enough_rules
        self.gone: set[str] = set()
        self.active: set[int] = set()

    def run(self) -> Outcome:
        place = next((line for line in ("x.py:1", "x.py:2", "x.py:3") if line not in self.gone), None)
        error = WrongSession("so", sender=None)
        achieved = self.needed <= self.gone or 0 < self.enough_rules <= len(self.active)
        return Outcome(achieved, () if place is None else (Refusal(0, error, place),))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return tuple(weakened.Weakening(f"rule {rule}", self._without(rule)) for rule in range(self.rules))

    @contextmanager
    def _without(self, rule: int) -> Iterator[None]:
        self.active.add(rule)
        try:
            yield
        finally:
            self.active.remove(rule)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of toys are taken out of toys."""
    current: list[Toy] = []

    @contextmanager
    def taken_out(places: Any) -> Iterator[None]:
        for toy in current:
            toy.gone = set(places)
        yield

    def made(toy: Toy, *arguments: Any, **options: Any) -> None:
        initialise(toy, *arguments, **options)
        current.append(toy)

    initialise = Toy.__init__
    monkeypatch.setattr(Toy, "__init__", made)
    monkeypatch.setattr("audits.adversaries.trials.without", taken_out)
    monkeypatch.setattr("audits.adversaries.trials.is_refusal", lambda place: True)


@pytest.mark.usefixtures("toys")
def test_lines_that_were_met_and_are_not_needed_are_put_back() -> None:
    verdict = examine(Toy({"x.py:2"}))
    assert verdict.by_lines == Search(("x.py:2",), ("x.py:1", "x.py:2"), "")
    assert verdict.first_refusal == "x.py:1"
    assert verdict.sufficient_alone is False
    assert verdict.as_it_should_be


@pytest.mark.usefixtures("toys")
def test_a_line_that_becomes_idle_when_a_later_one_is_put_back_is_put_back_too() -> None:
    toy = Toy(set())
    enough = [{"a", "b", "c"}, {"a", "b"}, {"b"}]  # "a" is needed beside "c", and idle without it
    toy.run = lambda: Outcome(toy.gone in enough, ())  # type: ignore[method-assign]
    assert _none_idle(toy, ["a", "b", "c"], ()) == ("b",)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(("enough", "idle"), [(2, ()), (1, ("rule 0", "rule 1"))])
def test_every_rule_is_put_back_once_and_must_make_a_difference(enough: int, idle: tuple[str, ...]) -> None:
    verdict = examine(Toy({"never"}, rules=2, enough_rules=enough))
    assert verdict.by_lines == Search(None, ("x.py:1", "x.py:2", "x.py:3"), NOBODY)
    assert verdict.beside_rules == Search((), (), "")
    assert verdict.idle_rules == idle
    assert verdict.as_it_should_be == (not idle)


@pytest.mark.usefixtures("toys")
def test_an_attack_that_never_succeeds_and_one_that_always_does_are_not_as_they_should_be() -> None:
    never, always = examine(Toy({"never"})), examine(Toy(set()))
    assert never.stopped
    assert not never.succeeds_without
    assert not always.stopped
    assert not any(verdict.as_it_should_be for verdict in (never, always))


def test_a_node_that_complains_of_a_peer_has_refused_and_a_corrupt_one_has_not(tmp_path: Path) -> None:
    verdict = examine(RestoredLedger())
    assert "node 6: its ledger is shorter" in verdict.reason
    federation = Federation(tmp_path)
    federation.send(6, b"")
    assert federation.log.refusals == []
    federation.send(5, b"")
    assert [refusal.node for refusal in federation.log.refusals] == [5]


def test_real_nodes_are_real_again_after_a_search() -> None:
    examine(OneSignature())
    outcome = OneSignature().run()
    assert not outcome.achieved
    assert isinstance(outcome.refusals[0].error, CohortTooSmall)
