"""Every message that an attacker can build in one session, for a node in a given state.

The attacker has everything that honest nodes sent, and everything that corrupt nodes hold, with their identity keys.
This module also makes signatures and envelopes of honest nodes with their keys, but a message with one of them *needs*
the fact that the node really sent it (`audits.exploration.search`). Corrupt nodes may join a session with one of two
key sets, so that two cohorts can differ only in these.

Sets and signers are tried in all combinations. Messages that are wrong in themselves are sampled: openings with one
other field; cohorts out of order, with a member twice, of another round, unsigned, with a key twice; envelopes forged
in honest names, of another session, or with other contents than committed to; seeds from other senders than shares;
made-up signatures; sums bent in five ways. Ill-formed bytes are left to the fuzzers.

If it is unclear whether the attacker could compute something, we assume that it can: with a corrupt node in the session
it knows the checksum key from the start, and publishes any sum with a tag that fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from audits.exploration.search import Fact
from audits.exploration.symbols import Streams
from audits.simulator.world import replaced
from crypto.identity import Identity
from crypto.kdf import digest
from crypto.sealing import SealingKey, SealingPublicKey
from protocols import checksum, derivations, encoding, sharing
from protocols.client import Client
from protocols.errors import ProtocolError
from protocols.events import Send
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Cohort,
    Delivery,
    Opening,
    Published,
    SeedEnvelope,
    Share,
    SharesEnvelope,
    Signature,
    Survivors,
)
from protocols.parameters import CohortRules, RoundShape
from protocols.session import Context, SessionConfig
from protocols.wire import Limits, decode, encode, fields_of

VARIANTS = "AB"
"""The key sets of a corrupt node."""
MAGNITUDE = 1 << 8
_STUDY = digest("explored study")

Member = tuple[int, str]
"""A node and its key set; an honest node has one, "A"."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One message for a node."""

    data: bytes
    needs: tuple[tuple[Fact, ...], ...]
    """Alternatives: the facts of any one are enough to build the message."""
    text: str


