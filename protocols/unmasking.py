"""Stage 4 at the aggregator: shares in, masks out, and every wrong share traced to its node.

Dealers commit to every share they deal, and receivers refuse one that differs. So a released share that differs from
its dealer's commitment is its *releaser's* fault, and shares that all agree with their commitments but give a wrong
secret are the *dealer's* fault: no search over subsets is needed to tell the two apart. If a dealer's shares lie on no
single polynomial, other subsets are still tried, because the round may go on with one that gives the committed secret.
Then the error does not name the dealer: the sum is right, and a subset that fits does not prove which shares were
wrong.

The aggregator is free to choose the subsets: any that gives the committed secret gives *the* secret. A dealer can make
all of them fail, so the search is for accidents, and its work is bounded for all dealers of a round together, for any
roster (`Search`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from crypto import shamir
from crypto.sealing import SealingKey
from protocols import derivations, sharing
from protocols.errors import FaultKind, MalformedMessage, RemoteError, RoundVoid, WrongCommitment
from protocols.masking import MaskedSum
from protocols.messages import Advertise, ReleasedShare, SeedEnvelope, Share, ShareCommitments, Unmask

STAGE = "unmask"
_MOST_WORK = 8_000_000
"""The bound on the work for all dealers' inconsistent shares in one round, in the units of `_work`: about two seconds
of one core. Enough for every t-subset of one dealer's shares up to a roster of 14, and for any three wrong shares of
200 if t is 134."""


class Search:
    """The work that is left in one round for t-subsets beyond the first of every dealer."""

    def __init__(self, most_work: int = _MOST_WORK) -> None:
        self._left = most_work

    def subsets(self, nodes: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
        """Subsets of this size, none twice, until the work is used up; always at least the first one.

        For j = 1, 2, ...: cut the nodes into blocks so small that any j of them can be left out. At most j wrong shares
        lie in at most j blocks, so the search finds these before it looks for more. The last j leaves out single nodes,
        in all ways.
        """
        spare = len(nodes) - size
        seen = {tuple(nodes[:size])}
        yield tuple(nodes[:size])
        for count in range(1, spare + 1):
            width = spare // count
            blocks = [tuple(nodes[start : start + width]) for start in range(0, len(nodes), width)]
            for left_out in itertools.combinations(blocks, count):
                without = set(itertools.chain.from_iterable(left_out))
                subset = tuple(node for node in nodes if node not in without)[:size]
                if subset in seen:
                    continue
                if self._left < _work(size):
                    return
                self._left -= _work(size)
                seen.add(subset)
                yield subset


def _work(size: int) -> int:
    """The cost of recovering a secret from this many shares of new points, and of checking it, in units of about 0.2
    microseconds: a multiplication for every pair, an inversion for every share, and a key pair."""
    return size * size + 64 * size + 1200


@dataclass(frozen=True, slots=True)
class Unmasking:
    """The data needed to remove the masks from one round's running sum."""

    session: bytes
    quorum: int
    advertisements: Mapping[int, Advertise]
    shares: Mapping[int, Share]
    sharers: tuple[int, ...]
    survivors: tuple[int, ...]

    @property
    def dropped(self) -> tuple[int, ...]:
        """U2 without U3: their pair masks are in the sum, their inputs are not."""
        return tuple(node for node in self.sharers if node not in self.survivors)

    def check_shares(self, message: Unmask) -> None:
        """Check one node's released shares: exactly the right owners, and each as its dealer committed to it.

        Raises:
            MalformedMessage: the owners do not match the announced sets.
            WrongCommitment: a share that its dealer did not deal. The releaser is at fault.
        """
        for released, owners, field in (
            (message.self_mask_shares, self.survivors, "self_mask_shares"),
            (message.mask_key_shares, self.dropped, "mask_key_shares"),
        ):
            if tuple(entry.owner for entry in released) != owners:
                raise MalformedMessage(
                    "shares whose owners do not match the announced sets", sender=message.sender, field=field
                )
            kind = "self-mask" if field == "self_mask_shares" else "mask-key"
            for entry in released:
                if not self._is_dealt(kind, entry, message.sender):
                    raise WrongCommitment(
                        f"released a share of node {entry.owner} other than the one it was dealt",
                        sender=message.sender,
                        field=field,
                        kind=FaultKind.RELEASED_SHARE,
                    )

    def remove_masks(self, running: MaskedSum, unmasks: Mapping[int, Unmask]) -> None:
        """Remove every remaining mask from the sum, in place.

        Args:
            running: sum of the survivors' masked inputs and tags.
            unmasks: checked Unmask messages of at least t nodes.

        Raises:
            RoundVoid: a dealer's secret or seed is not the committed one; the error names the dealer.
        """
        search = Search()
        for owner in self.survivors:
            released = {node: _share_of(owner, message.self_mask_shares) for node, message in unmasks.items()}
            seed = self._recover(owner, released, self._is_self_mask_seed, search)
            running.add_self_mask(seed, owner, remove=True)
        for owner in self.dropped:
            released = {node: _share_of(owner, message.mask_key_shares) for node, message in unmasks.items()}
            seed = self._recover(owner, released, self._is_mask_seed, search)
            self._remove_pair_masks(running, owner, seed)

    def _recover(
        self, owner: int, released: Mapping[int, bytes], fits: Callable[[int, bytes], bool], search: Search
    ) -> bytes:
        """The owner's secret, from the first subset of t shares that gives the committed one."""
        for subset in search.subsets(sorted(released), self.quorum):
            try:
                secret = shamir.recover_secret({1 + node: released[node] for node in subset}, self.quorum)
            except ValueError:
                continue
            if fits(owner, secret):
                return secret
        raise RoundVoid(
            STAGE,
            f"node {owner} dealt shares that do not give the secret it committed to",
            frozenset({owner}),
            FaultKind.SECRET,
        )

    def _is_self_mask_seed(self, owner: int, secret: bytes) -> bool:
        return derivations.commit_self_mask(owner, secret) == self.advertisements[owner].self_mask_commitment

    def _is_mask_seed(self, owner: int, secret: bytes) -> bool:
        return SealingKey(secret).public.raw == self.advertisements[owner].mask_key

    def _remove_pair_masks(self, running: MaskedSum, owner: int, mask_seed: bytes) -> None:
        """Remove, from the survivors' inputs, the masks that they share with a dropped node, whose mask seed is
        rebuilt."""
        mask_key = SealingKey(mask_seed)
        for peer in self.survivors:
            try:
                if peer < owner:  # the peer made the seed, and added its stream
                    seed = sharing.open_seed(self._seed_envelope(peer, owner), self.session, mask_key)
                else:  # the dropped node made the seed, and the peer subtracted its stream
                    seed = derivations.pair_seed(mask_seed, self.session, owner, peer)
                    committed = self._seed_envelope(owner, peer).commitment
                    if derivations.commit_pair_seed(self.session, owner, peer, seed) != committed:
                        raise WrongCommitment(
                            "sealed another pair seed than its mask seed gives",
                            sender=owner,
                            kind=FaultKind.DERIVATION,
                        )
                running.add_pair_mask(seed, peer, owner, remove=True)
            except RemoteError as error:
                blamed = frozenset(() if error.sender is None else (error.sender,))
                raise RoundVoid(STAGE, str(error), blamed, error.kind) from error

    def _is_dealt(self, kind: str, entry: ReleasedShare, releaser: int) -> bool:
        committed = self._commitments(entry.owner, releaser)
        expected = committed.self_mask if kind == "self-mask" else committed.mask_key
        return derivations.commit_share(kind, self.session, entry.owner, releaser, entry.share) == expected

    def _commitments(self, dealer: int, receiver: int) -> ShareCommitments:
        share = self.shares[dealer]
        if dealer == receiver:
            return share.own
        return next(envelope.commitments for envelope in share.shares if envelope.receiver == receiver)

    def _seed_envelope(self, sender: int, receiver: int) -> SeedEnvelope:
        return next(envelope for envelope in self.shares[sender].seeds if envelope.receiver == receiver)


def _share_of(owner: int, released: tuple[ReleasedShare, ...]) -> bytes:
    return next(entry.share for entry in released if entry.owner == owner)
