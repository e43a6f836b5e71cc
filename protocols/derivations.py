"""Every derivation and commitment of a session, one label each: the key schedule of PROTOCOL in one place.

    root (32 bytes from the operating system)
    |- channel seed ............. HPKE key pair that receives shares; never shared
    |- mask seed m_u ............ HPKE key pair that receives pair seeds, and the r_uv; nothing else
    |- self-mask seed b_u ....... self mask
    |- checksum contribution z_u  sent to all, committed to in Advertise
    |- two Shamir keys .......... coefficients for m_u and for b_u

The first four exist before the session does; everything derived later covers the session id and names the nodes it is
for. One key, one stream: `r_uv` and `b_u` are never used as keys themselves, only their labelled children are.

Every mask, of vector and tag, and the checksum's key are derived under the *view*: the session and the U2 that the
aggregator showed to a node. So inputs made under different U2 share no stream and never unmask together. If masks
depended on the session alone, a node that was shown a smaller U2 would tag its input with another checksum key than the
rest, and the published tag would be a 61-bit function of that node's own vector.
"""

from __future__ import annotations

from collections.abc import Iterable

from crypto.kdf import KEY_BYTES, derive, digest
from crypto.randomness import Entropy
from protocols.errors import LocalError

SHARES_LABEL = "shares envelope"
SEED_LABEL = "pair seed envelope"


class SessionSecrets:
    """The secrets of one node during one session. They are only in memory: a node that crashes drops out.

    `wipe` overwrites the value held here; Python promises nothing about copies that the interpreter or a library made.
    """

    __slots__ = ("_root",)

    def __init__(self, entropy: Entropy) -> None:
        self._root: bytearray | None = bytearray(entropy(KEY_BYTES))
        if len(self._root) != KEY_BYTES:
            raise LocalError(f"the entropy source gave {len(self._root)} bytes where {KEY_BYTES} were asked for")

    def channel_seed(self) -> bytes:
        return self._child("channel seed")

    def mask_seed(self) -> bytes:
        return self._child("mask seed")

    def self_mask_seed(self) -> bytes:
        return self._child("self-mask seed")

    def checksum_contribution(self) -> bytes:
        return self._child("checksum contribution")

    def mask_sharing_key(self, session: bytes) -> bytes:
        return self._child("Shamir coefficients of the mask seed", session)

    def self_mask_sharing_key(self, session: bytes) -> bytes:
        return self._child("Shamir coefficients of the self-mask seed", session)

    def wipe(self) -> None:
        """Overwrite the root; every later use raises LocalError."""
        if self._root is not None:
            self._root[:] = bytes(KEY_BYTES)
        self._root = None

    @property
    def wiped(self) -> bool:
        return self._root is None

    def _child(self, label: str, *context: bytes) -> bytes:
        if self._root is None:
            raise LocalError("this session's secrets have been wiped")
        return derive(self._root, label, *context)

    def __reduce__(self) -> str:
        raise TypeError("session secrets are never pickled or copied")


def index_bytes(index: int) -> bytes:
    """A roster index inside a derivation: four bytes, big-endian."""
    return index.to_bytes(4, "big")


def pair_seed(mask_seed: bytes, session: bytes, sender: int, receiver: int) -> bytes:
    """r_uv, made by u for v after u in the roster."""
    return derive(mask_seed, "pair seed", session, index_bytes(sender), index_bytes(receiver))


def view_of(session: bytes, sharers: Iterable[int]) -> bytes:
    """One node's view of a session: H("view", sid, U2), U2 in roster order."""
    return digest("view", session, *(index_bytes(node) for node in sorted(sharers)))


def pair_stream_key(seed: bytes, view: bytes, sender: int, receiver: int) -> bytes:
    """The stream that u adds and v subtracts. Bound to both, because a dishonest u can choose any r_uv."""
    return derive(seed, "pair mask stream", view, index_bytes(sender), index_bytes(receiver))


def self_stream_key(seed: bytes, view: bytes, owner: int) -> bytes:
    return derive(seed, "self mask stream", view, index_bytes(owner))


def commit_self_mask(owner: int, seed: bytes) -> bytes:
    return digest("self-mask commit", index_bytes(owner), seed)


def commit_checksum(owner: int, contribution: bytes) -> bytes:
    return digest("checksum commit", index_bytes(owner), contribution)


def commit_pair_seed(session: bytes, sender: int, receiver: int, seed: bytes) -> bytes:
    return digest("pair seed commit", session, index_bytes(sender), index_bytes(receiver), seed)


def commit_share(kind: str, session: bytes, dealer: int, receiver: int, share: bytes) -> bytes:
    """A dealer's commitment to one share. `kind` is "self-mask" or "mask-key".

    Hiding, like a hash of 256 uniform bits: fewer than t shares are uniform and independent of the secret, so the
    digests of all n shares help only a party that can guess 256 bits (random-oracle argument).
    """
    return digest("share commit", kind.encode(), session, index_bytes(dealer), index_bytes(receiver), share)
