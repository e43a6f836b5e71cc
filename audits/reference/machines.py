"""Second implementation of the protocol, from protocols/SPEC.md: plain integers, slow, to be read beside it.

It shares no code with `crypto` or `protocols`, so a mistake goes unnoticed only if it is made twice. Section numbers
are the SPEC's. It uses `cryptography` only for AES, Ed25519, ML-KEM, X25519 and HPKE; HKDF, CBOR, Shamir sharing and
packing are written out. HPKE draws its own randomness, so `Node` takes the function that seals, and a transcript can
record or replay the envelopes. Everything that names no stage is in `audits.reference.notation`.

It covers one session: sections 2 to 8, with the checks on what parties claim. It does not cover the schema of a
message, a site's own minima, retransmission, or the rules across rounds (9). It is only for comparison, never for use:
it wipes no secret.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from audits.reference.notation import (
    KDF,
    SHARING_PRIME,
    C,
    E,
    H,
    Message,
    deal,
    idx,
    need,
    rebuild,
    receive,
    seal,
    seal_public,
    sign,
    stream,
    unseal,
    unsigned,
    verify,
)

Seal = Callable[[bytes, bytes, bytes], bytes]  # public key, plaintext, info -> sealed
CHECKSUM_PRIME = 2**61 - 1  # section 7
VERSION = 2  # of the protocol: section 4


# --- Sections 3 and 4: parameters and session ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    """The values that study and opening fix: roster of public keys, f, c, n_min, B, and the opening's fields."""

    roster: tuple[bytes, ...]
    dropouts: int
    colluders: int
    smallest_cohort: int
    largest_element: int
    study: bytes
    round_number: int
    predecessor: bytes
    base_model: bytes
    state: bytes
    dimension: int

    @property
    def ring_bits(self) -> int:
        return next(b for b in range(8, 61) if len(self.roster) * self.largest_element < 2 ** (b - 1))

    @property
    def context(self) -> bytes:
        fields = [self.study, self.round_number, self.predecessor, self.base_model, self.state]
        return H("context", C([VERSION, *fields, self.dimension, self.ring_bits]))

    def quorum(self, cohort: Sequence[int]) -> int:
        return max(len(cohort) - self.dropouts, (len(self.roster) + self.colluders) // 2 + 1)

    def need_enough(self, some: Sequence[int], cohort: Sequence[int]) -> None:
        least = max(self.quorum(cohort), self.smallest_cohort, self.colluders + 2)
        need(len(some) >= least, f"{len(some)} nodes where {least} are needed")

    def opening(self) -> bytes:
        names = ("study", "round_number", "predecessor", "base_model", "state", "dimension", "ring_bits")
        return C({"type": "opening", "version": VERSION} | {name: getattr(self, name) for name in names})

    def cohort(self, advertisements: list[Message]) -> dict[int, Message]:
        senders = [ad["sender"] for ad in advertisements]
        need(senders == sorted(set(senders) & set(range(len(self.roster)))), "senders out of order")
        keys = {ad[key] for ad in advertisements for key in ("channel_key", "mask_key")}
        need(len(keys) == 2 * len(senders), "a public key twice")
        for ad in advertisements:
            need(ad["context"] == self.context, "an advertisement for another context")
            verify(self.roster[ad["sender"]], ad["signature"], "advertise", unsigned(ad))
        self.need_enough(senders, senders)
        return dict(zip(senders, advertisements, strict=True))

    def session(self, advertisements: list[Message]) -> bytes:
        return H("session", self.context, *[unsigned(ad) for ad in advertisements])

    def statement(
        self, session: bytes, cohort: list[int], sharers: list[int], survivors: list[int], new: bytes, packed: bytes
    ) -> Message:
        names = ("study", "round_number", "predecessor", "context")
        return {name: getattr(self, name) for name in names} | {
            "session": session,
            "cohort": cohort,
            "sharers": sharers,
            "survivors": survivors,
            "quorum": self.quorum(cohort),
            "old_state": self.state,
            "new_state": new,
            "sum_digest": H("sum", packed),
        }

    def pack(self, vector: Sequence[int]) -> bytes:
        whole: int = sum((x % 2**self.ring_bits) << (self.ring_bits * i) for i, x in enumerate(vector))
        length = -(-self.dimension * self.ring_bits // 8)
        return whole.to_bytes(length, "little")

    def unpack(self, data: bytes) -> list[int]:
        whole, b = int.from_bytes(data, "little"), self.ring_bits
        need(len(data) == -(-self.dimension * b // 8) and whole < 2 ** (b * self.dimension), "wrongly packed")
        return [whole >> (b * i) & (2**b - 1) for i in range(self.dimension)]

    def lift(self, vector: Sequence[int]) -> list[int]:
        return [r if r < 2 ** (self.ring_bits - 1) else r - 2**self.ring_bits for r in vector]

    def words(self, key: bytes) -> list[int]:
        """A mask: one ring element for each of the vector (section 5)."""
        width = 4 if self.ring_bits <= 32 else 8
        data = stream(key, width * self.dimension)
        found = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
        return [word % 2**self.ring_bits for word in found]

    def mask(self, kind: str, seed: bytes, view: bytes, *nodes: int) -> list[int]:
        """The mask for the vector and, last, the one for the tag. Kind: "pair" or "self"."""
        names = [idx(node) for node in nodes]
        tag = int.from_bytes(KDF(seed, f"{kind} tag mask", view, *names), "big") % CHECKSUM_PRIME
        return [*self.words(KDF(seed, f"{kind} mask stream", view, *names)), tag]

    def add(self, into: Sequence[int], mask: Sequence[int], sign: int = 1) -> list[int]:
        """Vector and tag, each in its own ring."""
        rings = [2**self.ring_bits] * self.dimension + [CHECKSUM_PRIME]
        return [(a + sign * m) % ring for a, m, ring in zip(into, mask, rings, strict=True)]


# --- Sections 5 to 7: secrets, sharing, checksum ---------------------------------------------------------------------


def self_mask_commitment(owner: int) -> Callable[[bytes], bytes]:
    return lambda seed: H("self-mask commit", idx(owner), seed)


def pair_seed_commitment(session: bytes, first: int, second: int, seed: bytes) -> bytes:
    return H("pair seed commit", session, idx(first), idx(second), seed)


def share_commitment(kind: str, session: bytes, dealer: int, receiver: int, share: bytes) -> bytes:
    return H("share commit", kind.encode(), session, idx(dealer), idx(receiver), share)


def view_of(session: bytes, sharers: Sequence[int]) -> bytes:
    return H("view", session, *map(idx, sharers))


def checksum_key(view: bytes, contributions: dict[int, bytes], dimension: int) -> tuple[list[int], int]:
    pieces = [piece for v in sorted(contributions) for piece in (idx(v), contributions[v])]
    seed = H("checksum key", view, *pieces)
    data = stream(KDF(seed, "checksum vector"), 8 * dimension)
    vector = [int.from_bytes(data[i : i + 8], "little") % CHECKSUM_PRIME for i in range(0, len(data), 8)]
    return vector, int.from_bytes(KDF(seed, "checksum constant"), "big") % CHECKSUM_PRIME


def shares_commitments(session: bytes, dealer: int, receiver: int, mask_key: bytes, self_mask: bytes) -> Message:
    return {
        "self_mask": share_commitment("self-mask", session, dealer, receiver, self_mask),
        "mask_key": share_commitment("mask-key", session, dealer, receiver, mask_key),
    }


# --- Section 8: stages -----------------------------------------------------------------------------------------------


class Node:
    """One node: each method takes the aggregator's bytes and returns its answer."""

    def __init__(self, of: Round, index: int, identity: bytes, root: bytes, seal: Seal = seal) -> None:
        self.of, self.index, self.identity, self.seal = of, index, identity, seal
        self.root, self.channel_seed, self.mask_seed = root, KDF(root, "channel seed"), KDF(root, "mask seed")
        self.self_seed, self.contribution = KDF(root, "self-mask seed"), KDF(root, "checksum contribution")

    def _signed(self, kind: str, **fields: Any) -> bytes:
        message = {"type": kind, "sender": self.index, **fields}
        return C(message | {"signature": sign(self.identity, kind, C(message))})

    def _envelope(self, purpose: str, key: bytes, plaintext: bytes, receiver: int, **commitment: Any) -> Message:
        info = E(purpose, self.session, idx(self.index), idx(receiver))
        fields = {"sender": self.index, "receiver": receiver, "sealed": self.seal(key, plaintext, info), **commitment}
        return fields | {"signature": sign(self.identity, purpose, self.session, C(fields))}

    def advertise(self, opening: bytes, ledger_sequence: int = 0) -> bytes:
        need(opening == self.of.opening(), "an opening of another round")
        self.own = self._signed(
            "advertise",
            context=self.of.context,
            channel_key=seal_public(self.channel_seed),
            mask_key=seal_public(self.mask_seed),
            self_mask_commitment=self_mask_commitment(self.index)(self.self_seed),
            checksum_commitment=H("checksum commit", idx(self.index), self.contribution),
            ledger_sequence=ledger_sequence,
        )
        return self.own

    def share(self, cohort: bytes) -> bytes:
        of, u = self.of, self.index
        advertisements = receive(cohort, "cohort")["advertisements"]
        self.ads = of.cohort(advertisements)
        need(u in self.ads and C(self.ads[u]) == self.own, "its own advertisement is missing or changed")
        self.quorum, self.session = of.quorum(list(self.ads)), of.session(advertisements)
        key = KDF(self.root, "Shamir coefficients of the mask seed", self.session)
        mask = deal(self.mask_seed, key, self.quorum, list(self.ads))
        key = KDF(self.root, "Shamir coefficients of the self-mask seed", self.session)
        self_mask = deal(self.self_seed, key, self.quorum, list(self.ads))
        self.held = {u: (mask[u], self_mask[u])}
        self.pair_seeds = {v: KDF(self.mask_seed, "pair seed", self.session, idx(u), idx(v)) for v in self.ads if v > u}
        shares = []
        for v in [v for v in self.ads if v != u]:
            commitments = shares_commitments(self.session, u, v, mask[v], self_mask[v])
            plaintext = mask[v] + self_mask[v] + self.contribution
            key = self.ads[v]["channel_key"]
            shares.append(self._envelope("shares envelope", key, plaintext, v, commitments=commitments))
        seeds = []
        for v, seed in self.pair_seeds.items():
            commitment = pair_seed_commitment(self.session, u, v, seed)
            seeds.append(self._envelope("pair seed envelope", self.ads[v]["mask_key"], seed, v, commitment=commitment))
        own = shares_commitments(self.session, u, u, mask[u], self_mask[u])
        return self._signed("share", session=self.session, shares=shares, seeds=seeds, own=own)

    def masked_input(self, delivery: bytes, vector: Sequence[int]) -> bytes:
        of, u, session = self.of, self.index, self.session
        message = receive(delivery, "delivery", session)
        senders = [envelope["sender"] for envelope in message["shares"]]
        need(all(v < w for v, w in pairwise(senders)), "senders out of order")
        contributions = {u: self.contribution}
        for envelope in message["shares"]:
            v, plaintext = self._open(envelope, "shares envelope", self.channel_seed)
            mask, self_mask, contribution = plaintext[:33], plaintext[33:66], plaintext[66:]
            need(mask < SHARING_PRIME.to_bytes(33, "big"), "a mask-key share outside the field")
            need(self_mask < SHARING_PRIME.to_bytes(33, "big"), "a self-mask share outside the field")
            need(envelope["commitments"] == shares_commitments(session, v, u, mask, self_mask), "another share")
            commitment = H("checksum commit", idx(v), contribution)
            need(commitment == self.ads[v]["checksum_commitment"], "another checksum contribution")
            self.held[v], contributions[v] = (mask, self_mask), contribution
        self.sharers = sorted(contributions)
        of.need_enough(self.sharers, list(self.ads))
        need([e["sender"] for e in message["seeds"]] == [v for v in self.sharers if v < u], "other seeds")
        for envelope in message["seeds"]:
            v, seed = self._open(envelope, "pair seed envelope", self.mask_seed)
            need(envelope["commitment"] == pair_seed_commitment(session, v, u, seed), "another pair seed")
            self.pair_seeds[v] = seed
        view = view_of(session, self.sharers)
        self.key = checksum_key(view, contributions, of.dimension)
        tag = sum(k * x for k, x in zip(self.key[0], vector, strict=True)) + self.key[1]
        masked = of.add([*vector, tag], of.mask("self", self.self_seed, view, u))
        for v in self.sharers:
            if v != u:
                pair = of.mask("pair", self.pair_seeds[v], view, min(u, v), max(u, v))
                masked = of.add(masked, pair, 1 if v > u else -1)
        tag_bytes = masked.pop().to_bytes(8, "big")
        return self._signed("masked-input", session=session, vector=of.pack(masked), tag=tag_bytes)

    def _open(self, envelope: Message, purpose: str, seed: bytes) -> tuple[int, bytes]:
        v = envelope["sender"]
        need(v in self.ads and v != self.index and envelope["receiver"] == self.index, "an envelope for another")
        verify(self.of.roster[v], envelope["signature"], purpose, self.session, unsigned(envelope))
        return v, unseal(seed, envelope["sealed"], E(purpose, self.session, idx(v), idx(self.index)))

    def agree(self, survivors: bytes) -> bytes:
        self.survivors = receive(survivors, "survivors", self.session)["survivors"]
        need(set(self.survivors) <= set(self.sharers) and self.index in self.survivors, "survivors that did not share")
        self.of.need_enough(self.survivors, list(self.ads))
        return self._signed("agree", session=self.session, sharers=self.sharers, survivors=self.survivors)

    def unmask(self, agreement: bytes) -> bytes:
        signatures = receive(agreement, "agreement", self.session)["signatures"]
        signers = [one["signer"] for one in signatures]
        need(signers == sorted(set(signers) & set(self.survivors)) and len(signers) >= self.quorum, "no quorum")
        body = {"type": "agree", "session": self.session, "sharers": self.sharers, "survivors": self.survivors}
        for one in signatures:
            verify(self.of.roster[one["signer"]], one["signature"], "agree", C(body | {"sender": one["signer"]}))
        dropped = [v for v in self.sharers if v not in self.survivors]
        self_masks = [{"owner": v, "share": self.held[v][1]} for v in self.survivors]
        mask_keys = [{"owner": v, "share": self.held[v][0]} for v in dropped]
        return self._signed("unmask", session=self.session, self_mask_shares=self_masks, mask_key_shares=mask_keys)

    def close(self, published: bytes, new_state: bytes) -> bytes:
        message, of, n = receive(published, "published", self.session), self.of, len(self.survivors)
        total = of.lift(of.unpack(message["vector"]))
        tag = sum(k * s for k, s in zip(self.key[0], total, strict=True)) + self.key[1] * n
        need(message["tag"] == (tag % CHECKSUM_PRIME).to_bytes(8, "big"), "a sum that is not the survivors'")
        need(max(map(abs, total)) <= n * of.largest_element, "a sum out of bounds")
        sets = (list(self.ads), self.sharers, self.survivors)
        digest = H("statement", C(of.statement(self.session, *sets, new_state, message["vector"])))
        signature = sign(self.identity, "close statement", digest)
        fields = {"session": self.session, "sender": self.index, "statement": digest, "signature": signature}
        return C({"type": "close", **fields})


class Aggregator:
    """An honest aggregator: each method takes the nodes' messages, by index, and returns the messages to them."""

    def __init__(self, of: Round) -> None:
        self.of = of

    def _read(self, kind: str, answers: dict[int, bytes]) -> dict[int, Message]:
        """Each answer under its sender, its signature checked."""
        read = {u: receive(answers[u], kind, self.session) for u in sorted(answers)}
        for u, message in read.items():
            need(message["sender"] == u, "an answer in another's name")
            verify(self.of.roster[u], message["signature"], kind, unsigned(message))
        need(len(read) >= self.quorum, "no quorum")
        return read

    def cohort(self, answers: dict[int, bytes]) -> bytes:
        advertisements = [receive(answers[u], "advertise") for u in sorted(answers)]
        self.ads, self.session = self.of.cohort(advertisements), self.of.session(advertisements)
        self.quorum = self.of.quorum(list(self.ads))
        return C({"type": "cohort", "advertisements": advertisements})

    def deliveries(self, answers: dict[int, bytes]) -> dict[int, bytes]:
        self.shares = self._read("share", answers)
        self.of.need_enough(list(self.shares), list(self.ads))
        out = {}
        for v in self.shares:
            kinds = {
                kind: [e for u in self.shares for e in self.shares[u][kind] if e["receiver"] == v]
                for kind in ("shares", "seeds")
            }
            out[v] = C({"type": "delivery", "session": self.session, **kinds})
        return out

    def survivors(self, answers: dict[int, bytes]) -> bytes:
        self.inputs = self._read("masked-input", answers)
        for message in self.inputs.values():
            self.of.unpack(message["vector"])
            need(int.from_bytes(message["tag"], "big") < CHECKSUM_PRIME, "a tag that is not reduced")
        self.of.need_enough(list(self.inputs), list(self.ads))
        return C({"type": "survivors", "session": self.session, "survivors": list(self.inputs)})

    def agreement(self, answers: dict[int, bytes]) -> bytes:
        read = self._read("agree", answers)
        signatures = [{"signer": u, "signature": message["signature"]} for u, message in read.items()]
        return C({"type": "agreement", "session": self.session, "signatures": signatures})

    def published(self, answers: dict[int, bytes]) -> bytes:
        of, session, read = self.of, self.session, self._read("unmask", answers)
        view, total = view_of(session, list(self.shares)), [0] * (of.dimension + 1)
        for message in self.inputs.values():
            total = of.add(total, [*of.unpack(message["vector"]), int.from_bytes(message["tag"], "big")])
        for v in self.shares:
            kept = v in self.inputs
            shares = {u: self._released(m, u, v, "self_mask" if kept else "mask_key") for u, m in read.items()}
            if kept:
                seed = rebuild(shares, self.quorum, self.ads[v]["self_mask_commitment"], self_mask_commitment(v), v)
                total = of.add(total, of.mask("self", seed, view, v), -1)
                continue
            seed = rebuild(shares, self.quorum, self.ads[v]["mask_key"], seal_public, v)
            for u in self.inputs:
                pair = of.mask("pair", self._pair_seed(u, v, seed), view, min(u, v), max(u, v))
                total = of.add(total, pair, -1 if v > u else 1)
        self.tag, self.sum = total.pop().to_bytes(8, "big"), of.pack(total)
        return C({"type": "published", "session": session, "vector": self.sum, "tag": self.tag})

    def _released(self, message: Message, u: int, v: int, kind: str) -> bytes:
        share: bytes = next(one["share"] for one in message[f"{kind}_shares"] if one["owner"] == v)
        envelopes = [e["commitments"] for e in self.shares[v]["shares"] if e["receiver"] == u]
        commitment = share_commitment(kind.replace("_", "-"), self.session, v, u, share)
        need((envelopes or [self.shares[v]["own"]])[0][kind] == commitment, "a share that was never dealt", u)
        return share

    def _pair_seed(self, u: int, v: int, mask_seed: bytes) -> bytes:
        """The seed that survivor u shares with v, from the mask seed of v."""
        first, second = min(u, v), max(u, v)
        envelope = next(e for e in self.shares[first]["seeds"] if e["receiver"] == second)
        names = (self.session, idx(first), idx(second))
        seed = KDF(mask_seed, "pair seed", *names)
        if v == second:
            seed = unseal(mask_seed, envelope["sealed"], E("pair seed envelope", *names), first)
        commitment = pair_seed_commitment(self.session, first, second, seed)
        need(envelope["commitment"] == commitment, "another pair seed", first)
        return seed

    def receipt(self, answers: dict[int, bytes], new_state: bytes) -> bytes:
        sets = (list(self.ads), list(self.shares), list(self.inputs))
        statement = self.of.statement(self.session, *sets, new_state, self.sum)
        signatures = []
        for u in sorted(answers):
            message = receive(answers[u], "close", self.session)
            need(message["statement"] == H("statement", C(statement)), "another statement")
            verify(self.of.roster[u], message["signature"], "close statement", message["statement"])
            signatures.append({"signer": u, "signature": message["signature"]})
        need(len(signatures) >= self.quorum, "no quorum")
        return C({"type": "receipt", "statement": statement, "signatures": signatures})
