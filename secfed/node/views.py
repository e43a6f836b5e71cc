"""Compares what a node was shown of a session with what the receipt says, and tells the owner where they differ.

An honest aggregator shows every node the same sets. If it does not, the node that it misled can tell from the round's
receipt. The node's input stays protected in any case: masks are bound to what the node was shown (protocols/SPEC.md,
section 5).

A receipt can come late, after the next round was opened. So a node keeps what it was shown of every round that can
still get one. This is in memory only: after a restart there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocols.client import Client
from protocols.receipts import Statement
from secfed.study.manifest import Study


@dataclass(frozen=True, slots=True)
class _Shown:
    """One session as a node saw it; stages that it did not reach are empty."""

    predecessor: bytes
    session: bytes
    sharers: tuple[int, ...]
    survivors: tuple[int, ...]


class Views:
    """What one node was shown of the rounds that its chain has not passed."""

    def __init__(self, study: Study, tell_owner: Callable[[str], None]) -> None:
        """
        Args:
            study: gives the names.
            tell_owner: shows a line to the owner.
        """
        self._study = study
        self._tell_owner = tell_owner
        self._earlier: dict[int, _Shown] = {}

    def keep(self, client: Client) -> None:
        """Remember a session that ends because a newer round opens. Those on an older receipt can get none any more.

        Sessions on one receipt are as few as the attempts on one state.
        """
        ended = _shown(client)
        self._earlier = {
            number: shown for number, shown in self._earlier.items() if shown.predecessor == ended.predecessor
        }
        self._earlier[client.config.context.round_number] = ended

    def compare(self, client: Client | None, statement: Statement) -> bool:
        """Whether a statement says what this node saw of the same round. Its owner is told of a difference.

        Args:
            client: the node's last session; None if it has had none since it started.
            statement: what a receipt, or a request to co-sign, says of a round.

        Returns:
            Also true where both agree as far as the node got, or where it saw nothing of that round.
        """
        difference = self._difference(client, statement)
        if difference is not None:
            self._tell_owner(difference)
        return difference is None

    def _difference(self, client: Client | None, statement: Statement) -> str | None:
        number = statement.round_number
        is_last = client is not None and client.config.context.round_number == number
        shown = _shown(client) if client is not None and is_last else self._earlier.get(number)
        if shown is None or not shown.session:
            return None
        if shown.session != statement.session:
            return _line(
                statement, "this node was in another session of that round: with another cohort, or other keys"
            )
        for seen, said, name in (
            (shown.sharers, statement.sharers, "sharers (U2)"),
            (shown.survivors, statement.survivors, "survivors (U3)"),
        ):
            if seen and seen != said:
                names = self._names(set(seen) ^ set(said))
                return _line(statement, f"this node was shown other {name}; the two differ in {names}")
        return None

    def _names(self, nodes: set[int]) -> str:
        roster = self._study.roster
        return ", ".join(roster[node].name if node < len(roster) else str(node) for node in sorted(nodes))


def _shown(client: Client) -> _Shown:
    return _Shown(client.config.context.predecessor, client.session, client.sharers, client.survivors)


def _line(statement: Statement, what: str) -> str:
    return (
        f"round {statement.round_number} as its receipt tells it is not as this node saw it: {what}. The aggregator "
        "shows different sites different things: tell the other sites. This node's input stayed under its masks"
    )
