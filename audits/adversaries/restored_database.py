"""Restored databases: a node's files are copied, the node continues, and then the files are restored from the copy.

The node has forgotten rounds, signatures and spend, and its files do not show it. The defences: one such node counts as
a colluder, and the quorum tolerates c of them; an owner who raises the floor keeps the node from signing until the
others are past what it forgot; a node stops at a receipt of a round that its ledger does not contain; and peers refuse
a ledger that is shorter than they have seen.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.adversaries.two_cohorts import HALVES
from audits.simulator.federation import LAYOUT, Federation, FormulaTrainer
from audits.simulator.world import CORRUPT, VICTIM, Outcome
from protocols import checksum, encoding
from protocols.errors import ProtocolError
from protocols.messages import Published, Signature
from protocols.receipts import SIGNING_LABEL, Receipt, valid_signers
from protocols.wire import decode, encode, message_type, most_map_bytes
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest, Offer, RoundOpening

WITH_VICTIM = ((VICTIM, 1, 2, 3), (VICTIM, 4, 5, CORRUPT))
"""Two cohorts that share only the victim."""


class RestoredInTwoCohorts(FederationAttack):
    """No node colludes here; the restored one, whose owner noticed nothing, stands in for the colluder.

    The removed rule is t itself, not one of its uses: statements contain t, and the coordinator here, honest except for
    the cohorts, accepts only its own t.
    """

    name = "restored node in two cohorts of one round"
    goal = "obtain two sums, and two receipts, of one round, from cohorts that share only a restored node"

    def attack(self, federation: Federation) -> Outcome:
        federation.copy_files(VICTIM)
        closed = []
        for cohort in WITH_VICTIM:
            closed.append(federation.round(1, cohort))
            federation.put_back(VICTIM)
        return federation.log.outcome(None not in closed)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.quorum_one_too_low(),)


class _TwoSums(FederationAttack):
    """A colluder's checksum key gives each half of round 1 a valid sum of its own; neither half is a quorum."""

    restored: tuple[int, ...]

    def two_sums(self, federation: Federation) -> tuple[Offer, ...]:
        """What every node has signed for round 1, in roster order, after restoring the nodes to be restored."""
        for node in self.restored:
            federation.copy_files(node)
        federation.tamper = lambda node, data: _shifted(federation, data) if node in HALVES[1] else data
        federation.round(1, federation.everyone)
        second = encode(RoundOpening((), federation.chain.context(2).opening()))
        offers = tuple(federation.read(Offer, federation.send(node, second)) for node in federation.everyone)
        for node in self.restored:
            federation.put_back(node)
            federation.nodes[node].parts.store.raise_floor(federation.study.digest, 1)
        return offers

    def echo(self, federation: Federation, node: int, offers: Iterable[Offer]) -> Offer | None:
        """Have a node co-sign what others have signed."""
        shown = tuple(offers)
        signatures = tuple(Signature(offer.sender, offer.signature) for offer in shown)
        answer = federation.send(node, encode(EchoRequest(shown[0].statement, shown[0].vector, signatures)))
        return federation.read(Offer, answer) if answer else None

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.restores_not_announced(),)


class SecondSignature(_TwoSums):
    """The victim signed the first half's sum. Then it is restored, and sees what the second half signed."""

    name = "restored node that signs a round again"
    goal = "have an honest node sign two statements of one round"
    restored = (VICTIM,)

    def attack(self, federation: Federation) -> Outcome:
        offers = self.two_sums(federation)
        again = self.echo(federation, VICTIM, [offers[node] for node in HALVES[1][:2]])
        signed = [offer for offer in (offers[VICTIM], again) if offer is not None and _is_signed(federation, offer)]
        return federation.log.outcome(len({offer.statement.digest() for offer in signed}) == 2)


