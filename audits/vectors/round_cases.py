"""The content of `rounds.json`: every request to node 1 in openings, sessions, echoes and closings.

The reference plays two chains. On the chain of rounds 2 and 4 node 1 was absent; it took part in round 1 of the other.
Each case asks node 1 from its first start, so its answers depend only on the requests of the case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from audits.reference.notation import KDF, SHARING_PRIME, E, H, Message, idx, parse_cbor, seal, sign, unseal, unsigned
from audits.reference.state import first_state, next_state, trained_elements
from audits.reference.study import Study, filled_in
from audits.vectors import round_answers, round_ends
from audits.vectors.making import apply, flip, inside
from audits.vectors.round_world import (
    ADAPTER,
    ANSWERS,
    GONE,
    SESSION,
    SIZE,
    Asked,
    Bent,
    No,
    Other,
    World,
    bare,
    study_of_vectors,
    whole_session,
)
from audits.vectors.rounds import LAYOUT, NODE, SHARE, Rounds
from audits.vectors.transcripts import scenario_from


def make() -> Rounds:
    """Play the chains and ask node 1."""
    draws = scenario_from(
        "rounds", size=SIZE, colluders=1, dropouts=1, smallest_cohort=3, largest_element=2**20, absent={}
    )
    draws = dataclasses.replace(draws, ledger_sequences=(7, 2, 9, 11, 4))
    study = Study(filled_in(study_of_vectors(draws.round.roster)))
    at = World(study, draws, first_state(study, ADAPTER), study.digest)
    for number in (1, 2, 3, 4):
        at.opening(f"opening {number}", number)
    mine = World(study, draws, at.state, at.head, messages=at.messages)
    first = mine.play(1, {})
    for name, stage in zip(SESSION, ("share", "masked input", "agree", "unmask", "close"), strict=True):
        at.messages[name] = first.to_nodes[stage][NODE]
    mine.opening("opening 2 after 1", 2, mine.links[1])
    mine.play(3, {3: "masked input"})
    mine.closing("closing with 1, no sum", bare(mine.links[1]))
    mine.closing("closing with 1 and 3, no sums", *map(bare, mine.links.values()))
    at.play(2, {NODE: "advertise"})
    at.opening("opening 3 after 2", 3, at.links[2])
    at.play(4, {NODE: "advertise"})
    at.opening("opening 5", 5, *at.links.values())
    at.opening("opening 5, last only", 5, at.links[4])
    at.opening("opening 5, no sum", 5, bare(at.links[4]))
    at.closing("closing")
    at.closing("closing with 2", at.links[2])
    at.closing("closing with 2 and 4", *at.links.values())
    at.closing("closing with 2 and 4, no sums", *map(bare, at.links.values()))
    at.closing("closing with the first sum alone", at.links[2], bare(at.links[4]))
    at.links |= mine.links
    statement = mine.links[1]["receipt"]["statement"]
    echo = {"statement": statement, "vector": mine.links[1]["vector"]}
    at.add("echo of 1", "echo-request", **echo, signatures=[at.signature(u, statement) for u in (0, 3)])
    for ask in (_chain, _sessions, _locks, _echoes, _complaints, _claims, _openings, _bad_links, round_ends.ask):
        ask(at)
    return round_answers.added(at)


def _chain(at: World) -> None:
    """Where a node stands, and how it comes forward."""
    whole, no_sums = "closing with 2 and 4", "closing with 2 and 4, no sums"
    at.case("an opening before any round", ("opening 1", "advertise for 1"), ("opening 1", "advertise for 1"))
    at.case("a closing before any round", ("closing", "standing at 0"))
    at.case("a link with its sum", ("opening 3 after 2", "advertise for 3"), ("closing", "standing at 2"))
    at.case("two links, a void round between them", ("opening 5", "advertise for 5"), ("closing", "standing at 4"))
    at.case("the last link without its sum", ("opening 5, no sum", "standing at 0"), ("opening 5", "advertise for 5"))
    at.case("no link where one is needed", ("opening 5, last only", No("WrongSession")), ("closing", "standing at 0"))
    at.case("a sum and then none", ("closing with the first sum alone", "standing at 2"))
    at.case("links that are held", (whole, "standing at 4"), (no_sums, "standing at 4"))
    spoilt = Bent("closing with 2", _spoilt_link)
    at.case("a link that is held, spoilt", ("closing with 2", "standing at 2"), (spoilt, "standing at 2"))


def _spoilt_link(message: Message) -> None:
    message["links"][0]["vector"] = b""
    message["links"][0]["receipt"]["signatures"] = []


def _sessions(at: World) -> None:
    """A whole session of the node, and what comes after it."""
    whole = whole_session(at)
    at.case("a whole session, its lock and its receipt", *whole, ("opening 2 after 1", "advertise for 2 after 1"))
    at.case("every message twice", *[asked for asked in whole for _ in range(2)])
    at.case("an ended session stays silent", whole[0], ("delivery", No("OutOfOrder")), GONE)
    at.case("a message before any session", ("cohort", No("WrongSession")), ("closing", "standing at 0"))
    nothing = Bent("cohort", lambda message: message.update(type="Cohort"))
    at.case("what is no message changes nothing", whole[0], (nothing, No("MalformedMessage")), whole[1])
    other = Bent("opening 1", _other_dimension)
    at.case("another opening of the same round", whole[0], (other, No("Equivocation")), GONE)
    at.case("a second cohort", *whole[:2], (Bent("cohort", _one_less), No("Equivocation")), ("delivery", GONE[1]))


def _one_less(message: Message) -> None:
    message["advertisements"].pop()


def _other_dimension(message: Message) -> None:
    message["opening"]["dimension"] += 1


def _locks(at: World) -> None:
    """A node that has signed round 1 and has no receipt of it."""
    whole, released = whole_session(at), "standing at 1, released"
    at.case("locked: an offer to an older opening", *whole, ("opening 3", "offer of 1"))
    at.case("locked: an offer to a closing without links", *whole, ("closing", "offer of 1"))
    at.case("locked: its own round's receipt, sum held", *whole, ("closing with 1, no sum", released))
    at.case("locked: a link above the lock", *whole, ("closing with 1 and 3, no sums", released))
    at.case("locked: the others went on without", *whole, ("closing with 2 and 4, no sums", "standing at 0"))
    at.case("locked: overtaken", *whole, ("opening 5", "advertise for 5, overtaken"), ("closing", "standing at 4"))
    at.case("locked: an echo of what it signed", *whole, ("echo of 1", "offer of 1"))
    at.case("locked: an echo of another statement", *whole, (Bent("echo of 1", _other_state), "offer of 1"))


def _other_state(message: Message) -> None:
    message["statement"]["new_state"] = bytes(32)


def _echoes(at: World) -> None:
    """Requests to sign because others signed."""
    probe: Asked = ("closing", "standing at 0")
    statement = at.links[1]["receipt"]["statement"]
    without = dict(statement) | {"survivors": [0, 2, 3, 4]}
    later = at.links[3]["receipt"]["statement"]

    def restated(other: Message) -> Callable[[Message], None]:
        def change(message: Message) -> None:
            message.update(statement=other, signatures=[at.signature(u, other) for u in (0, 4)])

        return change

    at.case("an echo", ("echo of 1", "offer of 1"), ("echo of 1", "offer of 1"), ("closing", "offer of 1"))
    at.case(
        "an echo ends the open session",
        ("opening 1", "advertise for 1"),
        ("echo of 1", "offer of 1"),
        GONE,
    )
    for name, change, refused in (
        ("on the word of c", lambda m: m["signatures"].pop(), No("BadSignature")),
        ("with a wrong signature", inside("signatures", 0, apply("signature", flip)), No("BadSignature")),
        ("with signers out of order", lambda m: m["signatures"].reverse(), No("NotCanonical")),
        ("of another state", restated(statement | {"new_state": bytes(32)}), No("WrongSession")),
        ("of another sum", apply("vector", flip), No("WrongSession")),
        ("of a round that it was not in", restated(without), No("WrongSession")),
        ("of another study", restated(statement | {"study": bytes(32)}), No("WrongSession")),
        ("on another predecessor", restated(later), No("WrongSession")),
        ("with a quorum too low", restated(statement | {"quorum": 3}), No("WrongLength")),
        ("with a sum that is too short", apply("vector", lambda sum: sum[:-1]), No("WrongLength")),
    ):
        at.case(f"an echo {name}", (Bent("echo of 1", change), refused), probe)
    elsewhere = Bent("echo of 1", restated(statement | {"session": bytes(32)}))
    shown: list[Asked] = [("opening 1", "advertise for 1"), ("cohort", SHARE)]
    at.case("an echo of a session other than its own", *shown, (elsewhere, No("WrongSession")))
    fewer = Bent("echo of 1", _over(at, [0, 1, 2, 4]))
    agreed: list[Asked] = [*shown, *zip(SESSION[1:3], ANSWERS[1:3], strict=True)]
    at.case("an echo of survivors other than its own", *agreed, (fewer, No("WrongSession")))


def _over(at: World, survivors: list[int]) -> Callable[[Message], None]:
    """A statement that holds in itself, over other survivors, with their sum and the state that it leads to."""

    def change(message: Message) -> None:
        total = [sum(column) for column in zip(*(at.draws.vectors[u] for u in survivors), strict=True)]
        start = first_state(at.study, ADAPTER)
        of = at.study.round(1, at.study.digest, start.digest(LAYOUT), trained_elements(LAYOUT))
        packed, following = of.pack(total), next_state(at.study, start, total, survivors)
        news = {"survivors": survivors, "sum_digest": H("sum", packed), "new_state": following.digest(LAYOUT)}
        statement = message["statement"] | news
        message.update(statement=statement, vector=packed, signatures=[at.signature(u, statement) for u in (0, 4)])

    return change


def _complaints(at: World) -> None:
    """Faults of peers, by kind: the answer is a complaint, the same again, and nothing else after it."""
    joined: list[Asked] = [("opening 1", "advertise for 1")]
    shared: list[Asked] = [*joined, ("cohort", SHARE)]
    over: Asked = ("survivors", GONE[1])
    seen = {"3": at.draws.ledger_sequences[3] + 1}
    complained: list[Asked] = [("cohort", "complaint about a ledger")] * 2
    at.case("a ledger that is shorter than before", *joined, *complained, over, seen_ledgers=seen)

    def small_order(message: Message) -> None:
        ad = message["advertisements"][2]
        ad["channel_key"] = ad["channel_key"][:1184] + bytes(32)
        ad["signature"] = sign(at.draws.identities[2], "advertise", unsigned(ad))

    def beyond_modulus(message: Message) -> None:
        ad = message["advertisements"][2]
        ad["mask_key"] = b"\xff" * 3 + ad["mask_key"][3:]
        ad["signature"] = sign(at.draws.identities[2], "advertise", unsigned(ad))

    for name, change in (("X25519 key of small order", small_order), ("ML-KEM key beyond the modulus", beyond_modulus)):
        bad = Bent("cohort", change)
        at.case(f"an {name}", *joined, (bad, "complaint about a key"), (bad, "complaint about a key"), over)

    def shares(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return _resealed(at, "shares envelope", "channel", change)

    prime = SHARING_PRIME.to_bytes(33, "big")
    other_seed = _resealed(at, "pair seed envelope", "mask", flip)
    wrongs: tuple[tuple[str, str, Callable[[bytes], bytes]], ...] = (
        ("an envelope that does not open", "shares", lambda sealed: flip(sealed, 600)),
        ("a share not committed to", "shares", shares(lambda p: flip(p, 32))),
        ("a mask-key share outside the field", "shares", shares(lambda p: prime + p[33:])),
        ("a self-mask share outside the field", "shares", shares(lambda p: p[:33] + prime + p[66:])),
        ("a contribution not advertised", "shares", shares(lambda p: flip(p, 97))),
        ("a pair seed not committed to", "seeds", other_seed),
    )
    for kind, where, other in wrongs:
        wrong = Other("delivery", Bent("delivery", _signed_again(at, where, other)).data(at.messages["delivery"]))
        complaint = f"complaint about {kind}"
        at.case(kind, *shared, (wrong, complaint), (wrong, complaint), over)
    unsigned_envelope = Bent("delivery", inside("shares", 0, apply("signature", flip)))
    at.case("an envelope that its sender did not sign", *shared, (unsigned_envelope, No("BadSignature")), over)


def _resealed(at: World, purpose: str, key: str, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Other contents from node 0 to the node, rightly sealed."""
    sid = at.links[1]["receipt"]["statement"]["session"]
    info = E(purpose, sid, idx(0), idx(NODE))
    public = parse_cbor(at.messages["cohort"])["advertisements"][NODE][f"{key}_key"]
    own = KDF(at.draws.roots[NODE], f"{key} seed")
    return lambda sealed: seal(public, change(unseal(own, sealed, info)), info)


