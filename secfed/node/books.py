"""What a node writes into its ledger in the course of a study, in the right order.

Before a process's first commit, the node writes how it runs the study (`secfed.rounds.run_facts`). It hands its ledger
over once the aggregator has said that the study is over, and has named the receipt that this node holds as the last
one. First the node writes that the study is closed. From then on it joins no round of it, so that an aggregator which
ends a study to see a ledger has really ended it. A round that was joined before may still be finished by echo; without
that, the sites would end with different models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dp.ledger_copy import LedgerCopy, copy_for
from protocols.errors import WrongSession
from secfed.rounds.channel import Link
from secfed.rounds.run_facts import facts_here
from secfed.study.manifest import Study

if TYPE_CHECKING:
    from secfed.node.node import Node
    from secfed.node.parts import NodeParts


def commit(study: Study, parts: NodeParts, round_number: int) -> None:
    """Book a round whose update is about to leave.

    Raises:
        LedgerError: the ledger refuses, and nothing may leave.
    """
    _say_how_it_runs(study, parts)
    parts.ledger.commit(study.digest, round_number)


def commit_forgotten(study: Study, parts: NodeParts) -> None:
    """After a restore, count every round that may have been joined: spend is never forgotten, at worst overstated.

    The ledger is then at least as long as it was, and peers, who remember its length, take the node back.
    """
    last = min(parts.store.raised_floor(study.digest), study.algorithm.rounds)
    for number in range(1, last + 1):
        if not parts.ledger.holds("commit", study.digest, number):
            commit(study, parts, number)


def check_open(study: Study, parts: NodeParts) -> None:
    """Refuse a round of a study that is closed.

    Raises:
        WrongSession: it is.
    """
    if parts.ledger.is_closed(study.digest):
        raise WrongSession(
            "a round of a study that was closed, and whose ledger may have been handed over: ask the aggregator's "
            "operator, and start a new study for further rounds",
            sender=None,
            field="round_number",
        )


def end_of(study: Study, links: tuple[Link, ...]) -> bytes:
    """The head of the chain at which a closing with these links says that the study ends.

    Args:
        study: the study.
        links: of the closing; the last one is the study's last receipt, and there is none where no round gave a sum.
    """
    return links[-1].receipt.digest() if links else study.digest


def hand_over(node: Node) -> LedgerCopy | None:
    """Close the study, and give the copy of the ledger to hand over; None while nobody has said that it is over.

    Raises:
        LedgerError: the ledger refuses.
    """
    study, parts, chain = node.study, node.parts, node.chain
    if node.end_named == chain.head:
        node.abandon()  # nothing more is spent
        commit_forgotten(study, parts)
        _say_how_it_runs(study, parts)
        if not parts.ledger.is_closed(study.digest):
            node.tell_owner(_closes(study, chain.round_number))
        parts.ledger.close_study(study.digest, chain.round_number, chain.state.digest(chain.layout))
    return copy_for(parts.ledger.entries(), study.digest)


def planned_end(study: Study) -> str:
    """What the owner is told of an end after the last of all planned rounds."""
    return _closes(study, study.algorithm.rounds)


def _closes(study: Study, last: int) -> str:
    """What the owner is told: an end that came early was the aggregator's choice alone."""
    planned = study.algorithm.rounds
    early = "" if last == planned else ". If that is sooner than was agreed, ask the other sites and the operator why"
    return (
        f"the aggregator says that the study is over. It ends here with the receipt of round {last} of {planned}, its "
        f"ledger is handed over, and this node joins no further round of it{early}"
    )


def _say_how_it_runs(study: Study, parts: NodeParts) -> None:
    ledger, pace = parts.ledger, parts.policy.pace
    facts = facts_here(study.digest, parts.engine, ledger.path.parent, pace.upload_after_seconds)
    ledger.run(study.digest, facts.body())
