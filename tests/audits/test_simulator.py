"""The simulator itself: an honest aggregator in it gets a round done, and its attacker knows nothing that it cannot."""

from __future__ import annotations

import inspect

import pytest

from audits.adversaries import weakened
from audits.simulator.knowledge import MASK_KEY, SELF_MASK
from audits.simulator.removal import place_of
from audits.simulator.world import CORRUPT, VICTIM, Conversation, FreshEntropy, World, broken_nodes
from protocols.client import Client
from protocols.errors import Equivocation, LocalError
from protocols.messages import Survivors
from protocols.steps import State
from protocols.wire import encode


def honest_round(world: World, survivors: tuple[int, ...] | None = None) -> Conversation:
    talk = Conversation(world)
    talk.upload(world.everyone)
    talk.finish(survivors or world.everyone)
    return talk


def test_an_honest_aggregator_gets_a_round_done_and_nobody_refuses_anything() -> None:
    world = World()
    talk = honest_round(world)
    assert world.refusals == []
    assert set(world.totals) == set(world.honest)
    assert all(world.is_sum_of(world.everyone, total) for total in world.totals.values())
    assert {world.client(node).state for node in world.honest} == {State.CLOSED}
    assert world.is_sum_of(world.everyone, talk.knowledge.sum_of(world.everyone))


def test_a_round_with_dropouts_gives_the_sum_of_the_survivors() -> None:
    world = World()
    survivors = (1, 2, 3, 4, 5, 6)
    honest_round(world, survivors)
    assert set(world.totals) == {1, 2, 3, 4, 5}
    assert all(world.is_sum_of(survivors, total) for total in world.totals.values())


def test_after_an_honest_round_the_attacker_knows_the_sum_and_no_single_honest_vector() -> None:
    world = World()
    learned = honest_round(world).knowledge
    assert world.recovers(CORRUPT, learned.sum_of([CORRUPT]))
    for node in world.honest:
        assert learned.sum_of([node]) is None
        assert not world.recovers(node, learned.sum_of([node], self_masks=False))


def test_the_attacker_recovers_a_vector_once_it_holds_every_seed_of_it() -> None:
    world = World()
    learned = honest_round(world).knowledge
    for peer in world.honest:
        if peer != VICTIM:
            learned.pair_seeds[VICTIM, peer] = b"\0" * 32
    assert learned.sum_of([VICTIM]) is not None
    assert not world.recovers(VICTIM, learned.sum_of([VICTIM])), "wrong seeds must not give the right vector"


def test_fewer_shares_than_the_quorum_give_the_attacker_no_seed() -> None:
    world = World()
    learned = honest_round(world).knowledge
    assert learned.self_mask_seed(VICTIM) is not None
    shares = learned.held[SELF_MASK, VICTIM]
    for node in sorted(shares)[learned.quorum - 1 :]:
        del shares[node]
    assert learned.self_mask_seed(VICTIM) is None
    assert len(learned.held[MASK_KEY, VICTIM]) == 1
    assert learned.mask_seed(VICTIM) is None


def test_shares_that_do_not_give_the_committed_seed_give_none() -> None:
    world = World()
    learned = honest_round(world).knowledge
    learned.held[SELF_MASK, VICTIM][1] = bytes(33)
    assert learned.self_mask_seed(VICTIM) is None


def test_two_worlds_of_one_seed_are_the_same_and_of_two_seeds_are_not() -> None:
    def session(seed: bytes) -> bytes:
        world = World(seed=seed)
        honest_round(world)
        return world.client(VICTIM).session

    assert session(b"one") == session(b"one") != session(b"two")


def test_a_node_draws_fresh_secrets_whenever_it_starts_again() -> None:
    world = World()
    first = world.client(VICTIM)
    world.restart(VICTIM)
    assert world.client(VICTIM)._secrets.mask_seed() != first._secrets.mask_seed()
    assert FreshEntropy(b"seed")(32) == FreshEntropy(b"seed")(32)


def test_a_second_face_of_a_session_is_in_the_same_session() -> None:
    world = World()
    talk = Conversation(world)
    talk.upload(world.everyone)
    twin = talk.fork()
    assert twin.knowledge is talk.knowledge
    assert twin._client(CORRUPT) is not talk._client(CORRUPT)
    assert twin._client(CORRUPT).session == world.client(VICTIM).session


def test_a_refusal_is_noted_with_the_line_that_raised_it() -> None:
    world = World()
    talk = Conversation(world)
    talk.upload(world.everyone)
    talk.announce([VICTIM], world.everyone)
    assert talk.send(VICTIM, encode(Survivors(talk.knowledge.session, world.everyone[:-1]))) is None
    (refusal,) = world.refusals
    assert refusal.node == VICTIM
    assert isinstance(refusal.error, Equivocation)
    path, line = refusal.place.split(":")
    lines, first = inspect.getsourcelines(Client._dispatch)
    assert path == "protocols/client.py"
    assert "raise Equivocation" in lines[int(line) - first]


def test_an_outcome_has_every_refusal_in_order() -> None:
    world = World()
    talk = Conversation(world)
    talk.upload(world.everyone)
    for node in (3, VICTIM):
        talk.send(node, b"")
    assert [refusal.node for refusal in world.outcome(False).refusals] == [3, VICTIM]
    assert World().outcome(False).refusals == ()


def test_a_node_that_ends_with_no_protocol_error_stops_the_audit_unless_it_lacks_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(node: Client, data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Client, "_dispatch", broken)
    world = World()
    with pytest.raises(ZeroDivisionError):
        Conversation(world).advertise([VICTIM])
    assert world.refusals == []
    world.restart(VICTIM)
    with broken_nodes():
        Conversation(world).advertise([VICTIM])
    (refusal,) = world.refusals
    assert isinstance(refusal.error, ZeroDivisionError)


def test_an_error_from_elsewhere_has_no_place_in_the_nodes_code() -> None:
    with pytest.raises(LocalError) as caught:
        raise LocalError("raised in a test")
    assert place_of(caught.value) == "outside the project"


def test_a_weakened_node_still_does_an_honest_round() -> None:
    for weakening in (
        weakened.quorum_one_too_low(),
        weakened.unchecked_signatures(),
        weakened.sharing_threshold(3),
        weakened.checksum_without_constant(),
        weakened.context_without("state"),
    ):
        world = World()
        with weakening:
            honest_round(world)
        assert set(world.totals) == set(world.honest)
