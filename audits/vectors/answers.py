"""Negative vectors for the aggregator: answers of a node that it does not count, and why."""

from __future__ import annotations

from typing import Any

from audits.reference.machines import CHECKSUM_PRIME
from audits.reference.notation import H, Message, parse_cbor, sign
from audits.vectors import AGGREGATOR, Defect
from audits.vectors.making import MAIN, Change, Maker, Sessions, apply, flip, inside, put


def early(sessions: Sessions) -> list[Defect]:
    """Answers to the first stages that the aggregator does not count."""
    ad = Maker(sessions, MAIN, "advertise", AGGREGATOR, 1)
    share = Maker(sessions, MAIN, "share", AGGREGATOR, 1)

    def in_envelope(field: str, **values: Any) -> Change:
        def change(message: Message) -> None:
            envelope = message[field][0]
            envelope.update(values)
            at = "shares envelope" if field == "shares" else "pair seed envelope"
            share.sign(envelope, at, share.sid, signer=1)

        return change

    outside = {"in_reference": False}
    wrong = apply("signature", flip)
    bad_envelope = inside("shares", 0, put(signature=bytes(64)))
    same = put(mask_key=parse_cbor(ad.honest)["channel_key"])
    return [
        ad.changed("advertise with a wrong signature", wrong, "BadSignature"),
        ad.signed("advertise for another context", put(context=bytes(32)), "WrongSession"),
        ad.changed("advertise in another's name", put(sender=0), "MalformedMessage"),
        ad.signed("advertise with one key for both", same, "WrongSession"),
        share.changed("share with a wrong signature", wrong, "BadSignature"),
        share.signed("share of another session", put(session=bytes(32)), "WrongSession"),
        share.signed("an envelope missing", lambda m: m["shares"].pop(), "MalformedMessage", **outside),
        share.signed("a seed missing", lambda m: m["seeds"].pop(), "MalformedMessage", **outside),
        share.signed("an envelope in another's name", in_envelope("shares", sender=2), "MalformedMessage", **outside),
        share.signed("an envelope with a wrong signature", bad_envelope, "BadSignature", **outside),
        share.signed("a short envelope", in_envelope("seeds", sealed=bytes(1167)), "WrongLength", **outside),
    ]


def late(sessions: Sessions) -> list[Defect]:
    """Answers to the later stages that the aggregator does not count."""
    vector = Maker(sessions, MAIN, "masked input", AGGREGATOR, 2)
    agree = Maker(sessions, MAIN, "agree", AGGREGATOR, 2)
    unmask = Maker(sessions, MAIN, "unmask", AGGREGATOR, 2)
    close = Maker(sessions, MAIN, "close", AGGREGATOR, 2)
    packed = parse_cbor(vector.honest)["vector"]
    padded = packed[:-1] + bytes([packed[-1] | 0x80])

    def other_share(kind: str) -> Change:
        return inside(kind, 0, apply("share", lambda share: flip(share, 32)))

    other = H("statement", b"another")
    other_signature = sign(close.scenario.identities[2], "close statement", other)
    wrong = apply("signature", flip)
    unreduced = put(tag=CHECKSUM_PRIME.to_bytes(8, "big"))
    released = parse_cbor(unmask.honest)["self_mask_shares"]
    both = apply("mask_key_shares", lambda shares: [*shares, released[0]])
    outside = {"in_reference": False}
    return [
        vector.signed("a masked input with padding bits", put(vector=padded), "MalformedMessage"),
        vector.signed("a masked tag that is not reduced", unreduced, "MalformedMessage"),
        vector.changed("a masked input with a wrong signature", wrong, "BadSignature"),
        vector.signed("a masked input of another session", put(session=bytes(32)), "WrongSession"),
        agree.signed("signed other survivors", put(survivors=[0, 1, 2]), "WrongSession", **outside),
        agree.changed("agree with a wrong signature", wrong, "BadSignature"),
        unmask.signed("a self-mask share never dealt", other_share("self_mask_shares"), "WrongCommitment"),
        unmask.signed("a mask-key share never dealt", other_share("mask_key_shares"), "WrongCommitment"),
        unmask.signed("a share missing", lambda m: m["self_mask_shares"].pop(), "MalformedMessage", **outside),
        unmask.signed("both kinds of share for one node", both, "MalformedMessage", **outside),
        close.changed("closed on another statement", put(statement=other, signature=other_signature), "WrongSession"),
        close.changed("close with a wrong signature", wrong, "BadSignature"),
    ]
