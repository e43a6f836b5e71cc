"""How a node that missed the end of a round signs it: on the word of more than c survivors.

One of them is honest then, and saw the sum. Without echoes, a site that is cut off at the wrong moment could leave a
round without its receipt, and the sites that did sign could not go on.
"""

from __future__ import annotations

from protocols.errors import BadSignature, WrongSession
from protocols.receipts import count_signers
from secfed.node import locks
from secfed.node.parts import NodeParts
from secfed.node.session import Session
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest


def echo(message: EchoRequest, parts: NodeParts, chain: Chain, session: Session) -> bytes:
    """Sign a round's statement on the word of more than c survivors: one of them is honest and saw the sum.

    Args:
        message: the statement, its sum, and the survivors' signatures.
        parts: what the node owns.
        chain: the node's.
        session: ends if this node signs.

    Returns:
        The offer.

    Raises:
        RemoteError: the statement does not follow, is not what this node was shown, or is not vouched for.
        LocalError: this node's files were put back from a copy.
    """
    study, statement = chain.study, message.statement
    held = parts.store.locked(study.digest, statement.round_number)
    if held is not None:
        return held  # what was signed for that round, whatever is asked for now
    chain.check_next(statement, message.vector)
    if not session.compare(statement):
        raise WrongSession("an echo of a round that this node saw otherwise", sender=None, field="statement")
    if study.index_of(parts.name) not in statement.survivors:
        raise WrongSession("an echo is asked of a node that is no survivor", sender=None, field="statement")
    needed = study.cohort.colluders + 1
    if count_signers(statement, message.signatures, study.identities) < needed:
        raise BadSignature(f"an echo needs {needed} valid signatures", sender=None, field="signatures")
    offer = locks.lock(parts, chain, statement, message.vector)
    session.abandon()  # whatever its round: it stands on an older predecessor than what is signed now
    return offer
