"""Second implementation of complaints and claims: rules 8 and 9 of section 9 of protocols/SPEC.md, for
`audits.reference.node`.

It finds the fault of a peer that a message shows, checking in the order that the SPEC prescribes, and the claims that a
node shows to its owner.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from audits.reference.machines import Node, Round, pair_seed_commitment, shares_commitments
from audits.reference.notation import (
    SHARING_PRIME,
    C,
    E,
    H,
    Message,
    Refused,
    idx,
    need,
    seal,
    sign,
    unseal,
    unsigned,
    verify,
)

KEY, LEDGER, ENVELOPE, SHARE, SHARE_RANGE, CHECKSUM, PAIR_SEED = range(7)
TOLD_MAX = 10
Fault = tuple[int, int]  # the accused, and the kind
Claim = tuple[int, int | None, int, int]  # round, who says so (None: the aggregator), about whom, kind


def fault_in_cohort(of: Round, ads: Sequence[Message], own: bytes, seen: Mapping[bytes, int]) -> Fault | None:
    """The first ledger that is shorter than before. First refuses faults of the aggregator."""
    need(own in [C(ad) for ad in ads], "its own advertisement is missing or changed")
    senders = [ad["sender"] for ad in ads]
    need(senders == sorted(set(senders)), "senders out of order")
    keys = [ad[key] for ad in ads for key in ("channel_key", "mask_key")]
    need(len(set(keys)) == len(keys), "a public key twice")
    for ad in ads:
        need(ad["context"] == of.context, "an advertisement for another context")
        verify(of.roster[ad["sender"]], ad["signature"], "advertise", unsigned(ad))
        if ad["ledger_sequence"] < seen.get(of.roster[ad["sender"]], 0):
            return ad["sender"], LEDGER
    return None


def fault_in_keys(ads: Mapping[int, Message], index: int) -> Fault | None:
    """The first peer to whose key this node would have to seal, but cannot."""
    for peer, ad in ads.items():
        for key in [ad["channel_key"]] * (peer != index) + [ad["mask_key"]] * (peer > index):
            try:
                seal(key, b"", b"")
            except ValueError:
                return peer, KEY
    return None


def fault_in_delivery(node: Node, delivery: Message) -> Fault | None:
    """The first fault of a sender. Refuses an envelope that its sender did not sign: the aggregator's fault."""
    for envelope in delivery["shares"]:
        kind = _of_shares(node, envelope, *_opened(node, envelope, "shares envelope", node.channel_seed))
        if kind is not None:
            return envelope["sender"], kind
    for envelope in delivery["seeds"]:
        found, seed = _opened(node, envelope, "pair seed envelope", node.mask_seed)
        v = envelope["sender"]
        if not found:
            return v, ENVELOPE
        if envelope["commitment"] != pair_seed_commitment(node.session, v, node.index, seed):
            return v, PAIR_SEED
    return None


def _opened(node: Node, envelope: Message, purpose: str, seed: bytes) -> tuple[bool, bytes]:
    v = envelope["sender"]
    verify(node.of.roster[v], envelope["signature"], purpose, node.session, unsigned(envelope))
    try:
        return True, unseal(seed, envelope["sealed"], E(purpose, node.session, idx(v), idx(node.index)))
    except Refused:
        return False, b""


def _of_shares(node: Node, envelope: Message, found: bool, plaintext: bytes) -> int | None:
    v, mask, self_mask, contribution = envelope["sender"], plaintext[:33], plaintext[33:66], plaintext[66:]
    if not found:
        return ENVELOPE
    prime = SHARING_PRIME.to_bytes(33, "big")
    if mask >= prime or self_mask >= prime:
        return SHARE_RANGE
    if envelope["commitments"] != shares_commitments(node.session, v, node.index, mask, self_mask):
        return SHARE
    commitment = H("checksum commit", idx(v), contribution)
    return None if commitment == node.ads[v]["checksum_commitment"] else CHECKSUM


def complaint(study: bytes, round_number: int, index: int, fault: Fault, identity: bytes) -> bytes:
    names = ("study", "round_number", "sender", "accused", "kind")
    fields = dict(zip(names, (study, round_number, index, *fault), strict=True)) | {"type": "complaint"}
    return C(fields | {"signature": sign(identity, "complaint", C(fields))})


class Claims:
    """The claims that a node has shown to its owner since it started."""

    def __init__(self, study: bytes, rounds: int, roster: Sequence[bytes], tell: Callable[[Claim], None]) -> None:
        self.study, self.rounds, self.roster, self.tell = study, rounds, roster, tell
        self.told: set[tuple[int, int | None, int]] = set()
        self.counts: Counter[tuple[int | None, int]] = Counter()

    def hear(self, faults: Message, before: int) -> None:
        for said in faults["complaints"]:
            if self._is_valid(said):
                self._show((said["round_number"], said["sender"], said["accused"], said["kind"]), before)
        for said in faults["findings"]:
            self._show((said["round_number"], None, said["accused"], said["kind"]), before)

    def _is_valid(self, said: Message) -> bool:
        if said["study"] != self.study or said["accused"] == said["sender"] or said["kind"] > PAIR_SEED:
            return False
        try:
            verify(self.roster[said["sender"]], said["signature"], "complaint", unsigned(said))
        except Refused:
            return False
        return True

    def _show(self, claim: Claim, before: int) -> None:
        number, by, accused, _ = claim
        fresh = (number, by, accused) not in self.told and self.counts[by, accused] < TOLD_MAX
        if fresh and 1 <= number < min(before, self.rounds + 1):
            self.told.add((number, by, accused))
            self.counts[by, accused] += 1
            self.tell(claim)
