"""The schema of every message that a node receives, and of its answers outside sessions: section 2 of protocols/SPEC.md
with the tables of sections 8 and 9.

For `audits.reference.node`. A checker takes a value, and refuses a type, length or range that differs from its table.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from audits.reference.notation import need

Check = Callable[[Any], None]
LINKS_MAX = 16
KINDS = 13
PUBLIC_KEY, SHARE, TAG = 1216, 33, 8
SEALED = 1120 + 16  # beside what is sealed


def octets(length: int, *, or_less: bool = False) -> Check:
    def check(value: Any) -> None:
        need(type(value) is bytes, "not a byte string")
        need(len(value) == length or (or_less and len(value) < length), "a byte string of another length")

    return check


def below(limit: int) -> Check:
    return lambda value: need(type(value) is int and 0 <= value < limit, "not a number in range")


def many(item: Check, most: int) -> Check:
    def check(value: Any) -> None:
        need(type(value) is list and len(value) <= most, "not a list of this kind")
        for entry in value:
            item(entry)

    return check


def fields(**checks: Check) -> Check:
    def check(value: Any) -> None:
        need(type(value) is dict and set(value) == set(checks), "other fields")
        for name, test in checks.items():
            test(value[name])

    return check


def message(kind: str, /, **checks: Check) -> Check:
    return fields(type=lambda value: need(value == kind, f"not a {kind}"), **checks)


def schema(size: int, packed: int) -> Mapping[str, Check]:
    """Name -> its check, for a roster of `size` nodes and packed vectors of this many bytes."""
    digest, signature, number, index = octets(32), octets(64), below(2**53), below(size)

    def each(item: Check) -> Check:
        return many(item, size)

    def indices(value: Any) -> None:
        each(index)(value)
        need(all(u < v for u, v in pairwise(value)), "indices out of order")

    commitments = fields(self_mask=digest, mask_key=digest)
    shares = {"sealed": octets(SEALED + 2 * SHARE + 32), "commitments": commitments}
    seeds = {"sealed": octets(SEALED + 32), "commitment": digest}
    envelopes = {
        name: each(fields(sender=index, receiver=index, **rest, signature=signature))
        for name, rest in (("shares", shares), ("seeds", seeds))
    }
    signatures = each(fields(signer=index, signature=signature))
    digests = ("study", "predecessor", "context", "session", "old_state", "new_state", "sum_digest")
    sets = ("cohort", "sharers", "survivors")
    statement = fields(
        **dict.fromkeys(digests, digest), **dict.fromkeys(sets, indices), round_number=number, quorum=number
    )
    vector, complaint = octets(packed), _complaint(digest, index, number, signature)
    finding = fields(round_number=number, accused=index, kind=below(KINDS))
    link = fields(
        receipt=message("receipt", statement=statement, signatures=signatures), vector=octets(packed, or_less=True)
    )
    across = {"links": many(link, LINKS_MAX), "faults": fields(complaints=each(complaint), findings=each(finding))}
    opening = dict.fromkeys(("study", "predecessor", "base_model", "state"), digest)
    opening |= dict.fromkeys(OPENING_NUMBERS, number)
    advertise = message(
        "advertise",
        context=digest,
        sender=index,
        **dict.fromkeys(("channel_key", "mask_key"), octets(PUBLIC_KEY)),
        **dict.fromkeys(("self_mask_commitment", "checksum_commitment"), digest),
        ledger_sequence=number,
        signature=signature,
    )
    tables: dict[str, dict[str, Check]] = {
        "cohort": {"advertisements": each(advertise)},
        "delivery": {"session": digest, **envelopes},
        "survivors": {"session": digest, "survivors": indices},
        "agreement": {"session": digest, "signatures": signatures},
        "published": {"session": digest, "vector": vector, "tag": octets(TAG)},
        "round-opening": {**across, "opening": message("opening", **opening)},
        "echo-request": {"statement": statement, "vector": vector, "signatures": signatures},
        "study-closing": across,
        "offer": {"sender": index, "statement": statement, "vector": vector, "signature": signature},
        "standing": {"sender": index, "round_number": number, "state": digest},
        "attendance-request": {"study": digest},
        "attendance": {"sender": index, "study": digest, "approval": signature},
        "handover-request": {"study": digest},
        "handover": {"sender": index, "study": digest, "ledger": octets(2**24, or_less=True)},
    }
    return {name: message(name, **table) for name, table in tables.items()} | {"complaint": complaint}


OPENING_NUMBERS = ("version", "round_number", "dimension", "ring_bits")


def _complaint(digest: Check, index: Check, number: Check, signature: Check) -> Check:
    return message(
        "complaint",
        study=digest,
        round_number=number,
        sender=index,
        accused=index,
        kind=below(KINDS),
        signature=signature,
    )
