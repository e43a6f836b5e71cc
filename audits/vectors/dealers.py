"""Vectors of whole dishonest dealers: a node that lies from Advertise to Unmask, consistently, and signs all of it.

Its receiver refuses a single wrong message. These lies fit their commitments, so every honest node continues, and only
the aggregator can see them, when it rebuilds secrets. `dealers.json` says, for each, which recorded session it departs
from, what the dealer sends in place of its honest messages, and how the round must end: void, with the dealer named, or
with the recorded sum after all. Either implementation plays all other parties again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audits.reference import machines as reference
from audits.reference.machines import pair_seed_commitment, shares_commitments
from audits.reference.notation import KDF, SHARING_PRIME, Message, Refused, idx, parse_cbor, seal, sign, unsigned
from audits.vectors import DEALERS, FOLDER, Session, write_file
from audits.vectors.making import MAIN, Sessions, flip
from audits.vectors.splices import Splice
from audits.vectors.transcripts import (
    STAGES,
    Envelopes,
    Machines,
    RealMachines,
    ReferenceMachines,
    Scenario,
    Transcript,
)
from protocols.errors import RemoteError, RoundVoid

EVERYBODY = "three-nodes-nobody-leaves"
EIGHT = "eight-nodes-three-leave-before-masked-input-agree-and-close"
"""Nodes 0, 2, 3, 5, 6, 7 release shares, one more than t; node 1 shares and sends no masked input."""
OTHER = KDF(bytes(32), "another secret")
VOID, SUM = "void", "sum"
SHARES, SEED = "shares envelope", "pair seed envelope"
SHARE = 33
"""Bytes of a share."""


@dataclass(frozen=True, slots=True)
class DishonestDealer:
    """One lie, in a session whose other parties are honest."""

    name: str
    session: str
    """The vector it departs from."""
    dealer: int
    messages: Mapping[str, Splice]
    """Stage -> what the dealer changes in its recorded message; it sends the recorded ones at other stages."""
    ends: str
    """"void": no sum, and the dealer is named; "sum": the recorded sum is published."""


# --- Checking --------------------------------------------------------------------------------------------------------


def check_dealer(case: DishonestDealer, session: Session) -> list[str]:
    """The findings about a case: an implementation with which the round ends differently."""
    scenario, recorded = session
    if case.ends == VOID:
        expected: tuple[str, object] = (VOID, case.dealer)
    else:
        expected = (SUM, recorded.total)
    found = []
    players: tuple[tuple[str, Machines], ...] = (
        ("the real aggregator", RealMachines(scenario)),
        ("the reference", ReferenceMachines(scenario)),
    )
    for name, machines in players:
        ended = _end(case, scenario, recorded, machines)
        if ended != expected:
            found.append(f"{name}: {ended[0]} {ended[1]}")
    return found


def _end(
    case: DishonestDealer, scenario: Scenario, recorded: Transcript, machines: Machines
) -> tuple[str, tuple[int, ...] | int | None]:
    """How the round ends: the sum, or whom the aggregator names."""

    def answer(stage: str, node: int, data: bytes) -> bytes:
        if node != case.dealer:
            return machines.answer(stage, node, data)
        return case.messages.get(stage, Splice(0, 0, "")).apply(recorded.from_nodes[stage][node])

    try:
        published = _play(scenario, machines, answer)
    except RoundVoid as error:
        (blamed,) = error.blamed or (None,)
        return VOID, blamed
    except Refused as error:
        return VOID, error.fault
    return SUM, tuple(scenario.round.lift(scenario.round.unpack(published["vector"])))


def _play(scenario: Scenario, machines: Machines, answer: Callable[[str, int, bytes], bytes]) -> Message:
    """The session up to its sum. A node that refuses a message leaves."""
    outgoing = machines.open()
    for stage in STAGES[:-1]:
        answers = {}
        for node, data in outgoing.items():
            if scenario.answers(node, stage):
                with suppress(RemoteError, Refused):
                    answers[node] = answer(stage, node, data)
        outgoing = machines.advance(stage, answers)
    published: Message = parse_cbor(outgoing[min(outgoing)])
    return published


# --- Making ----------------------------------------------------------------------------------------------------------


class _Dealer(reference.Node):
    """A node of the reference that deals wrong values, under commitments that fit."""

    def bend(self, purpose: str, plaintext: bytes, receiver: int) -> bytes:
        """What it seals to this receiver."""
        return plaintext

    def _envelope(self, purpose: str, key: bytes, plaintext: bytes, receiver: int, **commitment: Any) -> Message:
        bent = self.bend(purpose, plaintext, receiver)
        if bent != plaintext:
            commitment = self.commit(purpose, bent, receiver)
        return super()._envelope(purpose, key, bent, receiver, **commitment)

    def commit(self, purpose: str, plaintext: bytes, receiver: int) -> Message:
        """The commitments to what an envelope holds."""
        if purpose == SHARES:
            pair = plaintext[:SHARE], plaintext[SHARE : 2 * SHARE]
            return {"commitments": shares_commitments(self.session, self.index, receiver, *pair)}
        return {"commitment": pair_seed_commitment(self.session, self.index, receiver, plaintext)}


class _OtherSelfMask(_Dealer):
    """Shares of another self-mask seed than the one committed to in Advertise."""

    def share(self, cohort: bytes) -> bytes:
        self.self_seed = OTHER
        return super().share(cohort)


class _OtherMaskSeed(_Dealer):
    """Shares of another mask seed than the one behind the advertised mask key; its pair seeds follow from that."""

    def share(self, cohort: bytes) -> bytes:
        self.mask_seed = OTHER
        return super().share(cohort)


class _OtherMaskKey(_Dealer):
    """The reverse of this lie: a wrong mask key, advertised for a correct mask seed."""

    def advertise(self, opening: bytes, ledger_sequence: int = 0) -> bytes:
        honest, self.mask_seed = self.mask_seed, OTHER
        message = super().advertise(opening, ledger_sequence)
        self.mask_seed = honest
        return message


class _NoPolynomial(_Dealer):
    """Shares to some receivers are one more than the polynomial gives."""

    receivers: Collection[int]
    at: int
    """Where the share is in what is sealed: the mask seed's comes first, the self-mask seed's after it."""

    def bend(self, purpose: str, plaintext: bytes, receiver: int) -> bytes:
        if purpose != SHARES or receiver not in self.receivers:
            return plaintext
        share = int.from_bytes(plaintext[self.at : self.at + SHARE], "big")
        other = ((share + 1) % SHARING_PRIME).to_bytes(SHARE, "big")
        return plaintext[: self.at] + other + plaintext[self.at + SHARE :]


class _OtherPairSeed(_Dealer):
    """A pair seed that does not follow from the mask seed."""

    receivers: Collection[int]

    def bend(self, purpose: str, plaintext: bytes, receiver: int) -> bytes:
        return OTHER if purpose == SEED and receiver in self.receivers else plaintext


class _KeptPairSeed(_OtherPairSeed):
    """The same, and the dealer masks with it."""

    def share(self, cohort: bytes) -> bytes:
        message = super().share(cohort)
        self.pair_seeds |= dict.fromkeys(self.receivers, OTHER)
        return message


class _UncommittedPairSeed(_OtherPairSeed):
    """The same, under the commitment to the right one."""

    def commit(self, purpose: str, plaintext: bytes, receiver: int) -> Message:
        honest = KDF(self.mask_seed, "pair seed", self.session, idx(self.index), idx(receiver))
        return super().commit(purpose, honest, receiver)


class _UnopenablePairSeed(_Dealer):
    """A sealed pair seed that nobody can open."""

    receivers: Collection[int]

    def _envelope(self, purpose: str, key: bytes, plaintext: bytes, receiver: int, **commitment: Any) -> Message:
        envelope = super()._envelope(purpose, key, plaintext, receiver, **commitment)
        if purpose == SEED and receiver in self.receivers:
            envelope["sealed"] = flip(envelope["sealed"], 600)
            envelope["signature"] = sign(self.identity, purpose, self.session, unsigned(envelope))
        return envelope


def make(sessions: Sessions) -> list[DishonestDealer]:
    """All cases."""
    mask, self_mask = 0, SHARE
    return [
        _case("self-mask shares of another secret", MAIN, 0, VOID, sessions, _OtherSelfMask),
        _case("mask-key shares of another secret", MAIN, 1, VOID, sessions, _OtherMaskSeed),
        _case("mask-key shares of another secret, not needed", EVERYBODY, 0, SUM, sessions, _OtherMaskSeed),
        _case("a mask key of another seed", MAIN, 1, VOID, sessions, _OtherMaskKey),
        _case(
            "one self-mask share on no polynomial", EIGHT, 0, SUM, sessions, _NoPolynomial, receivers=[7], at=self_mask
        ),
        _case(
            "two self-mask shares on no polynomial",
            EIGHT,
            0,
            VOID,
            sessions,
            _NoPolynomial,
            receivers=[6, 7],
            at=self_mask,
        ),
        _case("one mask-key share on no polynomial", EIGHT, 1, SUM, sessions, _NoPolynomial, receivers=[7], at=mask),
        _case(
            "two mask-key shares on no polynomial", EIGHT, 1, VOID, sessions, _NoPolynomial, receivers=[6, 7], at=mask
        ),
        _case("a pair seed of its own, and it drops out", MAIN, 1, VOID, sessions, _OtherPairSeed, receivers=[2]),
        _case("a pair seed of its own, and it stays", EVERYBODY, 0, SUM, sessions, _KeptPairSeed, receivers=[1]),
        _case(
            "a pair seed not committed to, its receiver leaves",
            MAIN,
            0,
            VOID,
            sessions,
            _UncommittedPairSeed,
            receivers=[1],
        ),
        _case(
            "a pair seed that does not open, its receiver leaves",
            MAIN,
            0,
            VOID,
            sessions,
            _UnopenablePairSeed,
            receivers=[1],
        ),
    ]


def _case(
    name: str, session: str, dealer: int, ends: str, sessions: Sessions, kind: type[_Dealer], **lie: Any
) -> DishonestDealer:
    """Play the session with this dealer in it, and keep what it sends."""
    scenario, recorded = sessions[session]
    envelopes = Envelopes(scenario, recorded)

    def seal_as_recorded(public: bytes, plaintext: bytes, info: bytes) -> bytes:
        try:
            return envelopes.seal(public, plaintext, info)
        except ValueError:
            return seal(public, plaintext, info)

    machines = ReferenceMachines(scenario, seal_as_recorded)
    liar = kind(scenario.round, dealer, scenario.identities[dealer], scenario.roots[dealer], seal_as_recorded)
    for what, value in lie.items():
        setattr(liar, what, value)
    machines.nodes[dealer] = liar
    sent: dict[str, bytes] = {}

    def answer(stage: str, node: int, data: bytes) -> bytes:
        answer = machines.answer(stage, node, data)
        if node == dealer:
            sent[stage] = answer
        return answer

    with suppress(Refused):
        _play(scenario, machines, answer)
    honest = {stage: recorded.from_nodes[stage][dealer] for stage in sent}
    messages = {stage: Splice.between(honest[stage], data) for stage, data in sent.items() if data != honest[stage]}
    return DishonestDealer(name, session, dealer, messages, ends)


# --- Files -----------------------------------------------------------------------------------------------------------


def write(cases: list[DishonestDealer], folder: Path = FOLDER) -> None:
    """Write `dealers.json`."""
    write_file(folder / DEALERS, {"dealers": [asdict(case) for case in cases]})


def load(folder: Path = FOLDER) -> list[DishonestDealer]:
    """Read `dealers.json`."""
    entries = json.loads((folder / DEALERS).read_text())["dealers"]
    return [
        DishonestDealer(**entry | {"messages": {stage: Splice(**each) for stage, each in entry["messages"].items()}})
        for entry in entries
    ]