def _signed_again(at: World, field_name: str, change: Callable[[bytes], bytes]) -> Callable[[Message], None]:
    purpose = "shares envelope" if field_name == "shares" else "pair seed envelope"

    def bend(message: Message) -> None:
        envelope = message[field_name][0]
        envelope["sealed"] = change(envelope["sealed"])
        envelope["signature"] = sign(at.draws.identities[0], purpose, message["session"], unsigned(envelope))

    return bend


def _claims(at: World) -> None:
    """The claims that an owner sees; no answer depends on one."""
    wrong = at.complaint() | {"signature": bytes(64)}
    good = [at.complaint(), at.complaint(kind=6), at.complaint(round_number=3), wrong]
    good += [at.complaint(study=bytes(32))]
    findings = [{"round_number": number, "accused": 4, "kind": 9} for number in (0, 1, 2, 6, 7)]
    at.closing("closing with claims", complaints=good, findings=findings)
    others = [at.complaint(kind=7), at.complaint(accused=2), at.complaint(sender=3, accused=NODE)]
    at.opening("opening 5 with claims", 5, at.links[2], at.links[4], complaints=others, findings=findings[:3])
    at.case("claims at a closing", ("closing with claims", "standing at 0"), ("closing with claims", "standing at 0"))
    at.case("claims at an opening", ("opening 5 with claims", "advertise for 5"))
    for name, change in (
        ("a complaint of no kind", lambda m: m["faults"]["complaints"][0].update(kind=13)),
        ("a finding too many", lambda m: m["faults"]["findings"].append(findings[0])),
        ("a finding without a kind", lambda m: m["faults"]["findings"][0].pop("kind")),
        ("no faults", lambda m: m.pop("faults")),
    ):
        error = {"no faults": "MissingField", "a finding without a kind": "MissingField"}.get(name, "WrongLength")
        at.case(
            f"a closing with {name}", (Bent("closing with claims", change), No(error)), ("closing", "standing at 0")
        )


