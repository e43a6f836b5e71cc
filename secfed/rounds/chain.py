"""The chain of receipts as one party holds it, and the model state that it leads to.

A party checks every link against the study, the roster and the link before it. It computes the state after a link from
the sum, and never accepts one. So nodes at the same receipt hold the same bits, and a node that was away catches up
from receipts and sums alone.
"""

from __future__ import annotations

from protocols import encoding
from protocols.errors import NotCanonical, WrongSession
from protocols.parameters import RoundShape
from protocols.receipts import Receipt, Statement, check_statement, sum_digest, verify_receipt
from protocols.session import Context
from protocols.wire import Limits
from secfed.rounds.strategies import Layout, ModelState, first_state, next_state
from secfed.study.manifest import Study


class Chain:
    """Where a party stands in a study."""

    def __init__(self, study: Study, layout: Layout, first: ModelState) -> None:
        """
        Args:
            study: the signed study; its digest is the predecessor of the first receipt.
            layout: names and shapes of the trained parameters.
            first: the first adapter, which every party derives from the study. Its moments are ignored: the first ones
                follow from the study, too.
        """
        self.study = study
        self.layout = layout
        self.state = first_state(study, first.adapter)
        self.head = study.digest
        self.round_number = 0
        self.length = 0
        dimension = first.adapter.size + study.mechanism.elements_beside_gradient
        self.shape = RoundShape(dimension, study.overflow_certificate.ring_bits)
        self.limits = Limits(len(study.roster), self.shape.packed_bytes)
        """Of the messages about this study."""

    def context(self, round_number: int) -> Context:
        """The values to which a round with this number, on top of this chain, is bound."""
        return Context(
            study=self.study.digest,
            round_number=round_number,
            predecessor=self.head,
            base_model=bytes.fromhex(self.study.model.digest.removeprefix("sha256:")),
            state=self.state.digest(self.layout),
            shape=self.shape,
        )

    def next_state(self, packed: bytes, survivors: tuple[int, ...]) -> ModelState:
        """The state that a published sum leads to.

        Raises:
            NotCanonical: the bytes are not a packed vector of this study.
        """
        try:
            total = encoding.from_ring(encoding.unpack(packed, self.shape), self.shape)
        except ValueError as error:
            raise NotCanonical(str(error), sender=None, field="vector") from error
        return next_state(self.study, self.state, total, survivors)

    def adopt(self, receipt: Receipt, packed: bytes) -> None:
        """Move to the state after the next receipt.

        Raises:
            RemoteError: the receipt, its place in the chain, its sum or its state is not valid. Nothing was changed.
        """
        statement = receipt.statement
        verify_receipt(
            receipt,
            study=self.study.digest,
            predecessor=self.head,
            rules=self.study.cohort_rules(),
            roster=self.study.identities,
        )
        self.state = self._state_after(statement, packed)
        self.head = receipt.digest()
        self.round_number = statement.round_number
        self.length += 1

    def check_next(self, statement: Statement, packed: bytes) -> None:
        """Check everything about a statement that would come next, except signatures.

        Raises:
            RemoteError: it could not be adopted here, whoever signed it.
        """
        check_statement(
            statement,
            study=self.study.digest,
            predecessor=self.head,
            rules=self.study.cohort_rules(),
            roster_size=len(self.study.roster),
        )
        self._state_after(statement, packed)

    def _state_after(self, statement: Statement, packed: bytes) -> ModelState:
        if not self.round_number < statement.round_number <= self.study.algorithm.rounds:
            raise WrongSession("a round number out of order", sender=None, field="round_number")
        context = self.context(statement.round_number)
        if context.is_of_version_1(statement.context):
            raise WrongSession(
                "a receipt of protocol version 1, whose masks did not cover which sharers a node was shown, so that "
                "more than the sum may have been given away. This version takes no such receipt: run the study again",
                sender=None,
                field="context",
            )
        if statement.context != context.digest() or statement.old_state != context.state:
            raise WrongSession("a receipt for another model or study", sender=None, field="context")
        if statement.sum_digest != sum_digest(packed):
            raise WrongSession("not the sum that the receipt covers", sender=None, field="sum_digest")
        following = self.next_state(packed, statement.survivors)
        if statement.new_state != following.digest(self.layout):
            raise WrongSession("the sum does not lead to the state in the receipt", sender=None, field="new_state")
        return following
