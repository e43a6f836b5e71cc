"""What an attacker has learned in one session, and what it can compute from it.

It holds every message that the nodes sent, and everything that the corrupt nodes hold. It assumes nothing: it knows a
seed only if it has enough shares and they give the value to which the owner committed, and a sum only if it has really
removed every mask from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from crypto import shamir
from crypto.sealing import SealingError, SealingKey
from protocols import checksum, derivations, encoding, sharing
from protocols.client import Client
from protocols.errors import CohortTooSmall, RemoteError
from protocols.masking import MaskedSum
from protocols.messages import Advertise, Close, MaskedInput, Share, Unmask
from protocols.session import SessionConfig
from protocols.wire import Limits, Message

SELF_MASK = "self-mask"
MASK_KEY = "mask-key"


class Knowledge:
    """One session as the attacker knows it."""

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.shape = config.context.shape
        self.session = b""
        self.quorum = 0
        """The sharing threshold that the nodes derived."""
        self.advertisements: dict[int, Advertise] = {}
        self.shares: dict[int, Share] = {}
        self.masked: dict[int, MaskedInput] = {}
        self.sharers: dict[int, frozenset[int]] = {}
        """Node -> the U2 that it saw: the nodes whose pair masks are in its input."""
        self.unmasks: dict[int, Unmask] = {}
        self.closings: dict[int, Close] = {}
        self.held: dict[tuple[str, int], dict[int, bytes]] = defaultdict(dict)
        """(kind, owner) -> holder -> share."""
        self.pair_seeds: dict[tuple[int, int], bytes] = {}
        """(earlier, later) -> r_uv, from the corrupt nodes."""
        self.contributions: dict[int, bytes] = {}
        """Dealer -> z, as it reached the corrupt nodes."""

    @property
    def limits(self) -> Limits:
        return Limits(len(self.config.roster), self.shape.packed_bytes)

    def show_cohort(self, cohort: Iterable[Advertise]) -> None:
        """Note the cohort shown: it gives the threshold of the sharing."""
        self.advertisements = {entry.sender: entry for entry in cohort}
        try:
            self.quorum = self.config.rules.quorum(len(self.advertisements))
        except CohortTooSmall:  # the nodes will also refuse it
            self.quorum = 0

    def learn(self, sender: int, message: Message) -> None:
        """Keep what a node sent."""
        match message:
            case Share():
                self.shares[sender] = message
                self.session = message.session
            case MaskedInput():
                self.masked[sender] = message
            case Close():
                self.closings[sender] = message
            case Unmask():
                self.unmasks[sender] = message
                for entry in message.self_mask_shares:
                    self.held[SELF_MASK, entry.owner][sender] = entry.share
                for entry in message.mask_key_shares:
                    self.held[MASK_KEY, entry.owner][sender] = entry.share

    def search(self, client: Client) -> None:
        """Take everything that a corrupt node holds at this moment."""
        for dealer, given in client._received.items():
            self.held[SELF_MASK, dealer][client.index] = given.self_mask
            self.held[MASK_KEY, dealer][client.index] = given.mask_key
            self.contributions[dealer] = given.checksum
        for peer, seed in client._pair_seeds.items():
            self.pair_seeds[min(client.index, peer), max(client.index, peer)] = seed

    def self_mask_seed(self, owner: int) -> bytes | None:
        """b of this node, if the known shares give the value to which it committed."""
        seed = self._recover(SELF_MASK, owner)
        if seed is None or owner not in self.advertisements:
            return None
        committed = self.advertisements[owner].self_mask_commitment
        return seed if derivations.commit_self_mask(owner, seed) == committed else None

    def mask_seed(self, owner: int) -> bytes | None:
        """m of this node, if the known shares give the mask key that it advertised."""
        seed = self._recover(MASK_KEY, owner)
        if seed is None or owner not in self.advertisements:
            return None
        return seed if SealingKey(seed).public.raw == self.advertisements[owner].mask_key else None

    def pair_seed(self, one: int, other: int) -> bytes | None:
        """The seed between two nodes: a corrupt one's, derived from m of the earlier, or opened with m of the later."""
        first, second = min(one, other), max(one, other)
        if (first, second) in self.pair_seeds:
            return self.pair_seeds[first, second]
        forward = self.mask_seed(first)
        if forward is not None:
            return derivations.pair_seed(forward, self.session, first, second)
        backward = self.mask_seed(second)
        if backward is None or first not in self.shares:
            return None
        for envelope in self.shares[first].seeds:
            if envelope.receiver == second:
                try:
                    return sharing.open_seed(envelope, self.session, SealingKey(backward))
                except (RemoteError, SealingError):
                    return None
        return None

    def unmask(self, nodes: Collection[int], *, self_masks: bool = True) -> MaskedSum | None:
        """The sum of exactly these nodes' masked inputs with every mask removed; None if a mask stays unknown.

        Args:
            nodes: the nodes whose inputs to add.
            self_masks: False to remove only the pair masks, in the hope that there are no other masks.
        """
        running = MaskedSum(b"", encoding.empty_ring(self.shape), 0)
        for node in nodes:
            if node not in self.masked:
                return None
            np.add(running.vector, encoding.unpack(self.masked[node].vector, self.shape), out=running.vector)
            running.tag = (running.tag + checksum.decode_tag(self.masked[node].tag)) % checksum.PRIME
        if self_masks and not all(self._take_off_self_mask(running, node) for node in nodes):
            return None
        return running if all(self._take_off_pair_masks(running, node, nodes) for node in nodes) else None

    def sum_of(self, nodes: Collection[int], *, self_masks: bool = True) -> NDArray[np.int64] | None:
        """The same as centred integers. For one node, its own vector."""
        total = self.unmask(nodes, self_masks=self_masks)
        return None if total is None else encoding.from_ring(total.vector, self.shape)

    def view(self, node: int) -> bytes:
        """The view that this node saw. Its masks and its checksum key are derived under it."""
        return derivations.view_of(self.session, self.sharers[node])

    def key(self, node: int) -> checksum.ChecksumKey:
        """The checksum key under which this node made its tag."""
        contributions = {peer: self.contributions[peer] for peer in self.sharers[node]}
        return checksum.ChecksumKey(self.view(node), contributions, self.shape.ring_bits)

    def _take_off_self_mask(self, running: MaskedSum, node: int) -> bool:
        seed = self.self_mask_seed(node)
        if seed is None:
            return False
        seen = MaskedSum(self.view(node), running.vector, running.tag)
        seen.add_self_mask(seed, node, remove=True)
        running.tag = seen.tag
        return True

    def _take_off_pair_masks(self, running: MaskedSum, node: int, nodes: Collection[int]) -> bool:
        """Remove one node's pair masks from the sum, except those that cancel inside it."""
        seen = MaskedSum(self.view(node), running.vector, running.tag)
        for peer in self.sharers[node] - {node}:
            if peer in nodes and node in self.sharers[peer] and self.view(peer) == self.view(node):
                continue
            seed = self.pair_seed(node, peer)
            if seed is None:
                return False
            seen.add_pair_mask(seed, node, peer, remove=True)
        running.tag = seen.tag
        return True

    def _recover(self, kind: str, owner: int) -> bytes | None:
        held = self.held[kind, owner]
        if not held:
            return None
        try:  # all of them: enough for any threshold up to their number
            return shamir.recover_secret({1 + node: held[node] for node in sorted(held)}, len(held))
        except ValueError:
            return None