def _openings(at: World) -> None:
    """Openings that a node does not join."""
    probe: Asked = ("opening 1", "advertise for 1")
    others = {"version": 1, "dimension": 6, "ring_bits": 8} | dict.fromkeys(("study", "base_model", "state"), bytes(32))
    for name, value in others.items():
        bent = Bent("opening 1", _inside_opening(name, value))
        at.case(f"an opening with another {name}", (bent, No("WrongSession")), probe)
    for number in (0, 7, 2**53 - 1):
        bent = Bent("opening 1", _inside_opening("round_number", number))
        at.case(f"an opening of round {number}", (bent, No("WrongSession")), probe)
    elsewhere = Bent("opening 1", _inside_opening("predecessor", bytes(32)))
    at.case("an opening on another predecessor", (elsewhere, "standing at 0"), probe)
    at.case("a round below the floor", ("opening 2", "advertise for 2"), ("opening 1", No("WrongSession")))
    tries: list[Asked] = [(f"opening {number}", f"advertise for {number}") for number in (1, 2)]
    tries.append(("opening 3", "advertise for 3 on nothing"))
    at.case("a fourth round on one state", *tries, ("opening 4", No("LocalError", "itself")))
    waits, back = No("LocalError", "itself"), ("opening 5", "advertise for 5, put back")
    at.case("a node that was put back waits", ("opening 3", waits), back, restored=2)
    at.case("a node that was put back signs nothing", ("echo of 1", waits), ("closing", "standing at 0"), restored=2)
    at.case("a receipt that the ledger does not know", ("opening 2 after 1", waits), ("closing", "standing at 0"))
    for name, change, error in (
        ("a field more", lambda m: m.update(note=1), "UnknownField"),
        ("no links", lambda m: m.pop("links"), "MissingField"),
        ("links that are none", lambda m: m.update(links={}), "WrongType"),
        ("seventeen links", lambda m: m.update(links=[at.links[2]] * 17), "WrongLength"),
        ("another message in place of the opening", lambda m: m["opening"].update(type="standing"), "WrongType"),
    ):
        at.case(f"an opening with {name}", (Bent("opening 1", change), No(error)), probe)


