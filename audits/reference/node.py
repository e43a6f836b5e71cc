"""Second implementation of a whole node: section 9 of protocols/SPEC.md around the sessions of
`audits.reference.machines`.

It keeps the chain, computes the states, and implements floor, lock, echo, attempts, adoption, repetition, restore,
complaints and claims. Like everything called `reference` it shares no code with `crypto`, `protocols`, `secfed` and
`dp`, so it can replace a node in a federation of real ones, and every difference shows. Its caller provides two things
that the SPEC does not define: the first adapter, and a function that trains.

`handle` returns the answer, and raises `Refused` where a node does not answer. `Memory` is what a real node has on
disk: a new node on the same memory is one that crashed. Only for comparison, never for use: it wipes no secret.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from audits.reference import claims
from audits.reference.ledger import Body, Ledger, Site
from audits.reference.machines import Node as Session
from audits.reference.machines import Round
from audits.reference.notation import C, H, Message, Refused, need, parse_cbor, sign
from audits.reference.receipts import check_statement, valid_signatures, verify_receipt
from audits.reference.schema import schema
from audits.reference.state import Layout, State, first_state, next_state, trained_elements
from audits.reference.study import Study

ATTEMPTS = 3
ORDER = ("cohort", "delivery", "survivors", "agreement", "published")
TYPE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz-")
Contribute = Callable[[State, int], Sequence[int]]


@dataclass
class Memory:
    """What a node has on disk."""

    floor: int = 0
    restored: int = 0
    """R of rule 7; 0 for a node that was never restored."""
    attempts: dict[bytes, int] = field(default_factory=dict)
    """State -> rounds joined on it."""
    offers: dict[int, bytes] = field(default_factory=dict)
    """Round -> the offer with what was signed for it."""
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Receipts and sums adopted."""
    peers: dict[bytes, int] = field(default_factory=dict)
    """Identity -> the largest ledger number seen."""
    ledger: list[Body] = field(default_factory=list)
    """The bodies of its entries."""


