"""The exploration visits what there is, keeps to what an attacker can build, and notices when a check is gone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from audits import cli
from audits.exploration import runs
from audits.exploration.pool import Pool
from audits.exploration.promises import null_space
from audits.exploration.runs import REAL, REMOVALS, Exploration, explore
from audits.exploration.search import Facts, Move, search
from audits.exploration.sessions import SessionNode, copy_of
from audits.exploration.symbols import symbolic
from crypto.identity import Identity
from crypto.sealing import SealingError, SealingKey
from protocols import sharing
from protocols.client import Client
from protocols.errors import LocalError
from protocols.parameters import CohortRules
from protocols.steps import State

THREE = CohortRules(roster_size=3, colluders=0, tolerated_dropouts=1, minimum=2)
THREE_ONE_CORRUPT = CohortRules(roster_size=3, colluders=1, tolerated_dropouts=0, minimum=3)
FOUR_ONE_CORRUPT = CohortRules(roster_size=4, colluders=1, tolerated_dropouts=1, minimum=3)


@pytest.mark.parametrize(
    "exploration",
    [
        Exploration(THREE),
        Exploration(THREE_ONE_CORRUPT),
        Exploration(FOUR_ONE_CORRUPT),
        Exploration(THREE_ONE_CORRUPT, rounds=2),
    ],
    ids=lambda exploration: exploration.name,
)
def test_no_promise_of_real_nodes_is_broken_in_any_state(exploration: Exploration) -> None:
    explored = explore(exploration)
    assert explored.found.violation is None
    assert explored.as_it_should_be
    assert explored.found.states > explored.local_states
    assert explored.refused > explored.local_states, "the attacker has tried hardly anything"


BROKEN = {
    "the roster's majority in the quorum": "two quorums in one round",
    "one signer of the quorum": "alone is free of unknown masks",
    "signatures on the sets": "released shares for different sets",
    "the self mask": "free of unknown masks",
    "the view in the masks": "are free of unknown masks together, and made with different keys",
    "the checksum's constant": "signed a sum that is not its survivors'",
    "wiping of secrets": "still holds secrets",
    "signatures on pair seeds": "alone is free of unknown masks",
    "the lock": "not on one chain",
    "the floor of round numbers": "joined round 1 twice",
    "ending a session at adoption": "trained on another state",
    "counting an echo's signers": "no honest node has checked",
    "counting a receipt's signers": "not on one chain",
    "the sum behind a receipt": "another state than its receipts lead to",
}


@pytest.mark.sweep
@pytest.mark.parametrize("exploration", REMOVALS, ids=lambda exploration: exploration.without)
def test_a_check_that_is_taken_out_is_noticed_with_the_way_to_the_violation(exploration: Exploration) -> None:
    explored = explore(exploration)
    assert BROKEN[exploration.without] in (explored.found.violation or "")
    assert explored.found.trace
    assert explored.as_it_should_be


def test_the_rosters_are_up_to_five_and_from_four_on_a_split_would_succeed_with_the_cohorts_quorum() -> None:
    assert {exploration.rules.roster_size for exploration in REAL} == {3, 4, 5}
    for rules in {exploration.rules for exploration in REAL if exploration.rules.roster_size > 3}:
        honest = rules.roster_size - rules.colluders
        half = honest // 2 + rules.colluders  # the smaller half of a split, with every colluder in it
        alone = max(half - rules.tolerated_dropouts, (half + rules.colluders) // 2 + 1, rules.colluders + 1)
        if half >= rules.colluders + 2:
            assert alone <= half, f"{rules}: the cohort's own quorum would stop it"
        assert rules.quorum(rules.roster_size) > half


class Counter:
    """A node that counts to three; from one to two it needs a fact."""

    def __init__(self, facts: Facts, name: str, needs: str, says: str) -> None:
        self.name = name
        self._needs, self._says = facts.bits([(needs,)]), facts.bits([(says,)])

    def moves(self, state: int, facts: int) -> Iterable[Move]:
        if state != 1 or not self._needs & ~facts:
            return [Move(state + 1, f"to {state + 1}")] if state < 3 else []
        return []

    def facts(self, state: int) -> int:
        return self._says if state >= 1 else 0


def test_the_search_visits_every_combination_and_no_message_comes_before_what_it_needs() -> None:
    facts = Facts()
    one, other = Counter(facts, "one", "other began", "one began"), Counter(facts, "other", "one began", "other began")
    found = search([one, other], lambda facts: None)
    # All of 0..3 squared but those in which one is past 1 while the other has not begun.
    assert found.states == 16 - 4
    assert found.violation is None


def test_the_search_gives_a_shortest_way_to_a_violation() -> None:
    facts = Facts()
    one, other = Counter(facts, "one", "other began", "one began"), Counter(facts, "other", "one began", "other began")
    both = facts.bits([("one began",), ("other began",)])
    found = search([one, other], lambda seen: "both began" if seen & both == both else None)
    assert found.violation == "both began"
    assert found.trace == ("one: to 1", "other: to 1")


def test_more_local_states_than_fit_end_the_search_and_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audits.exploration.search._LOCAL_BITS", 1)
    facts = Facts()
    with pytest.raises(OverflowError, match="more local states"):
        search([Counter(facts, "one", "one began", "one began")], lambda seen: None)


def test_a_symbolic_seal_opens_with_its_key_and_binding_and_with_nothing_else() -> None:
    with symbolic():
        key, other = SealingKey(bytes(32)), SealingKey(bytes([1]) * 32)
        sealed = key.public.seal(b"secret", "label", b"binding")
        assert key.open(sealed, "label", b"binding") == b"secret"
        for opener, label, binding in ((other, "label", b"binding"), (key, "x", b"binding"), (key, "label", b"x")):
            with pytest.raises(SealingError):
                opener.open(sealed, label, binding)
        assert key.public.seal(b"secret", "label", b"binding") == sealed, "symbols are names, and have no randomness"


def test_a_symbolic_signature_is_its_signers_over_these_parts() -> None:
    with symbolic():
        signer, other = Identity(bytes(32)), Identity(bytes([1]) * 32)
        signature = signer.sign("label", b"part")
        assert signer.public.verifies(signature, "label", b"part")
        assert not other.public.verifies(signature, "label", b"part")
        assert not signer.public.verifies(signature, "label", b"other")
        assert not signer.public.verifies(bytes(64), "label", b"part")


def test_a_copied_session_goes_its_own_way_and_the_real_one_stays_where_it_is() -> None:
    with symbolic() as streams:
        pool = Pool(THREE, streams)
        client = pool.start((0, "A"))
        twin = copy_of(client)
        twin.receive(pool.opening)
        twin.abandon()
        assert (client.state, twin.state) == (State.NEW, State.FAILED)
        assert twin._secrets.wiped
        assert not client._secrets.wiped
        client.receive(pool.opening)
        with pytest.raises(LocalError, match="failed"):
            twin.receive(pool.opening)


@pytest.mark.sweep
def test_a_session_that_goes_on_after_a_refusal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "receive", Client._dispatch)
    explored = explore(Exploration(THREE))
    assert "refused a message and its session is still" in (explored.found.violation or "")


def test_a_node_that_trips_over_a_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of who sent a seed, a missing one is looked up and not found."""
    monkeypatch.setattr(
        sharing, "check_addresses", lambda message, index, cohort: tuple(each.sender for each in message.shares)
    )
    assert "tripped over a message: KeyError" in (explore(Exploration(THREE)).found.violation or "")


