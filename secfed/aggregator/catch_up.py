"""How the aggregator brings nodes up to date that have missed receipts, before a round and after the last one.

A node says where it stands. It is sent what it lacks and asked again, as long as it gets further: one that does not
move is given up, so that nobody can keep the others waiting.
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
        """Where nodes stood that were behind when they were last asked."""
        self._limits = limits

    def bring_up(
        self,
        requests: Mapping[int, bytes],
        links: Sequence[Link],
        exchange: Callable[[Mapping[int, bytes]], Mapping[int, bytes]],
        header: Callable[[int, tuple[Link, ...]], Message],
    ) -> tuple[dict[int, bytes], dict[int, Offer]]:
        """Send headers; send nodes that are behind what they lack, and ask them again until they hold all of it.

        Args:
            requests: the first header for each node.
            links: every receipt and its sum, in order.
            exchange: carries them.
            header: the next one for a node, with these links.

        Returns:
            What nodes answered that are neither behind nor locked, and the offers of those that are locked to a round
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
        """The links after the node's last one if it says that it is behind; None if it advertised; () to give up."""
        standing = read_answer(Standing, node, answer, self._limits)
        if standing is None:
            return None
        earlier = self.standings.get(node)
        self.standings[node] = standing
        if earlier is not None and earlier.round_number >= standing.round_number:
            return ()  # it did not move with the links it got: asking again would not end
        missing = [link for link in links if link.receipt.statement.round_number > standing.round_number]
        return tuple(missing[:LINKS_MAX])


def read_answer(kind: type[AnyMessage], node: int, answer: bytes, limits: Limits) -> AnyMessage | None:
    """The answer, if it is a message of this kind and names its sender rightly."""
    try:
        if message_type(answer, most_answer_bytes(limits), node) != kind.TYPE:
            return None
        message = decode(kind, answer, limits, node)
    except ProtocolError:
        return None  # the aggregator's machine rejects it with the reason
    return message if getattr(message, "sender", None) == node else None