class ForkedByRestored(_TwoSums):
    """With two restored nodes, one of each half, and the colluder, both statements reach the quorum."""

    name = "chain forked with restored nodes"
    goal = "obtain two receipts of one round, over two different sums"
    restored = (VICTIM, 3)

    def attack(self, federation: Federation) -> Outcome:
        offers = self.two_sums(federation)
        verified = []
        for half, other in (HALVES, HALVES[::-1]):
            signed = [offers[node] for node in half if node != CORRUPT]
            echoed = self.echo(federation, other[0], signed)
            verified.append(_makes_receipt(federation, signed if echoed is None else [*signed, echoed]))
        return federation.log.outcome(all(verified))


class RestoredLedger(FederationAttack):
    """A dishonest owner restores the ledger from before two rounds, and takes part in the third."""

    name = "restored (rewound) ledger"
    goal = "complete a round with a node whose ledger has lost rounds that its peers took part in with it"

    def attack(self, federation: Federation) -> Outcome:
        federation.copy_files(CORRUPT)
        for number in (1, 2):
            federation.adopt(_honest(federation, number))
        federation.put_back(CORRUPT, ledger_only=True)
        return federation.log.outcome(_hides_spend(federation, CORRUPT, 3))


class ForgottenSpend(FederationAttack):
    """The victim forgets only one round: its next advertised ledger number is not below the one that its peers have
    seen."""

    name = "restored node that forgot one round's spend"
    goal = "have an honest node, restored unnoticed, go on with a ledger that has lost a round"

    def attack(self, federation: Federation) -> Outcome:
        federation.copy_files(VICTIM)
        closed = _honest(federation, 1)
        federation.put_back(VICTIM)
        federation.adopt(closed)
        federation.give(VICTIM, *closed)
        return federation.log.outcome(_hides_spend(federation, VICTIM, 2))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.forgotten_spend_not_committed(),)


def _honest(federation: Federation, number: int) -> tuple[Receipt, bytes]:
    closed = federation.round(number, federation.everyone)
    if closed is None:
        raise RuntimeError("the honest round before the attack failed")
    return closed


def _hides_spend(federation: Federation, node: int, number: int) -> bool:
    """Whether the node is among this round's survivors while its ledger lacks a round up to it."""
    closed = federation.round(number, federation.everyone)
    if closed is None or node not in closed[0].statement.survivors:
        return False
    ledger = federation.nodes[node].parts.ledger
    return not all(ledger.holds("commit", federation.study.digest, each) for each in range(1, number + 1))


def _shifted(federation: Federation, data: bytes) -> bytes:
    """The published sum, one step higher, with the tag from the colluder's key; other messages unchanged."""
    shape, client = federation.chain.shape, federation.nodes[CORRUPT]._session.client
    limits = federation.limits
    if client is None or message_type(data, most_map_bytes(RoundOpening, limits), None) != Published.TYPE:
        return data
    honest = decode(Published, data, limits, None)
    total = encoding.from_ring(encoding.unpack(honest.vector, shape), shape) + np.int64(1)
    tag = client._checksum_key().tag(total, len(federation.everyone))
    packed = encoding.pack(encoding.to_ring(total, shape, 1 << 62), shape)
    return encode(Published(honest.session, packed, checksum.encode_tag(tag)))


def _is_signed(federation: Federation, offer: Offer) -> bool:
    return bool(valid_signers(offer.statement, {offer.sender: offer.signature}, federation.study.identities))


def _makes_receipt(federation: Federation, offers: Iterable[Offer]) -> bool:
    """Whether a verifier new to the chain accepts these signatures with the colluder's own as a receipt."""
    by_node = {offer.sender: offer.signature for offer in offers}
    statement, packed = next((offer.statement, offer.vector) for offer in offers)
    by_node[CORRUPT] = federation.keys[CORRUPT].sign(SIGNING_LABEL, statement.digest())
    receipt = Receipt(statement, tuple(Signature(node, by_node[node]) for node in sorted(by_node)))
    chain = Chain(federation.study, LAYOUT, FormulaTrainer.first_state())
    try:
        chain.adopt(receipt, packed)
    except ProtocolError as error:
        federation.log.refuse(VICTIM, error)
        return False
    return True
