"""One hospital uploads what does not fit its tag: nobody is accused wrongly, and the study can go on without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from protocols import checksum
from protocols.errors import ProtocolError
from protocols.messages import MaskedInput, Published
from protocols.wire import decode, encode, message_type
from secfed.aggregator.left_out import read_left_out, write_left_out
from secfed.errors import UserError
from secfed.node.attempts import MORE_ATTEMPTS_MAX, allow_attempts, stopped_at
from secfed.reports.repeated import repeated_rounds
from secfed.rounds.events import NodeAbsent
from tests.secfed.bending import EVERYBODY, bend_answers, once_each, resigned, told
from tests.secfed.federation import Federation, cut, make_study

CULPRIT = 3
BOTH = "aggregator or of one of the survivors"


def another_tag(message: MaskedInput) -> dict[str, Any]:
    return {"tag": checksum.encode_tag((checksum.decode_tag(message.tag) + 1) % checksum.PRIME)}


def another_vector(message: MaskedInput) -> dict[str, Any]:
    return {"vector": bytes([message.vector[0] ^ 1]) + message.vector[1:]}


def spoil(federation: Federation, change: Callable[[MaskedInput], dict[str, Any]], times: int = 100) -> None:
    bend_answers(
        federation,
        CULPRIT,
        MaskedInput,
        lambda message: resigned(federation, CULPRIT, message, **change(message)),
        times,
    )


# What is said of a wrong sum.


@pytest.mark.parametrize("change", [another_tag, another_vector])
def test_a_wrong_upload_is_not_called_the_aggregators_fault(
    tmp_path: Path, change: Callable[[MaskedInput], dict[str, Any]]
) -> None:
    federation = Federation(make_study(), tmp_path)
    spoil(federation, change, 1)
    _, records = federation.run()
    assert [record.void for record in records] == [True, False, False, False]
    assert records[0].faults == ()
    assert "one survivor's wrong upload" in records[0].reason
    assert told(federation, "round 1", BOTH, "docs/wrong-sums.md") == once_each(EVERYBODY)
    # The aggregator sends the sum once more, to sessions that have ended.
    refusals = [reason for _, reason in federation.refusals if "this session has failed" not in reason]
    assert len(refusals) == 5
    assert all(reason.startswith("the aggregator or one of the survivors: ") for reason in refusals)


def test_a_sum_larger_than_survivors_can_send_is_told_in_the_same_way(tmp_path: Path) -> None:
    """A survivor can cause it with a vector that is none; to the others it looks as though the aggregator had."""
    federation = Federation(make_study(), tmp_path)

    def largest(message: MaskedInput) -> dict[str, Any]:
        bent, top = bytearray(message.vector), federation.nodes[0].chain.shape.ring_bits - 1
        bent[top // 8] ^= 1 << top % 8  # the first element, by half of the ring: whatever the masks are
        return {"vector": bytes(bent)}

    spoil(federation, largest, 1)
    federation.run()
    assert told(federation, "round 1", BOTH) == once_each(EVERYBODY)
    assert any("a sum beyond what survivors can send" in reason for _, reason in federation.refusals)


def test_what_only_the_aggregator_can_have_done_is_still_its_fault(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    node = federation.nodes[0]
    handle = node.handle

    def unpadded(request: bytes) -> bytes:
        if message_type(request, 1 << 20, None) == Published.TYPE:
            message = decode(Published, request, node.chain.limits, None)
            request = encode(Published(bytes(32), message.vector, message.tag))
        return handle(request)

    node.handle = unpadded  # type: ignore[method-assign]
    federation.run()
    assert federation.refusals[0] == ("hospital-0", "the aggregator: a message of another session (field session)")
    assert told(federation, BOTH) == {}


# How often a node takes part from one state, and who allows more.


def stopped_federation(folder: Path) -> Federation:
    """Three rounds have failed, and every node has stopped."""
    federation = Federation(make_study(algorithm={"rounds": 12}), folder)
    spoil(federation, another_tag)
    coordinator = federation.coordinator()
    for number in (1, 2, 3, 4):
        coordinator.run_round(number)
    return federation


def test_at_the_cap_every_owner_is_told_what_to_do(tmp_path: Path) -> None:
    federation = stopped_federation(tmp_path)
    command = f"secfed node allow-attempts {federation.study.digest.hex()[:16]}"
    assert told(federation, "round 3", BOTH, command) == once_each(EVERYBODY)
    assert told(federation, "round 2", command) == {}
    assert told(federation, "joined 3 rounds on one state", command) == once_each(EVERYBODY)
    assert {node.parts.store.floor(federation.study.digest) for node in federation.nodes} == {3}


def test_an_owner_allows_more_on_this_state_alone_and_only_once_the_node_has_stopped(tmp_path: Path) -> None:
    federation = Federation(make_study(algorithm={"rounds": 12}), tmp_path)
    store, digest = federation.nodes[0].parts.store, federation.study.digest
    coordinator = federation.coordinator()
    with pytest.raises(ValueError, match="has not stopped"):
        allow_attempts(store, digest, 1)
    coordinator.run_round(1)
    spoil(federation, another_tag, 4)
    for number in (2, 3, 4):
        assert stopped_at(store, digest) is None
        coordinator.run_round(number)
    state = stopped_at(store, digest)
    assert state == coordinator.chain.state.digest(coordinator.chain.layout)
    for node in federation.nodes:
        assert allow_attempts(node.parts.store, digest, 2) == 2
    assert coordinator.run_round(5).void
    assert not coordinator.run_round(6).void, "the culprit has stopped bending"
    for node in federation.nodes:
        assert node.parts.store.more_attempts(digest, coordinator.chain.state.digest(coordinator.chain.layout)) == 0
    coordinator.run_round(7)
    with pytest.raises(ValueError, match="has not stopped"):
        allow_attempts(store, digest, 1)


@pytest.mark.parametrize("adopts", [False, True])
def test_a_node_whose_last_attempt_succeeded_has_not_stopped(tmp_path: Path, adopts: bool) -> None:
    federation = Federation(make_study(algorithm={"rounds": 12}), tmp_path)
    spoil(federation, another_tag, 2)
    federation.cuts = (cut(0, 3, "unmask"),)
    coordinator = federation.coordinator()
    for number in (1, 2, 3):
        coordinator.run_round(number)
    if adopts:
        coordinator.close_study()
    stores = [node.parts.store for node in federation.nodes]
    stopped = [stopped_at(store, federation.study.digest) is not None for store in stores]
    assert stopped == [not adopts, False, False, False, False], (
        "node 0 has not seen the sum, nor, at first, its receipt"
    )


def test_more_attempts_on_one_state_have_a_bound_over_restarts_too(tmp_path: Path) -> None:
    federation = stopped_federation(tmp_path)
    store, digest = federation.nodes[0].parts.store, federation.study.digest
    for more in (0, -1, MORE_ATTEMPTS_MAX + 1):
        with pytest.raises(ValueError, match="cannot be allowed"):
            allow_attempts(store, digest, more)
    assert allow_attempts(store, digest, 1) == 1
    with pytest.raises(ValueError, match="has not stopped"):
        allow_attempts(store, digest, 1)
    again = federation.start_node(0)
    state = again.chain.state.digest(again.chain.layout)
    for number in range(4, 4 + MORE_ATTEMPTS_MAX):
        store.join(digest, number, state)
        left = MORE_ATTEMPTS_MAX - store.more_attempts(digest, state)
        if left:
            with pytest.raises(ValueError, match=f"{left} of {MORE_ATTEMPTS_MAX} are left"):
                allow_attempts(store, digest, left + 1)
            allow_attempts(store, digest, 1)
    with pytest.raises(ValueError, match="0 of 9 are left"):
        allow_attempts(store, digest, 1)


def test_without_leave_a_stopped_node_stays_stopped_after_a_restart(tmp_path: Path) -> None:
    federation = stopped_federation(tmp_path)
    federation.nodes[0] = federation.start_node(0)
    opening = federation.coordinator().chain.context(5).opening()
    from secfed.rounds.channel import RoundOpening

    with pytest.raises(ProtocolError, match="stops here until its owner allows more attempts"):
        federation.nodes[0].handle(encode(RoundOpening((), opening)))


def rounds(*void: bool) -> list[dict[str, Any]]:
    return [{"number": at, "cohort": ["a"], "attempt_void": each} for at, each in enumerate(void, start=1)]


def test_the_report_tells_of_more_attempts_than_nodes_make_by_themselves() -> None:
    usual = rounds(True, True, False, True, True, True)
    assert repeated_rounds(usual, "hospital") == []
    assert repeated_rounds([*usual, {"number": 7, "cohort": [], "attempt_void": True}], "hospital") == []
    (row,) = repeated_rounds([*usual, {"number": 7, "cohort": ["a"], "attempt_void": False}], "hospital")
    assert row["what"].endswith("rounds 4 to 7")


# Sites that the operator leaves out.


def test_as_many_can_be_left_out_as_may_drop_out_and_no_more(tmp_path: Path) -> None:
    study, path = make_study(7, cohort={"tolerated_dropouts": 2, "minimum": 3}), tmp_path / "left-out.json"
    assert read_left_out(path, study) == frozenset()
    assert write_left_out(path, study, ["hospital-6", "hospital-1"]) == read_left_out(path, study) == {1, 6}
    with pytest.raises(UserError, match=r"hospital-1, hospital-2, hospital-3 are 3 of 7 sites, but at most 2 can"):
        write_left_out(path, study, ["hospital-1", "hospital-2", "hospital-3"])
    with pytest.raises(UserError, match=r"stranger: not on the roster"):
        write_left_out(path, study, ["stranger"])
    assert read_left_out(path, study) == {1, 6}, "what is refused changes nothing"
    assert write_left_out(path, study, []) == read_left_out(path, study) == frozenset()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"left_out": ["stranger"]}', '{"left_out": ["hospital-0", "hospital-1"]}', '{"left_out": 1}']
)
def test_a_file_that_was_written_by_hand_is_checked_as_the_command_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "left-out.json"
    path.write_text(text)
    with pytest.raises(UserError):
        read_left_out(path, make_study())


def test_a_site_that_is_left_out_joins_nothing_and_keeps_up(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    coordinator._read_left_out = lambda: frozenset({CULPRIT})
    for number in (1, 2, 3):
        record = coordinator.run_round(number)
        assert record.survivors == ("hospital-0", "hospital-1", "hospital-2", "hospital-4")
        assert (f"hospital-{CULPRIT}", "advertise") in record.dropped
        assert federation.nodes[CULPRIT].chain.length == number - 1, "it has the receipt of the round before"
    reasons = {event.reason for event in federation.events if isinstance(event, NodeAbsent)}
    assert reasons == {"left out by the operator"}
    assert federation.trainers[CULPRIT].trained == []
    coordinator._read_left_out = frozenset
    assert len(coordinator.run_round(4).survivors) == 5
    coordinator.close_study()
    assert len(federation.states()) == 1


def test_a_site_that_is_left_out_cannot_let_itself_in(tmp_path: Path) -> None:
    """It knows all that an opening says, so it can make its own advertisement."""
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    coordinator._read_left_out = lambda: frozenset({CULPRIT})
    from secfed.rounds.channel import RoundOpening

    opening = encode(RoundOpening((), coordinator.chain.context(1).opening()))
    handle = federation.nodes[CULPRIT].handle
    federation.nodes[CULPRIT].handle = lambda request: handle(opening)  # type: ignore[method-assign]
    assert f"hospital-{CULPRIT}" not in coordinator.run_round(1).cohort


def test_a_locked_site_that_is_left_out_still_offers_what_it_signed(tmp_path: Path) -> None:
    cuts = tuple(cut(node, 1, "close") for node in (0, 1, 2))
    federation = Federation(make_study(), tmp_path, cuts=cuts)
    coordinator = federation.coordinator()
    first = coordinator.run_round(1)
    assert first.void
    coordinator._records.append(first)
    coordinator._read_left_out = lambda: frozenset({CULPRIT})
    coordinator.run_round(2)
    assert coordinator.chain.round_number == 1, "two offers and echoes of the others finish it"