def _inside_opening(name: str, value: Any) -> Callable[[Message], None]:
    return lambda message: message["opening"].update({name: value})


def _bad_links(at: World) -> None:
    """Links that the node does not adopt. It adopts those before a bad one."""
    probe: Asked = ("closing", "standing at 0")

    def link(place: int, change: Callable[[Message], object]) -> Bent:
        return Bent("closing with 2 and 4", lambda message: change(message["links"][place]))

    for name, change, error in (
        ("too few signatures", lambda one: one["receipt"]["signatures"].__delitem__(slice(3, None)), "BadSignature"),
        ("another sum", apply("vector", flip), "WrongSession"),
        ("a sum that is too short", apply("vector", lambda sum: sum[:-1]), "WrongSession"),
        ("a sum that is too long", apply("vector", lambda sum: sum + b"\0"), "WrongLength"),
        ("another quorum", lambda one: one["receipt"]["statement"].update(quorum=3), "WrongLength"),
        ("another kind of receipt", lambda one: one["receipt"].update(type="offer"), "WrongType"),
    ):
        at.case(f"a link with {name}", (link(0, change), No(error)), probe)
    spoilt = link(1, apply("vector", flip))
    at.case("a bad link after a good one", (spoilt, No("WrongSession")), ("closing", "standing at 2"))
    at.case(
        "links out of order", (Bent("closing with 2 and 4", lambda m: m["links"].reverse()), No("WrongSession")), probe
    )