def test_every_way_of_refusing_is_met_while_a_session_is_explored() -> None:
    """The pool has a wrong message for every check: none of these classes would be raised if it had not."""
    with symbolic() as streams:
        node = SessionNode(Pool(FOUR_ONE_CORRUPT, streams), Facts(), 0)
    assert {
        "BadSignature",
        "CohortTooSmall",
        "Equivocation",
        "Excluded",
        "NotCanonical",
        "OutOfOrder",
        "OversizedMessage",
        "WrongCommitment",
        "WrongSession",
        "WrongSum",
    } <= set(node.refused)


def test_the_null_space_is_that_of_the_matrix() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        matrix = generator.integers(-1, 2, size=(generator.integers(1, 5), generator.integers(1, 5)))
        basis = null_space([{column: int(value) for column, value in enumerate(row)} for row in matrix])
        assert len(basis) == len(matrix) - np.linalg.matrix_rank(matrix)
        for weights in basis:
            assert any(weights)
            columns = (
                sum((w * int(v) for w, v in zip(weights, column, strict=True)), Fraction()) for column in matrix.T
            )
            assert not any(columns)


def run_with(monkeypatch: pytest.MonkeyPatch, real: tuple[Exploration, ...], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(runs, "REAL", real)
    monkeypatch.setattr(runs, "REMOVALS", (REMOVALS[4],))
    result = CliRunner().invoke(cli.app, ["explore", *arguments])
    return result.exit_code, result.stdout


def test_the_command_shows_each_exploration_and_the_way_to_each_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_with(monkeypatch, (Exploration(THREE),))
    assert code == 0
    assert "every promise holds" in output
    assert "without the checksum's constant: violation: node 0 signed a sum" in output
    assert "    node 0: opening\n" in output
    assert output.endswith("0 violations; 1 checks taken out: 1 noticed by a violation\n")


def test_the_command_ends_1_when_real_nodes_break_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Exploration(THREE, 0, "", REMOVALS[4].weakening)
    code, output = run_with(monkeypatch, (broken,), "--json")
    assert code == 1
    first, second = sorted(json.loads(output)["explorations"], key=lambda entry: str(entry["without"]))
    assert (first["without"], second["without"]) == (None, "the checksum's constant")
    assert "signed a sum" in first["violation"]
    assert first["trace"]
    assert all(entry["states"] > 0 for entry in (first, second))


def test_the_command_ends_1_when_a_missing_check_goes_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "REAL", ())
    monkeypatch.setattr(runs, "REMOVALS", (Exploration(THREE, 0, "nothing at all"),))
    result = CliRunner().invoke(cli.app, ["explore"])
    assert result.exit_code == 1
    assert "without nothing at all: NO violation" in result.stdout


def test_names_say_what_is_explored() -> None:
    names = [(exploration.name, exploration.without) for exploration in (*REAL, *REMOVALS)]
    assert len(set(names)) == len(names)
    assert Exploration(THREE).name == "one session, N = 3, c = 0, f = 1"
    assert all(a != b for a, b in itertools.pairwise(names))
