"""What a node has signed, and holds to: a round's statement is on disk before the signature under it leaves.

From then on the node is locked to that round. It joins no other, signs no other statement on the same predecessor, and
offers what it signed, until it has that round's receipt or a later one. Everything is in the node's store: a crash
forgets no lock.
"""

from __future__ import annotations

from protocols.errors import WrongSession
from protocols.receipts import SIGNING_LABEL, Statement
from protocols.wire import decode, encode
from secfed.node import restored
from secfed.node.parts import NodeParts
from secfed.rounds.chain import Chain
from secfed.rounds.channel import Link, Offer


def lock(parts: NodeParts, chain: Chain, statement: Statement, packed: bytes) -> bytes:
    """Write down what this node signs for a round; from here on it signs and joins on no older predecessor.

    Args:
        parts: what the node owns.
        chain: this node's; the statement was checked to be its next.
        statement: what is signed.
        packed: the sum that it covers.

    Returns:
        The offer, with the signature.

    Raises:
        LocalError: this node's files were put back from a copy, and it may have signed before.
        WrongSession: it has signed for a round on the same predecessor, or for this round or a later one.
    """
    restored.check_restored(parts, chain)
    if unfinished(parts, chain) is not None:  # every statement that gets here follows this node's last receipt
        raise WrongSession(
            "a statement that passes over a round which this node has signed", sender=None, field="statement"
        )
    signature = parts.identity.sign(SIGNING_LABEL, statement.digest())
    offer = encode(Offer(chain.study.index_of(parts.name), statement, packed, signature))
    try:
        parts.store.lock(chain.study.digest, statement.round_number, offer)
    except ValueError as error:
        raise WrongSession(str(error), sender=None, field="round_number") from error
    return offer


def unfinished(parts: NodeParts, chain: Chain) -> bytes | None:
    """The offer of a round that this node signed for and that its chain has not reached."""
    offer = parts.store.locked(chain.study.digest)
    if offer is None:
        return None
    return offer if _read(offer, parts, chain).statement.round_number > chain.round_number else None


def offer_beyond(parts: NodeParts, chain: Chain, links: tuple[Link, ...]) -> bytes | None:
    """The unfinished offer, if these links do not reach its round: they bring nothing that could replace it."""
    offer = unfinished(parts, chain)
    if offer is None:
        return None
    locked = _read(offer, parts, chain).statement.round_number
    return offer if all(link.receipt.statement.round_number < locked for link in links) else None


def kept_sum(parts: NodeParts, chain: Chain, statement: Statement) -> bytes | None:
    """The sum behind a statement, if this node signed exactly that statement."""
    offer = parts.store.locked(chain.study.digest, statement.round_number)
    if offer is None:
        return None
    held = _read(offer, parts, chain)
    return held.vector if held.statement == statement else None


def _read(offer: bytes, parts: NodeParts, chain: Chain) -> Offer:
    """An offer from this node's own store."""
    return decode(Offer, offer, chain.limits, chain.study.index_of(parts.name))
