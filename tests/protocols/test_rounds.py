"""The published sum equals the plain modular sum of the survivors, bit for bit, or the round is void."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.aggregator import Stage
from protocols.errors import RoundVoid
from protocols.parameters import CohortRules
from protocols.receipts import verify_receipt
from protocols.steps import State
from tests.protocols.rounds import STUDY, Round, configure, plain_sum, random_vectors

STAGES = [Stage.ADVERTISE, Stage.SHARE, Stage.MASKED_INPUT, Stage.AGREE, Stage.UNMASK]


def legal_pairs(roster_size: int) -> list[tuple[int, int]]:
    """Every (f, c) that a roster of this size allows."""
    pairs = []
    for colluders in range(roster_size - 1):
        for dropouts in range(roster_size):
            try:
                CohortRules(roster_size, colluders, dropouts, colluders + 2)
            except Exception:  # noqa: S112 - the constructor is the definition of legal
                continue
            pairs.append((dropouts, colluders))
    return pairs


ALL_LEGAL = [(size, dropouts, colluders) for size in range(3, 13) for dropouts, colluders in legal_pairs(size)]


def sum_or_void(size: int, dropouts: int, colluders: int, bits: int, dimension: int, silence: dict) -> None:
    """Run one round and compare with a plain model of who is left at each stage."""
    config = configure(size, dropouts=dropouts, colluders=colluders, ring_bits=bits, dimension=dimension)
    vectors = random_vectors(config, seed=bits * 1000 + size)
    absent = {stage: frozenset(silence.get(stage, ())) for stage in STAGES}
    round_ = Round(config, vectors, absent)

    cohort = set(range(size)) - absent[Stage.ADVERTISE]
    needed = max(len(cohort) - dropouts, (size + colluders) // 2 + 1, colluders + 2)
    quorum = max(len(cohort) - dropouts, (size + colluders) // 2 + 1)
    sharers = cohort - absent[Stage.SHARE]
    survivors = sharers - absent[Stage.MASKED_INPUT]
    agreeing = survivors - absent[Stage.AGREE]
    releasing = agreeing - absent[Stage.UNMASK]
    enough = (
        all(len(group) >= needed for group in (cohort, sharers, survivors))
        and len(agreeing) >= quorum
        and len(releasing) >= quorum
    )
    if not enough:
        with pytest.raises(RoundVoid):
            round_.run()
        return
    outcome = round_.run()
    assert outcome.aggregator.survivors == tuple(sorted(survivors))
    expected = plain_sum(config, vectors, outcome.aggregator.survivors)
    assert set(outcome.totals) == releasing
    for total in outcome.totals.values():
        assert total.tolist() == expected
    assert outcome.rejected == []
    verify_receipt(outcome.receipt, study=STUDY, predecessor=STUDY, rules=config.rules, roster=config.roster)


@pytest.mark.sweep
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_random_dropouts_at_every_stage_give_the_exact_sum_or_a_void_round(data: st.DataObject) -> None:
    size, dropouts, colluders = data.draw(st.sampled_from(ALL_LEGAL))
    bits = data.draw(st.integers(8, 60))
    dimension = data.draw(st.integers(1, 40))
    leaving = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.sampled_from(STAGES)), max_size=dropouts + 1))
    silence: dict[Stage, set[int]] = {}
    for node, stage in leaving:
        silence.setdefault(stage, set()).add(node)
    sum_or_void(size, dropouts, colluders, bits, dimension, silence)


@pytest.mark.parametrize(
    ("size", "dropouts", "colluders"),
    [pytest.param(*each, marks=[pytest.mark.sweep] if each[0] > 8 else []) for each in ALL_LEGAL],
)
def test_every_legal_roster_survives_its_tolerated_dropouts(size: int, dropouts: int, colluders: int) -> None:
    silence: dict[Stage, set[int]] = {}
    for node in range(dropouts):
        silence.setdefault(STAGES[1 + node % 4], set()).add(node)
    sum_or_void(size, dropouts, colluders, 21, 5, silence)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dropouts", [1, 2, 3])
def test_exactly_the_quorum_left_is_enough_and_one_fewer_is_void(stage: Stage, dropouts: int) -> None:
    leaving = set(range(dropouts))
    sum_or_void(9, dropouts, 1, 33, 6, {stage: leaving})
    sum_or_void(9, dropouts, 1, 33, 6, {stage: leaving, Stage.UNMASK: {8}})


@pytest.mark.parametrize("bits", range(8, 61))
def test_every_ring_width_carries_the_extremes(bits: int) -> None:
    config = configure(3, ring_bits=bits, dimension=9)
    vectors = random_vectors(config, bits)
    for vector in vectors.values():
        vector[:2] = (config.magnitude, -config.magnitude)
    outcome = Round(config, vectors).run()
    assert outcome.totals[0].tolist() == plain_sum(config, vectors, (0, 1, 2))
    assert outcome.totals[0][0] == 3 * config.magnitude


def test_a_masked_input_looks_nothing_like_the_input() -> None:
    config = configure(3, dimension=4096, ring_bits=16)
    vectors = {node: vector * 0 for node, vector in random_vectors(config, 0).items()}
    seen: dict[int, bytes] = {}

    def watch(stage: Stage, node: int, data: bytes) -> bytes:
        if stage is Stage.MASKED_INPUT:
            seen[node] = data
        return data

    outcome = Round(config, vectors, tamper=watch).run()
    assert outcome.totals[0].tolist() == [0] * 4096
    for data in seen.values():
        # 8 KiB of uniform bytes: a given byte value 32 times on average; 100 or more with probability below 1e-15.
        assert max(data.count(value) for value in range(256)) < 100


def test_secrets_are_gone_once_the_shares_are_released() -> None:
    config = configure(5, dropouts=1, colluders=1)
    outcome = Round(config, random_vectors(config, 1)).run()
    for client in outcome.clients.values():
        assert client.state is State.CLOSED
        assert client._secrets.wiped
        assert not client._received
        assert not client._pair_seeds
        assert not client.checksum_contributions
