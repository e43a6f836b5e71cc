"""What is in `rounds.json`: the study, its chain, and everything that is asked of node 1.

The reference plays two chains. On the one of rounds 2 and 4 node 1 was away; round 1 of the other has it in. Node 1 is
then asked from its first start, so that what it answers hangs on the requests of the case alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from audits.notation import KDF, C, E, H, Message, Refused, idx, parse_cbor, seal, sign, unseal, unsigned
from audits.reference_state import State, first_state, next_state, trained_elements
from audits.reference_study import Study, filled_in
from audits.transcripts import ReferenceMachines, Scenario, Transcript, play, scenario_from
from audits.vectors.making import apply, flip, inside
from audits.vectors.rounds import LAYOUT, NODE, SHARE, Case, Rounds, Step, independent_node
from audits.vectors.splices import Splice

SIZE = 5
ADAPTER = (-1.0, -0.5, 0.25, 1.0)
NO_FAULTS: Message = {"complaints": [], "findings": []}
NOTHING = Splice(0, 0, "")
SESSION = ("cohort", "delivery", "survivors", "agreement", "published")
ANSWERS = (SHARE, "masked-input", "agree", "unmask", "close")


@dataclass(frozen=True)
class No:
    """A refusal: the class of `protocols.errors`, and whose fault it names."""

    error: str
    fault: int | str = "aggregator"


@dataclass(frozen=True)
class Bent:
    """A request with one change."""

    request: str
    change: Callable[[Message], object]

    def data(self, honest: bytes) -> bytes:
        message = parse_cbor(honest)
        self.change(message)
        return C(message)


@dataclass(frozen=True)
class Other:
    """What comes in place of a request."""

    request: str
    sent: bytes

    def data(self, honest: bytes) -> bytes:
        return self.sent


Asked = tuple[str | Bent | Other, str | No]
GONE: Asked = ("cohort", No("LocalError", "itself"))
"""Nothing is answered by a session that has ended."""


def _study(identities: tuple[bytes, ...]) -> Message:
    return {
        "name": "vectors",
        "purpose": "Known answers across rounds",
        "model": {"base": "model", "digest": "sha256:" + "5" * 64, "max_length": 8},
        "task": {"labels": ["no", "yes"]},
        "lora": {"rank": 2, "alpha": 4, "targets": ["query"]},
        "algorithm": {"strategy": "fedopt-adam", "rounds": 6, "server_learning_rate": 0.05, "physical_batch": 8},
        "privacy": {
            "epsilon": 8.0,
            "delta": 1e-5,
            "noise_multiplier": 0.6422,
            "sampling_rate": 0.06,
            "clip": 0.5,
            "adaptive_clip": {"quantile": 0.6},
        },
        "cohort": {"colluders": 1, "tolerated_dropouts": 1, "minimum": 3},
        "roster": [
            {"name": f"hospital-{node}", "identity": key.hex(), "patients": 100 * (node + 1)}
            for node, key in enumerate(identities)
        ],
    }


@dataclass
class World:
    """The chain as the reference has played it, and the messages by name."""

    study: Study
    draws: Scenario
    state: State
    head: bytes
    links: dict[int, Message] = field(default_factory=dict)
    messages: dict[str, bytes] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def play(self, number: int, absent: dict[int, str]) -> Transcript:
        """A round on the chain, which goes on with its receipt."""
        of = self.study.round(number, self.head, self.state.digest(LAYOUT), trained_elements(LAYOUT))
        survivors = [u for u in range(SIZE) if absent.get(u) not in ("advertise", "share", "masked input")]
        total = [sum(column) for column in zip(*(self.draws.vectors[u] for u in survivors), strict=True)]
        following = next_state(self.study, self.state, total, survivors)
        scenario = dataclasses.replace(self.draws, round=of, absent=absent, new_state=following.digest(LAYOUT))
        transcript = play(scenario, ReferenceMachines(scenario))
        receipt = parse_cbor(transcript.receipt)
        self.links[number] = {"receipt": receipt, "vector": of.pack(total)}
        self.state, self.head = following, H("statement", C(receipt["statement"]))
        return transcript

    def opening(self, name: str, number: int, *links: Message, **faults: Any) -> None:
        """The opening of a round on the chain as it is now."""
        of = self.study.round(number, self.head, self.state.digest(LAYOUT), trained_elements(LAYOUT))
        opening = parse_cbor(of.opening())
        self.add(name, "round-opening", opening=opening, links=list(links), faults=NO_FAULTS | faults)

    def closing(self, name: str, *links: Message, **faults: Any) -> None:
        self.add(name, "study-closing", links=list(links), faults=NO_FAULTS | faults)

    def add(self, name: str, kind: str, **fields: Any) -> None:
        self.messages[name] = C({"type": kind, **fields})

    def signature(self, signer: int, statement: Message) -> Message:
        digest = H("statement", C(statement))
        return {"signer": signer, "signature": sign(self.draws.identities[signer], "close statement", digest)}

    def complaint(self, **changes: Any) -> Message:
        fields: Message = {"study": self.study.digest, "round_number": 1, "sender": 2, "accused": 0, "kind": 3}
        fields |= changes
        message = {"type": "complaint", **fields}
        return message | {"signature": sign(self.draws.identities[fields["sender"]], "complaint", C(message))}

    def case(self, name: str, *asked: Asked, **rest: Any) -> None:
        """Record a case. What is no refusal is answered by the reference, and kept under the name that is given."""
        steps = []
        for request, expected in asked:
            base = request if isinstance(request, str) else request.request
            honest = self.messages[base]
            data = honest if isinstance(request, str) else request.data(honest)
            step = Step(base, Splice.between(honest, data))
            if isinstance(expected, str):
                steps.append(dataclasses.replace(step, answer=expected))
            else:
                steps.append(dataclasses.replace(step, error=expected.error, fault=expected.fault))
        case = Case(name, tuple(steps), **rest)
        told: list[Any] = []
        node = independent_node(case, self.rounds(), told)
        for step in case.steps:
            try:
                answer = node.handle(self.rounds().request(step))
            except Refused:
                continue
            if step.answer and step.answer != SHARE and self.messages.setdefault(step.answer, answer) != answer:
                raise ValueError(f"{name}: another answer than the {step.answer} of another case")
        self.cases.append(dataclasses.replace(case, told=tuple(told)))

    def rounds(self) -> Rounds:
        draws = self.draws
        return Rounds(
            study=self.study.values,
            first_adapter=ADAPTER,
            identity=draws.identities[NODE],
            root=draws.roots[NODE],
            vector=draws.vectors[NODE],
            messages=dict(self.messages),
            cases=tuple(self.cases),
        )


def make() -> Rounds:
    """Play the chains and ask node 1."""
    draws = scenario_from(
        "rounds", size=SIZE, colluders=1, dropouts=1, smallest_cohort=3, largest_element=2**20, absent={}
    )
    draws = dataclasses.replace(draws, ledger_sequences=(7, 2, 9, 11, 4))
    study = Study(filled_in(_study(draws.round.roster)))
    at = World(study, draws, first_state(study, ADAPTER), study.digest)
    for number in (1, 2, 3, 4):
        at.opening(f"opening {number}", number)
    mine = World(study, draws, at.state, at.head, messages=at.messages)
    first = mine.play(1, {})
    for name, stage in zip(SESSION, ("share", "masked input", "agree", "unmask", "close"), strict=True):
        at.messages[name] = first.to_nodes[stage][NODE]
    mine.opening("opening 2 after 1", 2, mine.links[1])
    mine.play(3, {3: "masked input"})
    mine.closing("closing with 1, no sum", _bare(mine.links[1]))
    mine.closing("closing with 1 and 3, no sums", *map(_bare, mine.links.values()))
    at.play(2, {NODE: "advertise"})
    at.opening("opening 3 after 2", 3, at.links[2])
    at.play(4, {NODE: "advertise"})
    at.opening("opening 5", 5, *at.links.values())
    at.opening("opening 5, last only", 5, at.links[4])
    at.opening("opening 5, no sum", 5, _bare(at.links[4]))
    at.closing("closing")
    at.closing("closing with 2", at.links[2])
    at.closing("closing with 2 and 4", *at.links.values())
    at.closing("closing with 2 and 4, no sums", *map(_bare, at.links.values()))
    at.closing("closing with the first sum alone", at.links[2], _bare(at.links[4]))
    at.links |= mine.links
    statement = mine.links[1]["receipt"]["statement"]
    echo = {"statement": statement, "vector": mine.links[1]["vector"]}
    at.add("echo of 1", "echo-request", **echo, signatures=[at.signature(u, statement) for u in (0, 3)])
    for ask in (_chain, _sessions, _locks, _echoes, _complaints, _claims, _openings, _bad_links):
        ask(at)
    return at.rounds()


def _bare(link: Message) -> Message:
    """A link without its sum."""
    return link | {"vector": b""}


def _whole_session(at: World) -> list[Asked]:
    return [("opening 1", "advertise for 1"), *zip(SESSION, (SHARE, *ANSWERS[1:]), strict=True)]


def _chain(at: World) -> None:
    """Where a node stands, and how it comes forward."""
    whole, bare = "closing with 2 and 4", "closing with 2 and 4, no sums"
    at.case("an opening before any round", ("opening 1", "advertise for 1"), ("opening 1", "advertise for 1"))
    at.case("a closing before any round", ("closing", "standing at 0"))
    at.case("a link with its sum", ("opening 3 after 2", "advertise for 3"), ("closing", "standing at 2"))
    at.case("two links, a void round between them", ("opening 5", "advertise for 5"), ("closing", "standing at 4"))
    at.case("the last link without its sum", ("opening 5, no sum", "standing at 0"), ("opening 5", "advertise for 5"))
    at.case("no link where one is needed", ("opening 5, last only", No("WrongSession")), ("closing", "standing at 0"))
    at.case("a sum and then none", ("closing with the first sum alone", "standing at 2"))
    at.case("links that are held", (whole, "standing at 4"), (bare, "standing at 4"))
    spoilt = Bent("closing with 2", _spoilt_link)
    at.case("a link that is held, spoilt", ("closing with 2", "standing at 2"), (spoilt, "standing at 2"))


def _spoilt_link(message: Message) -> None:
    message["links"][0]["vector"] = b""
    message["links"][0]["receipt"]["signatures"] = []


def _sessions(at: World) -> None:
    """A whole session of the node, and what comes after it."""
    whole = _whole_session(at)
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
    whole, released = _whole_session(at), "standing at 1, released"
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
    """Asked to sign on the word of others."""
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
    wrongs: tuple[tuple[str, str, Callable[[bytes], bytes]], ...] = (
        ("an envelope that does not open", "shares", lambda sealed: flip(sealed, 600)),
        ("a share not committed to", "shares", _resealed(at, "shares envelope", "channel", 32)),
        ("a contribution not advertised", "shares", _resealed(at, "shares envelope", "channel", 97)),
        ("a pair seed not committed to", "seeds", _resealed(at, "pair seed envelope", "mask", 0)),
    )
    for kind, where, other in wrongs:
        wrong = Other("delivery", Bent("delivery", _signed_again(at, where, other)).data(at.messages["delivery"]))
        complaint = f"complaint about {kind}"
        at.case(kind, *shared, (wrong, complaint), (wrong, complaint), over)
    unsigned_envelope = Bent("delivery", inside("shares", 0, apply("signature", flip)))
    at.case("an envelope that its sender did not sign", *shared, (unsigned_envelope, No("BadSignature")), over)


def _resealed(at: World, purpose: str, key: str, place: int) -> Callable[[bytes], bytes]:
    """Other contents from node 0 to the node, rightly sealed."""
    sid = at.links[1]["receipt"]["statement"]["session"]
    info = E(purpose, sid, idx(0), idx(NODE))
    public = parse_cbor(at.messages["cohort"])["advertisements"][NODE][f"{key}_key"]
    own = KDF(at.draws.roots[NODE], f"{key} seed")
    return lambda sealed: seal(public, flip(unseal(own, sealed, info), place), info)


def _signed_again(at: World, field_name: str, change: Callable[[bytes], bytes]) -> Callable[[Message], None]:
    purpose = "shares envelope" if field_name == "shares" else "pair seed envelope"

    def bend(message: Message) -> None:
        envelope = message[field_name][0]
        envelope["sealed"] = change(envelope["sealed"])
        envelope["signature"] = sign(at.draws.identities[0], purpose, message["session"], unsigned(envelope))

    return bend


def _claims(at: World) -> None:
    """What an owner is shown of claims; no answer hangs on one."""
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
    """Links that are not adopted. Those before a bad one are."""
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
