"""Requests to node 1 outside rounds: for its attendance, and for the lasting copy of its ledger."""

from __future__ import annotations

from audits.vectors.making import put
from audits.vectors.round_world import GONE, Asked, Bent, Change, No, Other, World, whole_session
from audits.vectors.rounds import SHARE

ATTEND, HAND_OVER = "attendance request", "handover request"
NOT_OVER = No("WrongSession")
CLOSED: Asked = ("opening 1", No("WrongSession"))
"""A node joins no round of a closed study."""


def ask(at: World) -> None:
    """All of it."""
    at.add(ATTEND, "attendance-request", study=at.study.digest)
    at.add(HAND_OVER, "handover-request", study=at.study.digest)
    _attendance(at)
    _too_early(at)
    _closed(at)
    _bad_requests(at)


def _attendance(at: World) -> None:
    there: Asked = (ATTEND, "attendance")
    at.case("attendance before any round", there, there, ("opening 1", "advertise for 1"))
    at.case("attendance in a session", ("opening 1", "advertise for 1"), there, ("cohort", SHARE))
    at.case("attendance after a study", ("closing", "standing at 0"), (HAND_OVER, "handover at 0"), there)


def _too_early(at: World) -> None:
    """A study that nobody has called over, or whose last closing named another receipt."""
    early: Asked = (HAND_OVER, NOT_OVER)
    next_round: Asked = ("opening 2 after 1", "advertise for 2 after 1")
    at.case("a handover before anything", early, ("opening 1", "advertise for 1"))
    at.case("a handover in a session", ("opening 1", "advertise for 1"), early, ("cohort", SHARE))
    at.case("a handover between two rounds", *whole_session(at), early, next_round)
    at.case(
        "a handover after a closing, and a round",
        ("closing", "standing at 0"),
        ("opening 1", "advertise for 1"),
        early,
        ("cohort", SHARE),
    )
    moved: Asked = ("closing with 2 and 4", "standing at 4")
    for name, other in (("an older receipt", "closing with 2"), ("no receipt", "closing")):
        named: list[Asked] = [moved, (other, "standing at 4"), early, moved, (HAND_OVER, "handover at 4")]
        at.case(f"a handover after a closing that names {name}", *named)
    bent = Bent("opening 5", lambda message: message["opening"].update(version=1))
    at.case(
        "a handover after a closing whose sums came later",
        ("closing with 2 and 4, no sums", "standing at 0"),
        early,
        (bent, No("WrongSession")),
        (HAND_OVER, "handover at 4"),
    )
    locked: list[Asked] = [*whole_session(at), ("closing with 2 and 4, no sums", "standing at 0")]
    at.case("a handover of one that knows another round", *locked, early)


def _closed(at: World) -> None:
    """A study that ends at this node, and what is answered then."""
    over: list[Asked] = [("closing", "standing at 0"), (HAND_OVER, "handover at 0")]
    after: list[Asked] = [("closing with 1, no sum", "standing at 1, released"), (HAND_OVER, "handover at 1")]
    moved: Asked = ("closing with 2 and 4", "standing at 4")
    later: Asked = ("opening 5", No("WrongSession"))
    at.case("a handover after a round, twice", *whole_session(at), *after, after[1])
    at.case("a handover without a round", *over, over[1], CLOSED)
    at.case("a handover ends the session", ("opening 1", "advertise for 1"), *over, GONE)
    at.case("a handover, and an echo", *over, ("echo of 1", "offer of 1"))
    at.case("a handover, and links", *over, moved, (HAND_OVER, "handover at 0 and 4"), later)
    at.case("a handover, and links without a closing", *over, later, over[1])
    at.case("put back: a handover", ("closing", "standing at 0"), (HAND_OVER, "handover at 0, put back"), restored=2)
    at.case("put back: a handover later", moved, (HAND_OVER, "handover at 4, put back"), restored=2)


def _bad_requests(at: World) -> None:
    defects: tuple[tuple[str, Change, str], ...] = (
        ("about another study", put(study=bytes(32)), "WrongSession"),
        ("with a field more", put(note=1), "UnknownField"),
        ("without a study", lambda message: message.pop("study"), "MissingField"),
        ("with a study too short", put(study=bytes(31)), "WrongLength"),
        ("with a study that is a number", put(study=1), "WrongType"),
    )
    tables: tuple[tuple[str, str, list[Asked], Asked], ...] = (
        (ATTEND, "attendance", [], (ATTEND, "attendance")),
        (HAND_OVER, "handover", [("closing", "standing at 0")], ("opening 1", "advertise for 1")),
    )
    for request, kind, before, probe in tables:
        for name, change, error in defects:
            at.case(f"{kind} {name}", *before, (Bent(request, change), No(error)), probe)
        longer = Other(request, at.messages[request] + b"\0")
        at.case(f"{kind} with a byte more", *before, (longer, No("NotCanonical")), probe)
