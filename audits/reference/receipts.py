"""Second implementation of a verifier of receipts: the end of section 8 of protocols/SPEC.md, with the schema of
section 2.

Like `audits.reference.machines` it shares no code with `protocols`, and is only for comparison, never for use. The
caller passes the digest of the state that a verifier would compute itself; `audits.reference.state` computes it.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from audits.reference.machines import Round
from audits.reference.notation import C, H, Message, Refused, need, parse_cbor, verify

DIGESTS = ("study", "predecessor", "context", "session", "old_state", "new_state", "sum_digest")
NUMBERS = ("round_number", "quorum")
SETS = ("cohort", "sharers", "survivors")


def verify_receipt(of: Round, rounds: int, receipt: bytes, packed: bytes, new_state: bytes) -> None:
    """Refuse anything but a receipt that comes next.

    Args:
        of: what the verifier derives for the round after its last receipt: predecessor, state, first possible number.
        rounds: the last round number of the study.
        receipt: the receipt to check.
        packed: the sum that comes with it.
        new_state: digest of the state that the verifier reaches from that sum.
    """
    message = parse_cbor(receipt)
    _need_fields(message, "type", "statement", "signatures")
    need(message["type"] == "receipt", "not a receipt")
    statement = message["statement"]
    _check_schema(of, statement, message["signatures"])
    check_statement(of, rounds, statement, packed, new_state)
    _count(of, statement, message["signatures"])


def check_statement(of: Round, rounds: int, statement: Message, packed: bytes, new_state: bytes) -> None:
    """Refuse a statement, of the right schema, that cannot come next. Checks all but signatures. As
    `verify_receipt`."""
    of_round = replace(of, round_number=statement["round_number"])
    need(of.round_number <= of_round.round_number <= rounds, "a round number out of order")
    cohort, sharers, survivors = (statement[name] for name in SETS)
    need(set(survivors) <= set(sharers) <= set(cohort), "sets that are not nested")
    for some in (cohort, sharers, survivors):
        of.need_enough(some, cohort)
    of_round.unpack(packed)
    expected = of_round.statement(statement["session"], cohort, sharers, survivors, new_state, packed)
    need(statement == expected, "a statement other than the verifier's own")


def _check_schema(of: Round, statement: Any, signatures: Any) -> None:
    _need_fields(statement, *DIGESTS, *NUMBERS, *SETS)
    need(all(_is_octets(statement[name], 32) for name in DIGESTS), "a digest that is none")
    need(all(_is_number(statement[name], 2**53) for name in NUMBERS), "a number that is none")
    for name in SETS:
        entries = statement[name]
        need(type(entries) is list and all(_is_number(u, len(of.roster)) for u in entries), "indices that are none")
        need(all(u < v for u, v in pairwise(entries)), "indices out of order")
    need(type(signatures) is list and len(signatures) <= len(of.roster), "signatures that are none")
    for one in signatures:
        _need_fields(one, "signer", "signature")
        need(_is_number(one["signer"], len(of.roster)) and _is_octets(one["signature"], 64), "no signature")


def _count(of: Round, statement: Message, signatures: list[Message]) -> None:
    """At least t of the signatures are valid, and all are by survivors, in order."""
    need(valid_signatures(of, statement, signatures) >= of.quorum(statement["cohort"]), "no quorum")


def valid_signatures(of: Round, statement: Message, signatures: list[Message]) -> int:
    """How many are valid. Refuses signers that are not survivors, in order."""
    signers = [one["signer"] for one in signatures]
    need(all(u < v for u, v in pairwise(signers)) and set(signers) <= set(statement["survivors"]), "other signers")
    valid = 0
    for one in signatures:
        try:
            verify(of.roster[one["signer"]], one["signature"], "close statement", H("statement", C(statement)))
        except Refused:
            continue
        valid += 1
    return valid


def _need_fields(message: Any, *names: str) -> None:
    need(type(message) is dict and set(message) == set(names), "other fields")


def _is_octets(value: Any, length: int) -> bool:
    return type(value) is bytes and len(value) == length


def _is_number(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below
