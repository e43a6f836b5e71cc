"""Receipts without a quorum, and sums that no receipt covers, given to a node that has to catch up."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.simulator.federation import LAYOUT, Federation
from audits.simulator.world import CORRUPT, VICTIM, Outcome
from crypto.identity import Identity
from crypto.kdf import digest
from protocols import encoding
from protocols.messages import Signature
from protocols.receipts import SIGNING_LABEL, Receipt, Statement, sum_digest
from protocols.wire import encode
from secfed.rounds.channel import EchoRequest, Offer

HONEST_QUORUM = 5


class _BadLink(FederationAttack):
    """The victim has seen nothing since the start of the study; the attacker offers it a link of its own making."""

    goal = "move the victim to a model of the attacker's choice"

    @abstractmethod
    def link(self, federation: Federation) -> tuple[Receipt, bytes]:
        """The receipt and the sum that the victim is given."""

    def attack(self, federation: Federation) -> Outcome:
        before = federation.state(VICTIM)
        receipt, packed = self.link(federation)
        chosen = federation.chain.next_state(packed, receipt.statement.survivors).digest(LAYOUT)
        federation.give(VICTIM, receipt, packed)
        return federation.log.outcome(before != federation.state(VICTIM) == chosen)


class ForgedReceipt(_BadLink):
    """The right number of signatures, none of them by the roster."""

    name = "forged receipt"

    def link(self, federation: Federation) -> tuple[Receipt, bytes]:
        packed = _chosen_sum(federation)
        statement = _statement(federation, packed, federation.everyone[1:], HONEST_QUORUM)
        forger = Identity(digest("forger"))
        return _sign(statement, dict.fromkeys(range(1, 1 + HONEST_QUORUM), forger)), packed


class UnderSignedReceipt(_BadLink):
    """A statement with the right quorum, signed by the colluder alone."""

    name = "under-signed receipt"

    def link(self, federation: Federation) -> tuple[Receipt, bytes]:
        packed = _chosen_sum(federation)
        statement = _statement(federation, packed, federation.everyone[1:], HONEST_QUORUM)
        return _sign(statement, {CORRUPT: federation.keys[CORRUPT]}), packed


class UnderstatedCohort(_BadLink):
    """A statement about a cohort so small that the colluder would be its quorum."""

    name = "receipt with an understated cohort"

    def link(self, federation: Federation) -> tuple[Receipt, bytes]:
        packed = _chosen_sum(federation)
        statement = _statement(federation, packed, (4, 5, CORRUPT), 1)
        return _sign(statement, {CORRUPT: federation.keys[CORRUPT]}), packed

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.quorum_not_from_the_roster(),)


class ForgedSum(_BadLink):
    """The victim was away in round 1. It gets the true receipt, and another sum."""

    name = "catch-up with a forged sum"

    def link(self, federation: Federation) -> tuple[Receipt, bytes]:
        closed = federation.round(1, federation.everyone[1:])
        if closed is None:
            raise RuntimeError("the honest round before the attack failed")
        return closed[0], _chosen_sum(federation)


class ReSignedReceipt(FederationAttack):
    """One statement with the signatures of some nodes, and again with those of others: two receipts of one round."""

    name = "re-signed receipt"
    goal = "put two honest nodes at the same state on different heads of the chain"

    def attack(self, federation: Federation) -> Outcome:
        closed = federation.round(1, federation.everyone)
        if closed is None:
            raise RuntimeError("the honest round before the attack failed")
        receipt, packed = closed
        for node, signatures in ((0, receipt.signatures[:-1]), (1, receipt.signatures[1:])):
            federation.give(node, Receipt(receipt.statement, signatures), packed)
        heads = {federation.nodes[node].chain.head for node in (0, 1)}
        return federation.log.outcome(len(heads) == 2)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.receipts_digested_with_signatures(),)


class HollowEcho(FederationAttack):
    """The attacker asks the victim to co-sign a round that it has not seen, with only the colluder's signature."""

    name = "echo on the colluders' word alone"
    goal = "have an honest node sign a statement about a round that never was"

    def attack(self, federation: Federation) -> Outcome:
        packed = _chosen_sum(federation)
        statement = _statement(federation, packed, federation.everyone, HONEST_QUORUM)
        signatures = _sign(statement, {CORRUPT: federation.keys[CORRUPT]}).signatures
        answer = federation.send(VICTIM, encode(EchoRequest(statement, packed, signatures)))
        public, content = federation.keys[VICTIM].public, statement.digest()
        signed = bool(answer) and public.verifies(federation.read(Offer, answer).signature, SIGNING_LABEL, content)
        return federation.log.outcome(signed)


def _chosen_sum(federation: Federation) -> bytes:
    """A sum that moves the model where the attacker wants it."""
    shape = federation.chain.shape
    return encoding.pack(encoding.to_ring(np.full(shape.dimension, 12345, np.int64), shape, 1 << 20), shape)


def _statement(federation: Federation, packed: bytes, cohort: tuple[int, ...], quorum: int) -> Statement:
    chain = federation.chain
    context = chain.context(1)
    return Statement(
        study=context.study,
        round_number=1,
        predecessor=context.predecessor,
        context=context.digest(),
        session=digest("no such session"),
        cohort=cohort,
        sharers=cohort,
        survivors=cohort,
        quorum=quorum,
        old_state=context.state,
        new_state=chain.next_state(packed, cohort).digest(LAYOUT),
        sum_digest=sum_digest(packed),
    )


def _sign(statement: Statement, keys: dict[int, Identity]) -> Receipt:
    content = statement.digest()
    return Receipt(statement, tuple(Signature(node, keys[node].sign(SIGNING_LABEL, content)) for node in sorted(keys)))
