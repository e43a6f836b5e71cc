"""A node's own copy of the study's chain of receipts. The node catches up with it from receipts and sums alone.

Each receipt is checked against the study and the ones before it, and the state behind it is computed here
(`secfed.rounds.chain`). A link is on disk before the node goes by it. After a restart the state is computed again from
the links on disk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from protocols.receipts import Receipt, Statement
from protocols.wire import decode, encode
from secfed.node import locks, restored
from secfed.node.parts import NodeParts
from secfed.rounds.chain import Chain
from secfed.rounds.channel import Link
from secfed.study.manifest import Study


class Replica:
    """One node's chain: in memory, and in its store."""

    def __init__(self, study: Study, parts: NodeParts) -> None:
        """Compute the state from the links on disk.

        Args:
            study: the study.
            parts: what the node owns.
        """
        self.chain = Chain(study, parts.trainer.layout, parts.trainer.first_state())
        for data, packed in parts.store.links(study.digest):
            receipt = decode(Receipt, data, self.chain.limits, study.index_of(parts.name))
            self.chain.adopt(receipt, packed)
            self._release(receipt, parts)  # a crash may have come between the link and the ledger's entry

    def catch_up(self, links: tuple[Link, ...], parts: NodeParts, compare: Callable[[Statement], bool]) -> None:
        """Adopt the receipts that this node lacks, as far as their sums are there.

        Args:
            links: in the order of the chain; those that are here already are passed over.
            parts: what the node owns.
            compare: compares a statement with what the node was shown of that round, and tells the owner. What it
                finds does not matter here: a receipt has its quorum of signatures, whatever this node was shown.

        Raises:
            RemoteError: a link does not follow from the study and the links before it.
            LocalError: a receipt names this node as a survivor, and its files do not know of it.
            LedgerError: the ledger refuses.
        """
        for link in links:
            if link.receipt.statement.round_number > self.chain.round_number and not self._append(link, parts, compare):
                return  # the next opening is answered with where this node stands

    def _append(self, link: Link, parts: NodeParts, compare: Callable[[Statement], bool]) -> bool:
        """Make this link the next of the chain. False if the sum that it covers is not there."""
        statement = link.receipt.statement
        packed = link.vector or locks.kept_sum(parts, self.chain, statement)
        if packed is None:
            return False
        ahead = copy.copy(self.chain)
        ahead.adopt(link.receipt, packed)
        compare(statement)
        if self.chain.study.index_of(parts.name) in statement.survivors:
            restored.check_spend(parts, self.chain, statement.round_number)
        parts.store.append_link(self.chain.study.digest, ahead.length, encode(link.receipt), packed)
        self.chain = ahead
        self._release(link.receipt, parts)
        return True

    def _release(self, receipt: Receipt, parts: NodeParts) -> None:
        """Note in the ledger that a round which it has committed has its receipt."""
        ledger, study, statement = parts.ledger, self.chain.study, receipt.statement
        digest, number = study.digest, statement.round_number
        took_part = study.index_of(parts.name) in statement.survivors and ledger.holds("commit", digest, number)
        if took_part and not ledger.holds("release", digest, number):
            ledger.release(digest, number, receipt.digest())
