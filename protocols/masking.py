"""The masks on a node's vector and on its checksum tag: how to add and remove them.

A self mask covers the whole input; the other nodes hold shares of its seed. Pair masks cancel between two nodes: the
one earlier in the roster adds, the other subtracts. Vector and tag are masked from the same seeds by separate labelled
children, so that no key makes two streams. All masks are derived under one view (`protocols.derivations.view_of`):
masks made under different U2 are independent.
"""

from __future__ import annotations

from crypto.prg import RingVector, add_stream, subtract_stream
from protocols import checksum
from protocols.derivations import index_bytes, pair_stream_key, self_stream_key


class MaskedSum:
    """A vector in the ring and a tag in Z_p, to add masks to or to remove them from."""

    __slots__ = ("_view", "tag", "vector")

    def __init__(self, view: bytes, vector: RingVector, tag: int) -> None:
        self._view = view
        self.vector = vector
        self.tag = tag

    def add_self_mask(self, seed: bytes, owner: int, *, remove: bool = False) -> None:
        """Add or remove the owner's self mask."""
        self._apply(self_stream_key(seed, self._view, owner), not remove)
        mask = checksum.tag_mask(seed, "self tag mask", self._view, index_bytes(owner))
        self._shift_tag(mask, not remove)

    def add_pair_mask(self, seed: bytes, holder: int, peer: int, *, remove: bool = False) -> None:
        """Apply the mask that `holder` shares with `peer` as the holder does: it adds if it is the earlier of the
        two."""
        first, second = min(holder, peer), max(holder, peer)
        positive = (holder == first) != remove
        self._apply(pair_stream_key(seed, self._view, first, second), positive)
        names = index_bytes(first), index_bytes(second)
        self._shift_tag(checksum.tag_mask(seed, "pair tag mask", self._view, *names), positive)

    def _apply(self, key: bytes, positive: bool) -> None:
        (add_stream if positive else subtract_stream)(self.vector, key)

    def _shift_tag(self, mask: int, positive: bool) -> None:
        self.tag = (self.tag + (mask if positive else -mask)) % checksum.PRIME
