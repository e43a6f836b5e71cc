"""What a node was shown of a session against what its receipt says: the owner is told where the two differ.

An honest aggregator shows every node the same sets. One that does not leaves a trace at the node that it misled, as
soon as a receipt of that round comes: so the node compares. Nothing of the node's input is lost by it, because masks
are bound to what the node was shown (protocols/SPEC.md, section 5).
"""

from __future__ import annotations

from protocols.client import Client
from protocols.receipts import Statement
from secfed.study import Study


def difference(study: Study, client: Client | None, statement: Statement) -> str | None:
    """How a statement differs from what this node saw of the same round, for its owner.

    Args:
        study: gives the names.
        client: the node's last session; None if it has had none since it started.
        statement: what a receipt, or a request to co-sign, says of a round.

    Returns:
        A line; None where both agree as far as the node got, or where it saw nothing of that round.
    """
    if client is None or client.config.context.round_number != statement.round_number or not client.session:
        return None
    if client.session != statement.session:
        return _line(statement, "this node was in another session of that round: with another cohort, or other keys")
    for seen, said, name in (
        (client.sharers, statement.sharers, "sharers (U2)"),
        (client.survivors, statement.survivors, "survivors (U3)"),
    ):
        if seen and seen != said:
            names = _names(study, set(seen) ^ set(said))
            return _line(statement, f"this node was shown other {name}; the two differ in {names}")
    return None


def _line(statement: Statement, what: str) -> str:
    return (
        f"round {statement.round_number} as its receipt tells it is not as this node saw it: {what}. The aggregator "
        "shows different sites different things: tell the other sites. This node's input stayed under its masks"
    )


def _names(study: Study, nodes: set[int]) -> str:
    return ", ".join(study.roster[node].name if node < len(study.roster) else str(node) for node in sorted(nodes))
