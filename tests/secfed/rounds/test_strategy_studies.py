"""Whole studies of every strategy: one model on all nodes, through dropouts, late rounds, absences and restarts."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from audits.evidence.flips import all_found, by_file, flip_everything
from protocols import encoding
from protocols.errors import WrongSession
from secfed.aggregator.coordinator import Coordinator
from secfed.reports.folder import FIRST_STATE, read_first_state
from secfed.rounds.chain import Chain
from secfed.rounds.strategies import ModelState
from secfed.verify.folder import verify_folder
from secfed.verify.rounds import check_rounds
from tests.secfed import exact
from tests.secfed.federation import ALGORITHMS, Federation, FormulaTrainer, cut, make_study
from tests.secfed.run_folders import write_run

ADAPTIVE = ["fedopt-adam", "fedopt-yogi", "fedopt-adagrad"]
WITH_MOMENTS = ["fedopt-sgd", *ADAPTIVE]
CUTS = (
    cut(2, 2, "masked input"),  # drops out: the others' sum goes on without it
    cut(4, 3, "advertise"),
    cut(4, 4, "advertise"),  # away for two rounds
    cut(0, 5, "close"),
    cut(1, 5, "close"),  # too few signatures: round 5 is finished at the opening of round 6, whose number is used up
)
ROUNDS = 8
COMPLETED = [1, 2, 3, 4, 5, 7, 8]


def federation_with(name: str, folder: Path) -> Federation:
    return Federation(make_study(algorithm={**ALGORITHMS[name], "rounds": ROUNDS}), folder, cuts=CUTS)


def bits(state: ModelState) -> list[bytes]:
    return [state.adapter.tobytes(), *(moment.tobytes() for moment in state.moments)]


def by_hand(federation: Federation, coordinator: Coordinator, name: str) -> list[exact.Element]:
    """The model from the sums and survivor sets that were kept, in exact arithmetic."""
    study, shape = federation.study, coordinator.chain.shape
    elements = [exact.first(ALGORITHMS[name], x) for x in FormulaTrainer.first_state().adapter.tolist()]
    for receipt, packed in federation.kept:
        total = encoding.from_ring(encoding.unpack(packed, shape), shape).tolist()
        weight = sum(study.weights[node] for node in receipt.statement.survivors)
        scale = float(2**study.privacy.fraction_bits * weight)
        elements = [
            exact.step(ALGORITHMS[name], at, exact.divide(value, scale))
            for at, value in zip(elements, total, strict=True)
        ]
    return elements


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_nodes_hold_the_state_of_exact_arithmetic_after_all_that_can_happen(name: str, tmp_path: Path) -> None:
    federation = federation_with(name, tmp_path)
    coordinator, records = federation.run()
    assert [receipt.statement.round_number for receipt, _ in federation.kept] == COMPLETED
    assert "hospital-2" not in records[1].survivors
    assert "finished later" in records[4].reason
    assert federation.trainers[4].trained == [1, 2, 5, 7, 8]
    chain = coordinator.chain
    expected = by_hand(federation, coordinator, name)
    columns = [[at.x for at in expected], [at.m for at in expected], [at.v for at in expected]]
    found = [chain.state.adapter.astype(np.float64).tolist(), *(moment.tolist() for moment in chain.state.moments)]
    assert found == columns[: len(found)]
    for node in federation.nodes:
        assert bits(node.chain.state) == bits(chain.state)
    assert federation.states() == {chain.state.digest(chain.layout)}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_restarted_node_has_its_moments_from_receipts_and_sums_alone(name: str, tmp_path: Path) -> None:
    federation = federation_with(name, tmp_path)
    federation.run()
    for index in (0, 3, 4):
        again = federation.start_node(index)
        assert bits(again.chain.state) == bits(federation.nodes[index].chain.state)
        assert again.chain.head == federation.nodes[index].chain.head


@pytest.mark.sweep
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_study_goes_on_in_the_same_way_when_every_node_restarts_after_every_round(name: str, tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "often").mkdir()
    once, often = federation_with(name, tmp_path / "once"), federation_with(name, tmp_path / "often")
    expected, _ = once.run()
    coordinator = often.coordinator()
    run_round = coordinator.run_round

    def restart_first(number: int):  # type: ignore[no-untyped-def]
        for index, node in enumerate(often.nodes):
            node.parts.ledger.close()
            node.parts.store.close()
            often.nodes[index] = often.start_node(index)
        coordinator._channel._nodes = often.nodes  # type: ignore[attr-defined]
        return run_round(number)

    coordinator.run_round = restart_first  # type: ignore[method-assign]
    coordinator.run()
    assert bits(coordinator.chain.state) == bits(expected.chain.state)
    assert often.states() == once.states()


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_first_moments_follow_from_the_study_and_are_taken_from_nobody(name: str) -> None:
    study = make_study(algorithm=ALGORITHMS[name])
    start = FormulaTrainer.first_state()
    given = ModelState(start.adapter, tuple(np.full(start.adapter.shape, 9.0) for _ in range(2)))
    state = Chain(study, FormulaTrainer.layout, given).state
    assert bits(state) == bits(Chain(study, FormulaTrainer.layout, start).state)
    assert not state.moments[0].any()
    tau = ALGORITHMS[name].get("tau", 1e-3)
    assert [moment.tolist() for moment in state.moments[1:]] == [[tau * tau] * 11] * (len(state.moments) - 1)


def with_one_bit_flipped(chain: Chain, moment: int) -> Chain:
    """A party whose moments are not those that the sums lead to."""
    other = copy.copy(chain)
    moments = [each.copy() for each in chain.state.moments]
    moments[moment].view(np.uint64)[3] ^= np.uint64(1 << 30)
    other.state = dataclasses.replace(chain.state, moments=tuple(moments))
    return other


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_a_party_with_one_other_bit_in_its_moments_joins_nothing_and_adopts_nothing(name: str, tmp_path: Path) -> None:
    federation = federation_with(name, tmp_path)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    before = copy.copy(coordinator.chain)
    coordinator.run_round(2)
    receipt, packed = federation.kept[1]
    for moment in range(len(before.state.moments)):
        other = with_one_bit_flipped(before, moment)
        assert other.state.adapter.tobytes() == before.state.adapter.tobytes()
        with pytest.raises(WrongSession, match="state"):
            other.context(2).check_opening(before.context(2).opening())
        with pytest.raises(WrongSession, match="another model or study"):
            other.adopt(receipt, packed)
    before.adopt(receipt, packed)


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_a_digest_over_the_adapter_alone_would_let_models_part_unseen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the digest over moments stops: two parties in one session whose models are others a round later."""
    federation = federation_with(name, tmp_path)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    chain = coordinator.chain
    other = copy.copy(chain)
    other.state = dataclasses.replace(chain.state, moments=tuple(each * 4 + 1 for each in chain.state.moments))
    assert other.context(2).digest() != chain.context(2).digest()
    whole = ModelState.digest
    monkeypatch.setattr(ModelState, "digest", lambda state, layout: whole(ModelState(state.adapter), layout))
    assert other.context(2).digest() == chain.context(2).digest()
    packed = federation.kept[0][1]
    models = [each.next_state(packed, (0, 1, 2, 3)).adapter.tobytes() for each in (chain, other)]
    assert models[0] != models[1]


# The verifier.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_verifier_follows_every_strategy_and_finds_flipped_bytes_in_their_files(name: str, tmp_path: Path) -> None:
    changes = {"algorithm": ALGORITHMS[name]}
    cuts = (cut(2, 2, "masked input"), cut(0, 3, "agree"), cut(1, 3, "agree"))
    federation = write_run(tmp_path / "out", tmp_path / "work", cuts, **changes)
    verdict = verify_folder(tmp_path / "out")
    assert verdict.problem is None
    history = check_rounds(tmp_path / "out", federation.study)
    assert bits(history.chain.state) == bits(federation.nodes[0].chain.state)
    results = list(by_file(flip_everything(tmp_path / "out", every=23, processes=1)))
    assert all_found(results)
    assert sum(result.flipped for result in results) > 500


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_a_verifier_needs_no_moments_in_any_file(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "out", tmp_path / "work", algorithm=ALGORITHMS[name])
    _, first = read_first_state((tmp_path / "out" / FIRST_STATE).read_bytes())
    assert first.moments == ()
    assert verify_folder(tmp_path / "out").problem is None
