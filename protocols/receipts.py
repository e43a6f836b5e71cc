"""The lasting record of a round: the statement that its survivors sign, and the receipt with at least t of their
signatures.

A receipt's digest is that of its *statement*. Signatures are not unique, so re-signing could fork a chain over them.
The statement names its predecessor's digest; for the first one, that is the study's digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from crypto.identity import PublicIdentity
from crypto.kdf import DIGEST_BYTES, digest
from protocols.errors import BadSignature, NotCanonical, WrongLength, WrongSession
from protocols.messages import Signature
from protocols.parameters import CohortRules
from protocols.session import Context
from protocols.wire import (
    IndexSet,
    Message,
    Number,
    Record,
    Sequence,
    Struct,
    canonical,
    exactly,
    to_map,
    wired,
)

SIGNING_LABEL = "close statement"


@dataclass(frozen=True, slots=True)
class Statement(Record):
    """Everything that a round decided."""

    study: bytes = exactly(DIGEST_BYTES)
    round_number: int = wired(Number())
    predecessor: bytes = exactly(DIGEST_BYTES)
    """Digest of the receipt before."""
    context: bytes = exactly(DIGEST_BYTES)
    session: bytes = exactly(DIGEST_BYTES)
    cohort: tuple[int, ...] = wired(IndexSet())
    sharers: tuple[int, ...] = wired(IndexSet())
    survivors: tuple[int, ...] = wired(IndexSet())
    quorum: int = wired(Number())
    old_state: bytes = exactly(DIGEST_BYTES)
    new_state: bytes = exactly(DIGEST_BYTES)
    sum_digest: bytes = exactly(DIGEST_BYTES)

    def digest(self) -> bytes:
        return digest("statement", canonical(to_map(self)))


def statement_of(
    context: Context,
    session: bytes,
    groups: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    quorum: int,
    packed: bytes,
    new_state: bytes,
) -> Statement:
    """The statement of a round. Node and aggregator each build it for themselves.

    Args:
        context: the context to which the round was bound.
        session: its session id.
        groups: U1, U2 and U3.
        quorum: t.
        packed: the published sum.
        new_state: digest of the state that the sum leads to.
    """
    cohort, sharers, survivors = groups
    return Statement(
        study=context.study,
        round_number=context.round_number,
        predecessor=context.predecessor,
        context=context.digest(),
        session=session,
        cohort=cohort,
        sharers=sharers,
        survivors=survivors,
        quorum=quorum,
        old_state=context.state,
        new_state=new_state,
        sum_digest=sum_digest(packed),
    )


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """A statement and the signatures of t or more of its survivors."""

    TYPE: ClassVar[str] = "receipt"
    statement: Statement = wired(Struct(Statement))
    signatures: tuple[Signature, ...] = wired(Sequence(Struct(Signature)))

    def digest(self) -> bytes:
        """The statement's digest: signatures are evidence, not content."""
        return self.statement.digest()


def sum_digest(packed: bytes) -> bytes:
    """Digest of a published sum, over its packed bytes."""
    return digest("sum", packed)


def verify_receipt(
    receipt: Receipt,
    *,
    study: bytes,
    predecessor: bytes,
    rules: CohortRules,
    roster: tuple[PublicIdentity, ...],
) -> None:
    """Check a receipt against the study, the roster and its place in the chain. Trusts nothing in it.

    Raises:
        WrongSession: another study, or a broken link.
        WrongLength: a cohort with nodes outside the roster, or a quorum that does not follow from the roster.
        CohortTooSmall: a cohort below the rules at some stage.
        NotCanonical: sets that are not nested, or signers that are not survivors, each once, in order.
        BadSignature: fewer than t distinct survivors signed exactly this statement.
    """
    statement = receipt.statement
    check_statement(statement, study=study, predecessor=predecessor, rules=rules, roster_size=len(roster))
    valid = count_signers(statement, receipt.signatures, roster)
    if valid < statement.quorum:
        raise BadSignature(f"{valid} valid signatures where {statement.quorum} are needed", sender=None)


def check_statement(
    statement: Statement, *, study: bytes, predecessor: bytes, rules: CohortRules, roster_size: int
) -> None:
    """Check everything in a statement that does not need the model: its place in the chain, its sets, its quorum.

    Raises:
        WrongSession, WrongLength, CohortTooSmall, NotCanonical: as `verify_receipt` does.
    """
    if statement.study != study:
        raise WrongSession("a receipt of another study", sender=None, field="study")
    if statement.predecessor != predecessor:
        raise WrongSession("a receipt that does not follow the last one", sender=None, field="predecessor")
    cohort, sharers, survivors = (set(part) for part in (statement.cohort, statement.sharers, statement.survivors))
    if not survivors <= sharers <= cohort:
        raise NotCanonical("survivors, sharers and cohort are not nested", sender=None, field="survivors")
    if not cohort <= set(range(roster_size)):
        raise WrongLength("a cohort with nodes that the roster does not have", sender=None, field="cohort")
    size = len(cohort)
    for name, members in (
        ("the cohort", cohort),
        ("the set of sharers", sharers),
        ("the survivor set", survivors),
    ):
        rules.check_stage(name, len(members), size)
    if statement.quorum != rules.quorum(size):
        raise WrongLength("a quorum that this roster and cohort do not give", sender=None, field="quorum")


def count_signers(statement: Statement, signatures: tuple[Signature, ...], roster: tuple[PublicIdentity, ...]) -> int:
    """The number of distinct survivors that really signed this statement.

    Raises:
        NotCanonical: signers that are not survivors, or not in roster order, each once.
    """
    order = [entry.signer for entry in signatures]
    if order != sorted(set(order)) or not set(order) <= set(statement.survivors):
        raise NotCanonical("signers not survivors in roster order, each once", sender=None, field="signatures")
    return len(valid_signers(statement, {entry.signer: entry.signature for entry in signatures}, roster))


def valid_signers(
    statement: Statement, signatures: Mapping[int, bytes], roster: tuple[PublicIdentity, ...]
) -> frozenset[int]:
    """Which of these signers really signed this statement."""
    content = statement.digest()
    return frozenset(
        signer for signer, signature in signatures.items() if roster[signer].verifies(signature, SIGNING_LABEL, content)
    )