class Left(Exception):
    """This node leaves the session because of a peer's fault."""

    def __init__(self, fault: claims.Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass
class Joined:
    """A session that this node has joined."""

    of: Round
    machine: Session
    opening: Message
    advertisement: bytes
    alive: bool = True
    answers: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Kind of message -> the request and its answer."""
    complaint: tuple[bytes, bytes] = (b"", b"")


class Node:
    """One node of one study."""

    def __init__(
        self,
        study: Study,
        index: int,
        identity: bytes,
        layout: Layout,
        adapter: Sequence[float],
        contribute: Contribute,
        root: Callable[[], bytes],
        site: Site,
        *,
        memory: Memory | None = None,
        tell: Callable[[claims.Claim], None] = lambda claim: None,
    ) -> None:
        """
        Args:
            study: the study.
            index: this node's place in the roster.
            identity: its Ed25519 seed.
            layout: names and shapes of what is trained.
            adapter: the first adapter.
            contribute: trains from a state for a round; the finished vector.
            root: draws 32 bytes for a session.
            site: the decisions of its owner.
            memory: what an earlier process of this node has left on disk.
            tell: shows a claim to its owner.
        """
        self.study, self.index, self.identity, self.layout = study, index, identity, layout
        self.contribute, self.root, self.memory, self.site = contribute, root, memory or Memory(), site
        self.trained = trained_elements(layout)
        self.state, self.head, self.number = first_state(study, adapter), study.digest, 0
        self.joined: Joined | None = None
        self.machines: dict[int, Session] = {}
        self.end: bytes | None = None
        """The study's last receipt, as the last closing since it joined a round named it; without such a closing, the
        study."""
        self.ledger = Ledger(self.memory.ledger, study.digest, study.rounds, site)
        self.claims = claims.Claims(study.digest, study.rounds, study.roster, tell)
        self.kinds = schema(len(study.roster), len(self._round(1).pack([0] * study.dimension(self.trained))))
        for receipt, packed in self.memory.links:
            self._follow(parse_cbor(receipt), packed)

    def handle(self, request: bytes) -> bytes:
        """The answer to a request of the aggregator. Raises Refused if there is no answer."""
        message = parse_cbor(request)
        kind = message.get("type") if type(message) is dict else None
        need(type(kind) is str and len(kind) in range(1, 41) and set(kind) <= TYPE_LETTERS, "no message")
        if kind == "round-opening":
            self.kinds[kind](message)
            self.claims.hear(message["faults"], message["opening"]["round_number"])
            return self._open(message)
        if kind == "study-closing":
            self.kinds[kind](message)
            self.claims.hear(message["faults"], self.study.rounds + 1)
            self._adopt(message["links"])
            self.end = _head_of(message["links"][-1]) if message["links"] else self.study.digest
            return self._standing(message["links"])
        if kind == "echo-request":
            self.kinds[kind](message)
            return self._echo(message)
        if kind in ("attendance-request", "handover-request"):
            self.kinds[kind](message)
            need(message["study"] == self.study.digest, "another study")
            return self._attend() if kind == "attendance-request" else self._hand_over()
        return self._in_session(str(kind), request, message)

    # --- The chain: rule 5 -------------------------------------------------------------------------------------------

    def _round(self, number: int) -> Round:
        return self.study.round(number, self.head, self.state.digest(self.layout), self.trained)

    def _adopt(self, links: list[Message]) -> None:
        try:
            for link in links:
                statement = link["receipt"]["statement"]
                if statement["round_number"] <= self.number:
                    continue
                packed = link["vector"] or self._held(statement)
                if not packed:
                    return
                self._append(link["receipt"], packed)
        finally:
            if self.joined and self.joined.of.predecessor != self.head:
                self.joined.alive = False

    def _held(self, statement: Message) -> bytes:
        """The sum of a statement that this node has signed."""
        kept = self.memory.offers.get(statement["round_number"])
        offer = parse_cbor(kept) if kept else None
        return bytes(offer["vector"]) if offer and offer["statement"] == statement else b""

    def _append(self, receipt: Message, packed: bytes) -> None:
        statement = receipt["statement"]
        verify_receipt(self._round(self.number + 1), self.study.rounds, C(receipt), packed, statement["new_state"])
        self._after(statement, packed)
        number = statement["round_number"]
        if self.index in statement["survivors"]:
            paid = number in self.ledger.rounds("commit")
            if not paid or number in self.ledger.rounds("release"):
                need(number <= self.memory.restored, "a round that the ledger does not know, or has released")
                if not paid:
                    self.ledger.commit(number)
        self.memory.links.append((C(receipt), packed))
        self._follow(receipt, packed)

    def _follow(self, receipt: Message, packed: bytes) -> None:
        statement = receipt["statement"]
        self.state = self._after(statement, packed)
        self.head, self.number = H("statement", C(statement)), statement["round_number"]
        own = self.index in statement["survivors"] and self.number in self.ledger.rounds("commit")
        if own and self.number not in self.ledger.rounds("release"):
            self.ledger.release(self.number, self.head)

    def _after(self, statement: Message, packed: bytes) -> State:
        of = self._round(statement["round_number"])
        following = next_state(self.study, self.state, of.lift(of.unpack(packed)), statement["survivors"])
        need(following.digest(self.layout) == statement["new_state"], "the sum leads to another state")
        return following

    # --- Openings and closings ----------------------------------------------------------------------------------------

    def _unfinished(self) -> bytes | None:
        """The offer of a signed round above the last receipt."""
        last = max(self.memory.offers, default=0)
        return self.memory.offers[last] if last > self.number else None

    def _standing(self, links: list[Message]) -> bytes:
        offer = self._unfinished()
        lock = max(self.memory.offers, default=0)
        if offer and all(link["receipt"]["statement"]["round_number"] < lock for link in links):
            return offer
        fields = {"sender": self.index, "round_number": self.number, "state": self.state.digest(self.layout)}
        return C({"type": "standing", **fields})

    def _open(self, message: Message) -> bytes:
        self._adopt(message["links"])
        opening, memory, study = message["opening"], self.memory, self.study
        behind = opening["study"] == study.digest and opening["predecessor"] != self.head
        if behind or self._unfinished():
            return self._standing(message["links"])
        number, joined = opening["round_number"], self.joined
        if joined and number == joined.of.round_number:
            need(joined.alive, "the session has ended")
            joined.alive = opening == joined.opening
            need(joined.alive, "a second opening of one round")
            return joined.advertisement
        need(not self.ledger.closed, "a round of a study that is closed")
        need(memory.floor < number <= study.rounds, "a round number that is not the next")
        need(self.number >= memory.restored, "put back from a copy, and not yet past what it may have signed")
        self._commit_forgotten()
        of = self._round(number)
        need(C(opening) == of.opening(), "an opening of another round")
        attempts = memory.attempts.get(of.state, 0)
        need(attempts < ATTEMPTS, "too many rounds on one state")
        memory.floor, memory.attempts[of.state] = number, attempts + 1
        self.machines[number] = machine = Session(of, self.index, self.identity, self.root())
        self.joined = Joined(of, machine, opening, machine.advertise(of.opening(), len(memory.ledger)))
        self.end = None
        return self.joined.advertisement

    def _commit_forgotten(self) -> None:
        for number in range(1, min(self.memory.restored, self.study.rounds) + 1):
            if number not in self.ledger.rounds("commit"):
                self.ledger.commit(number)

    def _echo(self, message: Message) -> bytes:
        statement = message["statement"]
        held = self.memory.offers.get(statement["round_number"])
        if held is not None:
            return held
        of = self._round(self.number + 1)
        check_statement(of, self.study.rounds, statement, message["vector"], statement["new_state"])
        self._after(statement, message["vector"])
        self._need_as_shown(statement)
        need(self.index in statement["survivors"], "no survivor of that round")
        valid = valid_signatures(of, statement, message["signatures"])
        need(valid > self.study.colluders, "the word of too few")
        offer = self._lock(statement, message["vector"])
        if self.joined:
            self.joined.alive = False
        return offer

    def _need_as_shown(self, statement: Message) -> None:
        """Check that the statement's session, U2 and U3 are those that this node saw, as far as it got."""
        machine = self.machines.get(statement["round_number"])
        for name in ("session", "sharers", "survivors"):
            shown = getattr(machine, name, None)
            need(shown is None or shown == statement[name], f"another {name} than this node was shown")

    def _lock(self, statement: Message, packed: bytes) -> bytes:
        number = statement["round_number"]
        need(self.number >= self.memory.restored, "put back from a copy, and not yet past what it may have signed")
        need(not self._unfinished() and number > max(self.memory.offers, default=0), "locked to another round")
        signature = sign(self.identity, "close statement", H("statement", C(statement)))
        fields = {"sender": self.index, "statement": statement, "vector": packed, "signature": signature}
        self.memory.offers[number] = C({"type": "offer", **fields})
        return self.memory.offers[number]

    # --- Attendance and handover --------------------------------------------------------------------------------------

    def _attend(self) -> bytes:
        approval = sign(self.identity, "study approval", *self.study.approved_bytes(self.site.file))
        return C({"type": "attendance", "sender": self.index, "study": self.study.digest, "approval": approval})

    def _hand_over(self) -> bytes:
        if self.end == self.head:
            if self.joined:
                self.joined.alive = False
            self._commit_forgotten()
            self.ledger.close(self.number, self.state.digest(self.layout))
        need(self.ledger.closed, "the study is not over")
        copy = self.ledger.copy(self.identity)
        return C({"type": "handover", "sender": self.index, "study": self.study.digest, "ledger": copy})

    # --- A session: section 8 with rules 6 and 8 ----------------------------------------------------------------------

    def _in_session(self, kind: str, request: bytes, message: Message) -> bytes:
        joined = self.joined
        if joined is None:
            raise Refused("no session")
        if joined.complaint[0] == request:
            return joined.complaint[1]
        need(joined.alive, "the session has ended")
        joined.alive = False  # unless no error occurs
        if kind in joined.answers:
            need(joined.answers[kind][0] == request, "a second message of one kind")
        else:
            need(kind == ORDER[len(joined.answers)], "a message out of order")
            self.kinds[kind](message)
            try:
                answer: bytes = getattr(self, f"_{kind}")(joined, request, message)
            except Left as left:
                number = joined.of.round_number
                answer = claims.complaint(self.study.digest, number, self.index, left.fault, self.identity)
                joined.complaint = request, answer
                self.claims.told.add((number, self.index, left.fault[0]))
                return answer
            joined.answers[kind] = request, answer
        joined.alive = True
        return joined.answers[kind][1]

    def _need_enough(self, joined: Joined, some: Sequence[int], cohort: Sequence[int]) -> None:
        joined.of.need_enough(some, cohort)
        least = max(self.site.minimum, self.study.colluders + max(2, self.site.honest))
        need(len(some) >= least, "fewer than this site demands")

    def _cohort(self, joined: Joined, request: bytes, message: Message) -> bytes:
        ads = message["advertisements"]
        _leave(claims.fault_in_cohort(joined.of, ads, joined.advertisement, self.memory.peers))
        by_sender = {ad["sender"]: ad for ad in ads}
        self._need_enough(joined, list(by_sender), list(by_sender))
        _leave(claims.fault_in_keys(by_sender, self.index))
        answer = joined.machine.share(request)
        for u, ad in by_sender.items():
            key = self.study.roster[u]
            self.memory.peers[key] = max(ad["ledger_sequence"], self.memory.peers.get(key, 0))
        return answer

    def _delivery(self, joined: Joined, request: bytes, message: Message) -> bytes:
        machine, u = joined.machine, self.index
        need(message["session"] == machine.session, "another session")
        senders = [envelope["sender"] for envelope in message["shares"]]
        need(senders == sorted(set(senders)) and u not in senders, "senders out of order")
        need(set(senders) <= set(machine.ads), "a sender outside the cohort")
        need([envelope["sender"] for envelope in message["seeds"]] == [v for v in senders if v < u], "other seeds")
        both: list[Any] = [*message["shares"], *message["seeds"]]
        need(all(envelope["receiver"] == u for envelope in both), "an envelope for another")
        self._need_enough(joined, [*senders, u], list(machine.ads))
        _leave(claims.fault_in_delivery(machine, message))
        machine.masked_input(request, [0] * joined.of.dimension)  # repeats every check; its result is not sent
        vector = self.contribute(self.state, joined.of.round_number)
        self.ledger.commit(joined.of.round_number)
        return machine.masked_input(request, vector)

    def _survivors(self, joined: Joined, request: bytes, message: Message) -> bytes:
        self._need_enough(joined, message["survivors"], list(joined.machine.ads))
        return joined.machine.agree(request)

    def _agreement(self, joined: Joined, request: bytes, message: Message) -> bytes:
        return joined.machine.unmask(request)

    def _published(self, joined: Joined, request: bytes, message: Message) -> bytes:
        of, machine, packed = joined.of, joined.machine, message["vector"]
        following = next_state(self.study, self.state, of.lift(of.unpack(packed)), machine.survivors)
        new = following.digest(self.layout)
        answer = machine.close(request, new)
        sets = (list(machine.ads), machine.sharers, machine.survivors)
        self._lock(of.statement(machine.session, *sets, new, packed), packed)
        return answer


def _head_of(link: Message) -> bytes:
    """The digest of a link's receipt."""
    return H("statement", C(link["receipt"]["statement"]))


def _leave(fault: claims.Fault | None) -> None:
    if fault is not None:
        raise Left(fault)
