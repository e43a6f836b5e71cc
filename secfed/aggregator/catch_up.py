"""Brings nodes that missed receipts up to date, before a round and after the last one.

A node says which receipt it has last. The aggregator sends what it lacks and asks again, as long as the node moves on.
It gives up a node that does not move, so that no node can keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocols.errors import ProtocolError
from protocols.wire import AnyMessage, Limits, Message, decode, encode, message_type
from secfed.rounds.channel import LINKS_MAX, Link, Offer, Standing, most_answer_bytes


class CatchUp:
    """Brings nodes up to date, one round's opening after the other."""

    def __init__(self, limits: Limits) -> None:
        """
        Args:
            limits: of the study's messages.
        """
        self.standings: dict[int, Standing] = {}
        """Where the nodes that were behind stood when they were last asked."""
        self._limits = limits

    def bring_up(
        self,
        requests: Mapping[int, bytes],
        links: Sequence[Link],
        exchange: Callable[[Mapping[int, bytes]], Mapping[int, bytes]],
        header: Callable[[int, tuple[Link, ...]], Message],
    ) -> tuple[dict[int, bytes], dict[int, Offer]]:
        """Send headers. Send nodes that are behind the links that they lack, and ask them again until they have all.

        Args:
            requests: the first header for each node.
            links: every receipt and its sum, in order.
            exchange: carries them.
            header: the next one for a node, with these links.

        Returns:
            The answers of nodes that are neither behind nor locked, and the offers of nodes that are locked to a round
            without a receipt.
        """
        answers: dict[int, bytes] = {}
        offers: dict[int, Offer] = {}
        self.standings = {}
        while requests:
            behind: dict[int, bytes] = {}
            for node, answer in exchange(requests).items():
                offer = read_answer(Offer, node, answer, self._limits)
                missing = self._missing_links(node, answer, links)
                if offer is not None:
                    offers[node] = offer
                elif missing:
                    behind[node] = encode(header(node, missing))
                elif missing is None:
                    answers[node] = answer
            requests = behind
        return answers, offers

    def _missing_links(self, node: int, answer: bytes, links: Sequence[Link]) -> tuple[Link, ...] | None:
        """The links after the node's last one if it says that it is behind; None if it does not; () to give it up."""
        standing = read_answer(Standing, node, answer, self._limits)
        if standing is None:
            return None
        earlier = self.standings.get(node)
        self.standings[node] = standing
        if earlier is not None and earlier.round_number >= standing.round_number:
            return ()  # it did not move with the links that it got, so asking again would never end
        missing = [link for link in links if link.receipt.statement.round_number > standing.round_number]
        return tuple(missing[:LINKS_MAX])


def read_answer(kind: type[AnyMessage], node: int, answer: bytes, limits: Limits) -> AnyMessage | None:
    """The answer, if it is a message of this kind that names this node as its sender."""
    try:
        if message_type(answer, most_answer_bytes(limits), node) != kind.TYPE:
            return None
        message = decode(kind, answer, limits, node)
    except ProtocolError:
        return None  # the aggregator's state machine rejects it with the reason
    return message if getattr(message, "sender", None) == node else None
