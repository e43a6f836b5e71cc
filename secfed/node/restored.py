"""What a node does when its files may have been put back from a copy: they know less than it has done.

Such files have forgotten signatures and spend. Its owner says so (`secfed node restored`), which raises the node's
floor (`secfed.node.store`). Until its chain has passed that floor, the node takes no part. If nobody has said so, the
node notices at the first receipt that counts it among the survivors of a round which its ledger does not know.
"""

from __future__ import annotations

from protocols.errors import LocalError
from secfed.node import books
from secfed.node.parts import NodeParts
from secfed.rounds.chain import Chain


def check_restored(parts: NodeParts, chain: Chain) -> None:
    """After a restore this node is held to rounds that it has forgotten, until its chain has passed them.

    Raises:
        LocalError: the chain has not passed them.
    """
    raised = parts.store.raised_floor(chain.study.digest)
    if chain.round_number < raised:
        raise LocalError(
            f"this node's files were put back from a copy, and it may have signed for any round up to {raised}: "
            "it takes no part until there is a receipt of that round or of a later one"
        )


def check_spend(parts: NodeParts, chain: Chain, round_number: int) -> None:
    """A receipt counts this node among the survivors: then its ledger has committed that round, and not closed it.

    If it is otherwise, ledger or store are older than the round. When the owner has said so, the round is committed
    anew, so that the spend is not forgotten. When not, this node stops: it may have forgotten signatures, too.

    Raises:
        LocalError: nobody has said so.
        LedgerError: the ledger refuses.
    """
    ledger, study = parts.ledger, chain.study.digest
    committed = ledger.holds("commit", study, round_number)
    if committed and not ledger.holds("release", study, round_number):
        return
    if round_number > parts.store.raised_floor(study):
        raise LocalError(
            f"a receipt says that this node took part in round {round_number}, and its files do not know of it. "
            "Either they were put back from a copy: then ask the other sites for the highest round that they have "
            "seen, and raise this node's floor to it (`secfed node restored`). Or somebody else holds its key, or "
            "the aggregator and other nodes lie about who was summed: then tell the other sites, and do not"
        )
    if not committed:
        books.commit(chain.study, parts, round_number)
