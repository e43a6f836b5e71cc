"""Gives a round whose closing was cut short its receipt: from the nodes that signed, and from echoes of the others.

A node that signed a round is locked to it, and offers what it signed. If more than c survivors signed, at least one of
them is honest and saw the sum. Then the other survivors sign on their word (`secfed.node.echo` is the node's side).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocols.errors import RemoteError
from protocols.messages import Signature
from protocols.receipts import Receipt, Statement, valid_signers
from protocols.wire import encode
from secfed.aggregator.catch_up import read_answer
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest, Link, Offer

Exchange = Callable[[Mapping[int, bytes]], Mapping[int, bytes]]


def late_link(offers: Mapping[int, Offer], chain: Chain, exchange: Exchange) -> Link | None:
    """The next link of the chain, if these offers are enough to make one.

    Args:
        offers: of nodes that are locked to a round without a receipt.
        chain: up to the last receipt.
        exchange: carries echo requests.
    """
    study = chain.study
    groups: dict[bytes, dict[int, Offer]] = {}
    for node, offer in offers.items():
        is_survivor = node in offer.statement.survivors  # a signature of any other node would make the receipt invalid
        if is_survivor and valid_signers(offer.statement, {node: offer.signature}, study.identities):
            groups.setdefault(offer.statement.digest(), {})[node] = offer
    for group in groups.values():
        statement, packed = next((offer.statement, offer.vector) for offer in group.values())
        try:
            chain.check_next(statement, packed)
        except RemoteError:
            continue
        if len(group) > study.cohort.colluders:
            group.update(_echoes(statement, packed, group, chain, exchange))
        if len(group) >= statement.quorum:
            return Link(Receipt(statement, _signatures(group)), packed)
    return None


def _echoes(
    statement: Statement, packed: bytes, group: Mapping[int, Offer], chain: Chain, exchange: Exchange
) -> dict[int, Offer]:
    """Ask the survivors that have not signed yet to sign."""
    request = encode(EchoRequest(statement, packed, _signatures(group)))
    echoes = {}
    for node, answer in exchange({node: request for node in statement.survivors if node not in group}).items():
        offer = read_answer(Offer, node, answer, chain.limits)
        if (
            offer is not None
            and offer.statement == statement
            and valid_signers(statement, {node: offer.signature}, chain.study.identities)
        ):
            echoes[node] = offer
    return echoes


def _signatures(group: Mapping[int, Offer]) -> tuple[Signature, ...]:
    return tuple(Signature(node, group[node].signature) for node in sorted(group))