class Pool:
    """One session's nodes, and every message that can be sent in it."""

    def __init__(self, rules: CohortRules, streams: Streams) -> None:
        """
        Args:
            rules: the study's; the last `rules.colluders` nodes of the roster are corrupt.
            streams: notes the masks that nodes use.
        """
        size = rules.roster_size
        self.rules = rules
        self.streams = streams
        self.corrupt = frozenset(range(size - rules.colluders, size))
        self.honest = tuple(node for node in range(size) if node not in self.corrupt)
        self.keys = [Identity(digest("explored identity", bytes([node]))) for node in range(size)]
        self.vectors = {node: np.array([3**node], dtype=np.int64) for node in range(size)}
        shape = RoundShape(1, (size * MAGNITUDE).bit_length() + 1)
        context = Context(_STUDY, 1, _STUDY, digest("base"), digest("state"), shape)
        self.config = SessionConfig(rules, tuple(key.public for key in self.keys), context, MAGNITUDE)
        self.limits = Limits(size, shape.packed_bytes)
        self.opening = encode(context.opening())
        self._shares: dict[tuple[Member, bytes], Share | None] = {}
        self._candidates: dict[Hashable, list[Candidate]] = {}
        self.advertisements = {
            (node, variant): self._advertisement((node, variant))
            for node in range(size)
            for variant in (VARIANTS if node in self.corrupt else VARIANTS[0])
        }
        self._members = {entry: member for member, entry in self.advertisements.items()}

    def secrets(self, member: Member) -> derivations.SessionSecrets:
        """The session secrets of this node with this key set."""
        root = digest("explored root", bytes([member[0]]), member[1].encode())
        return derivations.SessionSecrets(lambda size: root[:size])

    def start(self, member: Member, config: SessionConfig | None = None) -> Client:
        """A new session of this node."""
        root = digest("explored root", bytes([member[0]]), member[1].encode())
        return Client(
            config or self.config,
            member[0],
            self.keys[member[0]],
            ledger_sequence=1,
            entropy=partial(_cut, root),
        )

    def candidates(self, client: Client) -> list[Candidate]:
        """Every message that the node could receive, of every kind, whatever it waits for."""
        place = client.index, client.session, client.sharers, client.survivors
        if place not in self._candidates:
            self._candidates[place] = list(self._made_for(client))
        return self._candidates[place]

    def _made_for(self, client: Client) -> Iterator[Candidate]:
        yield from self._openings()
        yield from self._cohorts(client.index)
        if client.session:
            members = self.members(client)
            yield from self._deliveries(client, members)
            yield from self._survivors(client.session, [node for node, _ in members])
            yield from self._agreements(client)
            yield from self._sums(client, members)
            other = bytes(32)
            yield Candidate(encode(Survivors(other, tuple(client._cohort))), ((),), "survivors of another session")

    def members(self, client: Client) -> tuple[Member, ...]:
        """U1 as this node was shown it."""
        return tuple(self._members[entry] for entry in client._cohort.values())

    def _advertisement(self, member: Member, **changes: Any) -> Advertise:
        """This node's advertisement, here or in a session that differs in something."""
        context = Context(**{**_fields(self.config.context), **changes})
        config = SessionConfig(self.rules, self.config.roster, context, MAGNITUDE)
        (event,) = self.start(member, config).receive(encode(context.opening()))
        return decode(Advertise, _sent(event), self.limits, None)

    def share(self, member: Member, cohort: tuple[Member, ...]) -> Share | None:
        """This node's shares for this cohort; None if it refuses the cohort."""
        data = encode(Cohort(tuple(self.advertisements[each] for each in cohort)))
        if (member, data) not in self._shares:
            client = self.start(member)
            client.receive(self.opening)
            try:
                events = client.receive(data)
            except ProtocolError:
                self._shares[member, data] = None
            else:
                self._shares[member, data] = decode(Share, _sent(events[-1]), self.limits, None)
        return self._shares[member, data]

    def _openings(self) -> Iterator[Candidate]:
        yield Candidate(self.opening, ((),), "opening")
        honest = decode(Opening, self.opening, self.limits, None)
        for name, value in fields_of(honest).items():
            other = value + 1 if isinstance(value, int) else bytes(32)
            yield Candidate(encode(replaced(honest, **{name: other})), ((),), f"opening with another {name}")

    def _cohorts(self, node: int) -> Iterator[Candidate]:
        choices = [
            (None, *((each, variant) for variant in (VARIANTS if each in self.corrupt else VARIANTS[0])))
            for each in range(self.rules.roster_size)
        ]
        for chosen in itertools.product(*choices):
            members = tuple(member for member in chosen if member is not None)
            yield self._cohort([self.advertisements[member] for member in members], members, _names(members))
        everyone = tuple((each, "A") for each in range(self.rules.roster_size))
        honest = [self.advertisements[member] for member in everyone]
        other = node - 1 if node else 1
        older = self._advertisement((other, "A"), round_number=2)
        borrowed = replaced(honest[other], channel_key=honest[node].channel_key)
        for text, wrong in (
            ("in another order", honest[::-1]),
            ("with one node twice", [honest[0], *honest]),
            ("with an advertisement of another round", _with(honest, other, older)),
            ("with an advertisement that nobody signed", _with(honest, other, borrowed)),
            ("with a public key twice", _with(honest, other, self._resigned(borrowed))),
        ):
            yield self._cohort(wrong, everyone, f"all, {text}")

    def _cohort(self, entries: Iterable[Advertise], members: Iterable[Member], text: str) -> Candidate:
        needs = tuple(("advertise", node) for node, _ in members if node not in self.corrupt)
        return Candidate(encode(Cohort(tuple(entries))), (needs,), f"U1 = {text}")

    def _resigned(self, entry: Advertise) -> Advertise:
        return sharing.sign(entry, self.keys[entry.sender])

    def _deliveries(self, client: Client, cohort: tuple[Member, ...]) -> Iterator[Candidate]:
        made = {member[0]: self.share(member, cohort) for member in cohort if member[0] != client.index}
        full = {node: share for node, share in made.items() if share is not None}
        for chosen in _subsets(full):
            text = f"U2 = {sorted((*chosen, client.index))}"
            yield self._delivery(client, {node: full[node] for node in chosen}, text)
        for node, share in full.items():
            if node in self.corrupt:
                for text, bad in self._bad_dealings(client, share):
                    yield self._delivery(client, {**full, node: bad}, f"U2 = all, with {text} from node {node}")
            elif node < client.index:
                text = f"U2 = all, with a pair seed forged for node {node}"
                yield self._delivery(client, {**full, node: self._forged(client, share)}, text)
                text = f"U2 = all, without the pair seed of node {node}"
                yield self._delivery(client, {**full, node: replaced(share, seeds=())}, text)
        for elsewhere in self._other_cohorts(cohort):
            for member in elsewhere:
                other = self.share(member, elsewhere)
                if other is not None and member[0] in full and client.index in [node for node, _ in elsewhere]:
                    text = f"U2 = all, with envelopes of another session from node {member[0]}"
                    yield self._delivery(client, {**full, member[0]: other}, text)

    def _other_cohorts(self, cohort: tuple[Member, ...]) -> Iterator[tuple[Member, ...]]:
        """Cohorts that share most of their members with this one: one left out, or one with other keys."""
        for at, (node, variant) in enumerate(cohort):
            yield (*cohort[:at], *cohort[at + 1 :])
            if node in self.corrupt:
                other = VARIANTS[1 - VARIANTS.index(variant)]
                yield (*cohort[:at], (node, other), *cohort[at + 1 :])

    def _forged(self, client: Client, share: Share) -> Share:
        """A pair seed of the attacker's own in an honest node's name, without a signature."""
        me, sender, session = client.index, share.sender, client.session
        seed = digest("forged pair seed", bytes([sender, me]))
        binding = session, derivations.index_bytes(sender), derivations.index_bytes(me)
        sealed = SealingPublicKey(client._cohort[me].mask_key).seal(seed, derivations.SEED_LABEL, *binding)
        commitment = derivations.commit_pair_seed(session, sender, me, seed)
        return replaced(share, seeds=(SeedEnvelope(sender, me, sealed, commitment, bytes(64)),))

    def _delivery(self, client: Client, shares: dict[int, Share], text: str) -> Candidate:
        data = encode(
            Delivery(
                client.session,
                tuple(each for share in shares.values() for each in share.shares if each.receiver == client.index),
                tuple(each for share in shares.values() for each in share.seeds if each.receiver == client.index),
            )
        )
        needs = tuple(("share", node, client.session) for node in shares if node not in self.corrupt)
        return Candidate(data, (needs,), text)

    def _bad_dealings(self, client: Client, share: Share) -> Iterator[tuple[str, Share]]:
        """What a corrupt node may seal to this one in place of the committed values."""
        at = next(place for place, each in enumerate(share.shares) if each.receiver == client.index)
        envelope = share.shares[at]
        given = self._opened(envelope, client)
        names = "mask-key share", "self-mask share", "checksum contribution"
        for place, name in zip((32, 65, 97), names, strict=True):
            content = given[:place] + bytes([given[place] ^ 1]) + given[place + 1 :]
            key = SealingPublicKey(client._cohort[client.index].channel_key)
            sealed = key.seal(content, derivations.SHARES_LABEL, *_binding(client.session, envelope))
            bad = sharing._signed(
                replaced(envelope, sealed=sealed, signature=b""), self.keys[envelope.sender], client.session
            )
            yield f"another {name}", replaced(share, shares=(*share.shares[:at], bad, *share.shares[at + 1 :]))

    def _opened(self, envelope: SharesEnvelope, client: Client) -> bytes:
        key = SealingKey(self.secrets((client.index, "A")).channel_seed())
        return key.open(envelope.sealed, derivations.SHARES_LABEL, *_binding(client.session, envelope))

    def _survivors(self, session: bytes, cohort: list[int]) -> Iterator[Candidate]:
        for chosen in _subsets(cohort):
            yield Candidate(encode(Survivors(session, chosen)), ((),), f"U3 = {list(chosen)}")

    def _agreements(self, client: Client) -> Iterator[Candidate]:
        """Signatures on every pair of sets; on the node's own, every subset of the smallest sizes that matter."""
        cohort = sorted(client._cohort)
        quorum = self.rules.quorum(len(cohort))
        made_up = tuple(Signature(node, bytes(64)) for node in client.survivors)
        text = f"made-up signatures of {list(client.survivors)}"
        yield Candidate(encode(Agreement(client.session, made_up)), ((),), text)
        for sharers in _subsets(cohort):
            for survivors in _subsets(sharers):
                own = (sharers, survivors) == (client.sharers, client.survivors)
                sizes = (quorum - 1, quorum) if own else (len(survivors),)
                for size in sizes:
                    for signers in itertools.combinations(survivors, max(size, 0)):
                        yield self._agreement(client.session, sharers, survivors, signers)

    def _agreement(
        self, session: bytes, sharers: tuple[int, ...], survivors: tuple[int, ...], signers: tuple[int, ...]
    ) -> Candidate:
        signatures = []
        for signer in signers:
            signed = sharing.sign(Agree(session, signer, sharers, survivors, b""), self.keys[signer])
            signatures.append(Signature(signer, signed.signature))
        needs = tuple(("agree", node, session, sharers, survivors) for node in signers if node not in self.corrupt)
        text = f"signatures of {list(signers)} on U2 = {list(sharers)}, U3 = {list(survivors)}"
        return Candidate(encode(Agreement(session, tuple(signatures))), (needs,), text)

    def _sums(self, client: Client, cohort: tuple[Member, ...]) -> Iterator[Candidate]:
        """Sums for which the attacker can have a fitting tag, and the tags that it can compute from a known one."""
        contributions = {
            member[0]: self.secrets(member).checksum_contribution() for member in cohort if member[0] in client.sharers
        }
        view = derivations.view_of(client.session, client.sharers)
        key = checksum.ChecksumKey(view, contributions, self.config.context.shape.ring_bits)
        colluder = not self.corrupt.isdisjoint(client.sharers)
        quorum = self.rules.quorum(len(cohort))
        for survivors in _subsets(client.sharers):
            total = sum((self.vectors[node] for node in survivors), np.zeros(1, dtype=np.int64))
            tag = key.tag(total, len(survivors))
            dropped = tuple(node for node in client.sharers if node not in survivors)
            released = [
                ("unmask", node, client.session, survivors, dropped) for node in survivors if node in self.honest
            ]
            needs: tuple[tuple[Fact, ...], ...] = tuple(itertools.combinations(released, quorum))
            own = survivors == client.survivors
            if own and colluder:
                needs = ((),)
                forged = total + 1
                text = f"a forged sum over {list(survivors)}, with a colluder's tag"
                yield self._sum(client, forged, key.tag(forged, len(survivors)), needs, text)
            elif own:
                yield self._sum(client, total + 1, tag, needs, "the sum and one more, with the same tag")
                yield self._sum(client, -total, -tag % checksum.PRIME, needs, "sum and tag negated")
            if own or not colluder:
                yield self._sum(client, total, tag, needs, f"the sum over {list(survivors)}")
        yield self._sum(client, np.zeros(1, dtype=np.int64), 0, ((),), "sum and tag zero")

    def _sum(
        self, client: Client, total: np.ndarray[Any, Any], tag: int, needs: tuple[tuple[Fact, ...], ...], text: str
    ) -> Candidate:
        shape = self.config.context.shape
        packed = encoding.pack(encoding.to_ring(total, shape, 1 << 62), shape)
        return Candidate(encode(Published(client.session, packed, checksum.encode_tag(tag))), needs, text)


def _subsets(nodes: Collection[int]) -> Iterator[tuple[int, ...]]:
    ordered = sorted(nodes)
    for size in range(len(ordered) + 1):
        yield from itertools.combinations(ordered, size)


def _with(entries: list[Advertise], at: int, other: Advertise) -> list[Advertise]:
    return [*entries[:at], other, *entries[at + 1 :]]


def _names(members: Iterable[Member]) -> str:
    return str([node if variant == "A" else f"{node} with other keys" for node, variant in members]).replace("'", "")


def _binding(session: bytes, envelope: SharesEnvelope) -> tuple[bytes, bytes, bytes]:
    return session, derivations.index_bytes(envelope.sender), derivations.index_bytes(envelope.receiver)


def _fields(context: Context) -> dict[str, Any]:
    return {name: getattr(context, name) for name in Context.__dataclass_fields__}


def _sent(event: object) -> bytes:
    if not isinstance(event, Send):
        raise TypeError(f"a message to send was expected, not {event}")
    return event.data


def _cut(root: bytes, size: int) -> bytes:
    return root[:size]
