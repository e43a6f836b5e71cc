"""The negative vectors: one defect each, made from an honest session by changing one thing in one message.

Where a dishonest node could sign its wrong message, it does, with its recorded identity: so the named check refuses the
message, not the signature check before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from audits.reference.machines import CHECKSUM_PRIME
from audits.reference.notation import KDF, SHARING_PRIME, C, E, H, Message, idx, parse_cbor, seal, sign, unseal
from audits.vectors import AGGREGATOR, Defect, answers, honest_message
from audits.vectors.making import MAIN, SHORT, Change, Maker, Sessions, apply, flip, inside, put


def make(sessions: Sessions) -> list[Defect]:
    """All negative vectors for freshly recorded sessions."""
    makers: Iterable[Callable[[Sessions], list[Defect]]] = (
        _encoding,
        _opening,
        _cohort,
        _delivery,
        _envelope_contents,
        _survivors,
        _agreement,
        _published,
        answers.early,
        answers.late,
    )
    return [defect for maker in makers for defect in maker(sessions)]


def _encoding(sessions: Sessions) -> list[Defect]:
    """Bytes that are not a canonical message of this kind."""
    at = Maker(sessions, MAIN, "advertise", 0)
    honest, fields = at.honest, parse_cbor(at.honest)
    pairs = [C(key) + C(value) for key, value in fields.items()]
    ordered = sorted(pairs)
    head = bytes([0xA0 | len(pairs)])
    nested: Any = 0
    for _ in range(7):
        nested = [nested]
    outside = {"in_reference": False}
    dimension = C("dimension")
    return [
        at.raw("bytes after the end", honest + b"\0", "NotCanonical"),
        at.raw("last byte missing", honest[:-1], "MalformedMessage"),
        at.raw("nothing at all", b"", "MalformedMessage"),
        at.raw("more bytes than any opening has", honest + bytes(1000), "OversizedMessage"),
        at.raw("map keys out of order", head + b"".join(ordered[::-1]), "NotCanonical"),
        at.raw("a key twice", bytes([head[0] + 1]) + ordered[0] + b"".join(ordered), "NotCanonical"),
        at.raw("an indefinite length", b"\xbf" + b"".join(ordered) + b"\xff", "NotCanonical"),
        at.raw("a longer head than needed", honest.replace(dimension + b"\5", dimension + b"\x18\5"), "NotCanonical"),
        at.raw("a tag", honest.replace(dimension + b"\5", dimension + b"\xc1\5"), "WrongType"),
        at.raw("a float", honest.replace(dimension + b"\5", dimension + b"\xf9\x45\0"), "WrongType"),
        at.raw("text that is not UTF-8", honest.replace(b"opening", b"openin\xff"), "MalformedMessage"),
        at.raw("nested seven deep", C(nested), "MalformedMessage"),
        at.raw("a list for a map", C([1]), "MalformedMessage"),
        at.changed("no type", lambda m: m.pop("type"), "MalformedMessage"),
        at.changed("a field that an opening does not have", put(weights=0), "UnknownField", **outside),
        at.changed("a field missing", lambda m: m.pop("state"), "MissingField", **outside),
        at.changed("text for a number", put(round_number="1"), "WrongType", **outside),
        at.changed("true for a number", put(dimension=True), "WrongType", **outside),
        at.changed("a negative number", put(dimension=-1), "WrongLength", **outside),
        at.changed("a number of 2^53", put(round_number=2**53), "WrongLength", **outside),
        at.changed("a digest of 31 bytes", put(state=bytes(31)), "WrongLength", **outside),
    ]


def _opening(sessions: Sessions) -> list[Defect]:
    """Openings of another round than the one that the node computed."""
    at = Maker(sessions, MAIN, "advertise", 0)
    of = at.scenario.round
    other = bytes(32)
    return [
        at.changed("another version of the protocol", put(version=1), "WrongSession"),
        at.changed("another study", put(study=other), "WrongSession"),
        at.changed("another predecessor", put(predecessor=other), "WrongSession"),
        at.changed("another base model", put(base_model=other), "WrongSession"),
        at.changed("another state", put(state=other), "WrongSession"),
        at.changed("another round number", put(round_number=of.round_number + 1), "WrongSession"),
        at.changed("another length of vector", put(dimension=of.dimension + 1), "WrongSession"),
        at.changed("a smaller ring", put(ring_bits=of.ring_bits - 1), "WrongSession"),
        at.raw("survivors where the opening belongs", _early_survivors(at.sid), "OutOfOrder"),
        at.changed("a second opening", put(state=other), "Equivocation", second=True, in_reference=False),
    ]


def _early_survivors(session: bytes) -> bytes:
    return C({"type": "survivors", "session": session, "survivors": [0, 2]})


def _cohort(sessions: Sessions) -> list[Defect]:
    """Cohorts, shown to node 0, that no honest aggregator shows."""
    at = Maker(sessions, MAIN, "share", 0)

    def edit(change: Change, *, signed: bool = True, index: int = 1) -> Change:
        def change_entry(message: Message) -> None:
            entry = message["advertisements"][index]
            change(entry)
            if signed:
                at.sign(entry, "advertise")

        return change_entry

    def copy_key(message: Message) -> None:
        first, second = message["advertisements"][:2]
        second["mask_key"] = first["channel_key"]
        at.sign(second, "advertise")

    def outsider(message: Message) -> None:
        entry = message["advertisements"][1]
        at.sign(entry, "advertise", signer=2)

    alone = apply("advertisements", lambda ads: ads[:1])
    small_order = apply("channel_key", lambda key: key[:1184] + bytes(32))
    no_kem = apply("mask_key", lambda key: b"\xff" * 1184 + key[1184:])
    flipped = apply("signature", flip)

    def swapped(ad: Message) -> None:
        ad["channel_key"], ad["mask_key"] = ad["mask_key"], ad["channel_key"]

    ledgers = at.scenario.ledger_sequences
    return [
        at.changed("itself left out", lambda m: m["advertisements"].pop(0), "Excluded"),
        at.changed("its own advertisement changed", edit(put(ledger_sequence=301), index=0), "Excluded"),
        at.changed("an advertisement that its sender did not sign", edit(flipped, signed=False), "BadSignature"),
        at.changed("keys substituted", edit(swapped, signed=False), "BadSignature"),
        at.changed("an advertisement signed by somebody else", outsider, "BadSignature"),
        at.changed("an advertisement for another context", edit(put(context=bytes(32))), "WrongSession"),
        at.changed("a public key twice", copy_key, "WrongSession"),
        at.changed("a cohort below the quorum", alone, "CohortTooSmall"),
        at.changed("a cohort out of roster order", lambda m: m["advertisements"].reverse(), "NotCanonical"),
        at.changed("a node that the roster does not have", edit(put(sender=3), signed=False), "WrongLength"),
        at.changed("an X25519 key of small order", edit(small_order), "MalformedMessage", 1, in_reference=False),
        at.changed("a ML-KEM key outside the field", edit(no_kem), "MalformedMessage", 1, in_reference=False),
        at.raw(
            "a ledger shorter than before",
            at.honest,
            "WrongSession",
            1,
            seen_ledgers=(0, ledgers[1] + 1, 0),
            in_reference=False,
        ),
        at.changed("a second cohort", alone, "Equivocation", second=True, in_reference=False),
    ]


def _delivery(sessions: Sessions) -> list[Defect]:
    """Deliveries to node 2 with other envelopes than its peers': the aggregator's fault."""
    at = Maker(sessions, MAIN, "masked input", 2)
    elsewhere = parse_cbor(honest_message(at.session, "masked input", 0, AGGREGATOR))

    def reflected(message: Message) -> None:
        # Node 2's own envelope for node 0, sent back to it.
        message["shares"][0] = next(e for e in elsewhere["shares"] if e["sender"] == 2)

    flip_signature = apply("signature", flip)
    flip_sealed = apply("sealed", lambda sealed: flip(sealed, 600))
    return [
        at.changed("another session", put(session=bytes(32)), "WrongSession"),
        at.changed("shares that their sender did not sign", inside("shares", 0, flip_signature), "BadSignature"),
        at.changed("a seed that its sender did not sign", inside("seeds", 0, flip_signature), "BadSignature"),
        at.changed("sealed bytes changed on the way", inside("shares", 0, flip_sealed), "BadSignature"),
        at.changed("commitments changed on the way", inside("seeds", 0, put(commitment=bytes(32))), "BadSignature"),
        at.changed("a reflected envelope", reflected, "NotCanonical"),
        at.changed("an envelope for somebody else", inside("shares", 0, put(receiver=1)), "WrongSession"),
        at.changed("a pair seed left out", lambda m: m["seeds"].pop(), "WrongSession"),
        at.changed("a pair seed too many", lambda m: m["shares"].pop(), "WrongSession"),
        at.changed("envelopes twice", lambda m: m["shares"].insert(0, m["shares"][0]), "NotCanonical"),
        at.changed("too few sharers", put(shares=[], seeds=[]), "CohortTooSmall"),
        at.changed(
            "a second delivery",
            lambda m: m.update(shares=m["shares"][:1], seeds=m["seeds"][:1]),
            "Equivocation",
            second=True,
            in_reference=False,
        ),
    ]


def _envelope_contents(sessions: Sessions) -> list[Defect]:
    """Envelopes from node 0 to node 2 that node 0 made wrongly and signed: its provable fault."""
    at = Maker(sessions, MAIN, "masked input", 2)
    root = at.scenario.roots[2]
    names = (at.sid, idx(0), idx(2))
    mask_key = parse_cbor(at.session[1].from_nodes["advertise"][2])["mask_key"]
    channel_key = parse_cbor(at.session[1].from_nodes["advertise"][2])["channel_key"]

    def resealed(change: Callable[[bytes], bytes], commit: bool = False) -> Change:
        """Other contents for the shares envelope; with commitments that fit if `commit`."""
        purpose = "shares envelope"

        def apply(message: Message) -> None:
            envelope = message["shares"][0]
            info = E(purpose, *names)
            plaintext = change(unseal(KDF(root, "channel seed"), envelope["sealed"], info))
            envelope["sealed"] = seal(channel_key, plaintext, info)
            if commit:
                for kind, share in (("mask-key", plaintext[:33]), ("self-mask", plaintext[33:66])):
                    envelope["commitments"][kind.replace("-", "_")] = H("share commit", kind.encode(), *names, share)
            at.sign(envelope, purpose, at.sid)

        return apply

    def reseeded(plaintext: bytes, label: str = "pair seed envelope") -> Change:
        def apply(message: Message) -> None:
            envelope = message["seeds"][0]
            envelope["sealed"] = seal(mask_key, plaintext, E(label, *names))
            at.sign(envelope, "pair seed envelope", at.sid)

        return apply

    def broken(field: str, purpose: str) -> Change:
        def apply(message: Message) -> None:
            envelope = message[field][0]
            envelope["sealed"] = flip(envelope["sealed"], 600)
            at.sign(envelope, purpose, at.sid)

        return apply

    big, malformed = SHARING_PRIME.to_bytes(33, "big"), ("MalformedMessage", 0)
    pair_seed = KDF(KDF(at.scenario.roots[0], "mask seed"), "pair seed", *names)
    return [
        at.changed("shares that do not open", broken("shares", "shares envelope"), "MalformedMessage", 0),
        at.changed("a seed that does not open", broken("seeds", "pair seed envelope"), "MalformedMessage", 0),
        at.changed("a share not committed to", resealed(lambda p: flip(p, 32)), "WrongCommitment", 0),
        at.changed("another self-mask share", resealed(lambda p: flip(p, 65)), "WrongCommitment", 0),
        at.changed("a share outside the field", resealed(lambda p: big + p[33:], True), "MalformedMessage", 0),
        at.changed("a self-mask share outside it", resealed(lambda p: p[:33] + big + p[66:], True), *malformed),
        at.changed("a checksum contribution not advertised", resealed(lambda p: flip(p, 97)), "WrongCommitment", 0),
        at.changed("a pair seed not committed to", reseeded(flip(pair_seed)), "WrongCommitment", 0),
        at.changed("a seed sealed for another purpose", reseeded(pair_seed, "shares envelope"), "MalformedMessage", 0),
    ]


def _survivors(sessions: Sessions) -> list[Defect]:
    """Survivor sets that a node does not sign."""
    at, short = Maker(sessions, MAIN, "agree", 0), Maker(sessions, SHORT, "agree", 0)
    outside = {"in_reference": False}
    return [
        at.changed("survivors of another session", put(session=bytes(32)), "WrongSession"),
        short.changed("a survivor that never shared", put(survivors=[0, 1, 2]), "WrongSession"),
        at.changed("itself not among the survivors", put(survivors=[1, 2]), "Excluded"),
        at.changed("too few survivors", put(survivors=[0]), "CohortTooSmall"),
        at.changed("survivors out of order", put(survivors=[2, 0]), "NotCanonical", **outside),
        at.changed("a survivor twice", put(survivors=[0, 0, 2]), "NotCanonical", **outside),
        at.changed("a survivor outside the roster", put(survivors=[0, 3]), "WrongLength"),
        at.changed("a second survivor set", put(survivors=[0, 1, 2]), "Equivocation", second=True, **outside),
    ]


def _agreement(sessions: Sessions) -> list[Defect]:
    """Agreements against which a node releases no shares."""
    at = Maker(sessions, MAIN, "unmask", 0)
    body = {"type": "agree", "session": at.sid, "sender": 2, "sharers": [0, 1, 2], "survivors": [0, 1, 2]}

    other_sets = sign(at.scenario.identities[2], "agree", C(body))
    own_twice = apply("signatures", lambda all_of_them: all_of_them[:1] * 2)
    wrong = inside("signatures", 1, apply("signature", flip))
    by_dropped = sign(at.scenario.identities[1], "agree", C(body | {"sender": 1, "survivors": [0, 2]}))
    dropped = inside("signatures", 1, put(signer=1, signature=by_dropped))
    return [
        at.changed("an agreement of another session", put(session=bytes(32)), "WrongSession"),
        at.changed("too few signatures", lambda m: m["signatures"].pop(), "CohortTooSmall"),
        at.changed("a wrong signature", wrong, "BadSignature"),
        at.changed("a signature on other sets", inside("signatures", 1, put(signature=other_sets)), "BadSignature"),
        at.changed("a signer twice", own_twice, "NotCanonical"),
        at.changed("signers out of order", lambda m: m["signatures"].reverse(), "NotCanonical"),
        at.changed("a signer that is no survivor", dropped, "NotCanonical"),
    ]


def _published(sessions: Sessions) -> list[Defect]:
    """Sums that are not what the survivors sent."""
    at = Maker(sessions, MAIN, "close", 0)
    of = at.scenario.round
    message = parse_cbor(at.honest)
    total, tag = of.lift(of.unpack(message["vector"])), int.from_bytes(message["tag"], "big")

    def publish(vector: list[int], new_tag: int = tag) -> Change:
        return put(vector=of.pack(vector), tag=(new_tag % CHECKSUM_PRIME).to_bytes(8, "big"))

    beyond = [2 * of.largest_element + 1, *total[1:]]
    padded = message["vector"][:-1] + bytes([message["vector"][-1] | 0x80])
    return [
        at.changed("a sum of another session", put(session=bytes(32)), "WrongSession"),
        at.changed("one element more by one", publish([total[0] + 1, *total[1:]]), "WrongSum"),
        at.changed("two elements swapped", publish([total[1], total[0], *total[2:]]), "WrongSum"),
        at.changed("sum and tag zero", publish([0] * of.dimension, 0), "WrongSum"),
        at.changed("sum and tag negated", publish([-x for x in total], -tag), "WrongSum"),
        at.changed("another tag", publish(total, tag + 1), "WrongSum"),
        at.changed("a tag that is not reduced", put(tag=(tag + CHECKSUM_PRIME).to_bytes(8, "big")), "WrongSum"),
        at.changed("a sum beyond what survivors can send", publish(beyond), "WrongLength"),
        at.changed("padding bits set", put(vector=padded), "NotCanonical"),
        at.changed("a packed sum too short", put(vector=message["vector"][:-1]), "WrongLength"),
        at.changed(
            "a second sum", publish([total[0] + 1, *total[1:]]), "Equivocation", second=True, in_reference=False
        ),
    ]
