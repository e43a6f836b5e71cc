"""Who is said to have broken a round, and by whom: the coordinator collects it, and every node tells its owner.

A node complains about a peer's fault. The coordinator adds the faults that the aggregator finds, and sends all claims
to every node with the next opening and with the closing of the study. `protocols.complaints` says what a claim is
worth, and why nothing in the protocol follows from it. Owners see whether a claim is signed by a site, or is only the
word of the aggregator. The texts are made here, from codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from crypto.identity import Identity
from crypto.kdf import digest
from protocols.aggregator import Stage
from protocols.complaints import Complaint, Faults, Finding, complain, is_valid
from protocols.errors import BadSignature, FaultKind, MalformedMessage, ProtocolError, RemoteError, RoundVoid
from protocols.wire import Limits, decode, encode, message_type, most_map_bytes
from secfed.study.manifest import Study

TOLD_MAX = 10
"""Claims of one party about one node that an owner sees: enough to act on, too few to fill a screen or a log."""
_COMPLAINING = (Stage.SHARE, Stage.MASKED_INPUT)
"""The stages in which a node may find a peer's fault. Afterwards it has only the aggregator's messages to check."""
_DID = {
    FaultKind.KEY: "advertised a public key that cannot be sealed to",
    FaultKind.LEDGER: "showed a privacy ledger shorter than it was before",
    FaultKind.ENVELOPE: "sealed an envelope that does not open",
    FaultKind.SHARE: "dealt a share other than the committed one",
    FaultKind.SHARE_RANGE: "dealt a share that is out of range",
    FaultKind.CHECKSUM: "sealed a checksum contribution other than the committed one",
    FaultKind.PAIR_SEED: "sealed a pair seed other than the committed one",
    FaultKind.RELEASED_SHARE: "released a share other than the one it was dealt",
    FaultKind.SECRET: "dealt shares that do not give the secret it committed to",
    FaultKind.DERIVATION: "sealed a pair seed that its mask seed does not give",
    FaultKind.SIGNATURE: "sent an answer with a wrong signature",
    FaultKind.MALFORMED: "sent an answer that is not well-formed",
    FaultKind.MISPLACED: "sent an answer that belongs to another session, stage or set",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One party's word about what a node did."""

    round_number: int
    accused: int
    by: int | None
    """Who says so; None for the aggregator."""
    kind: FaultKind
    signature: bytes
    """Of the complaint, so that anybody can check it; empty for the aggregator's word."""


def what_it_did(kind: FaultKind) -> str:
    """A kind in words that follow the name of the accused."""
    return _DID[kind]


def kind_name(kind: FaultKind) -> str:
    """The name of a kind in files, such as `pair-seed`."""
    return kind.name.lower().replace("_", "-")


def told_claim(study: Study, claim: Claim) -> dict[str, str]:
    """A claim as `summary.json` holds it. `by` and `signature` are empty for the aggregator's word."""
    return {
        "accused": study.roster[claim.accused].name,
        "by": "" if claim.by is None else study.roster[claim.by].name,
        "kind": kind_name(claim.kind),
        "signature": claim.signature.hex(),
    }


class NodeClaims:
    """A node's part: complains about faults that the node found, and tells its owner what others claim."""

    def __init__(self, study: Study, index: int, identity: Identity, tell_owner: Callable[[str], None]) -> None:
        """
        Args:
            study: whose rounds and roster count.
            index: this node's.
            identity: signs its complaints.
            tell_owner: shows a line to the owner.
        """
        self._study = study
        self._index = index
        self._identity = identity
        self._tell_owner = tell_owner
        self._told: set[tuple[int, int | None, int]] = set()
        self._counts: Counter[tuple[int | None, int]] = Counter()
        self._answered = 0, b""
        self._answer = b""

    def complain(self, error: ProtocolError, round_number: int, request: bytes) -> bytes:
        """The answer to a request that ended this node's session: a complaint, the same one if asked again.

        Raises:
            ProtocolError: `error` itself, if it is not a peer's fault; then there is no answer.
        """
        asked = round_number, digest("received", request)
        if asked == self._answered:
            return self._answer
        complaint = complain(error, self._study.digest, round_number, self._index, self._identity)
        if complaint is None:
            raise error
        self._answered, self._answer = asked, encode(complaint)
        self._told.add((round_number, self._index, complaint.accused))
        accused = self._name(complaint.accused)
        self._tell_owner(
            f"round {round_number}: this node left, because {accused} {_DID[FaultKind(complaint.kind)]}, and told the "
            f"other sites so: ask {accused} what happened before the next study"
        )
        return self._answer

    def hear(self, faults: Faults, before: int) -> None:
        """Tell the owner the new claims about rounds below `before`. Drop claims that are not valid.

        Never fails, and has no effect except on the owner's lines: at most TOLD_MAX of one party about one node.
        """
        for complaint in faults.complaints:
            claim = _claim_of(complaint)
            if self._is_new(claim, before) and is_valid(complaint, self._study.digest, self._study.identities):
                self._tell(claim)
        for finding in faults.findings:
            claim = _claim_of(finding)
            if self._is_new(claim, before):
                self._tell(claim)

    def _is_new(self, claim: Claim, before: int) -> bool:
        return (
            1 <= claim.round_number < min(before, self._study.algorithm.rounds + 1)
            and (claim.round_number, claim.by, claim.accused) not in self._told
            and self._counts[claim.by, claim.accused] < TOLD_MAX
        )

    def _tell(self, claim: Claim) -> None:
        self._told.add((claim.round_number, claim.by, claim.accused))
        self._counts[claim.by, claim.accused] += 1
        last = self._counts[claim.by, claim.accused] == TOLD_MAX
        self._tell_owner(self._words(claim) + (" (no more of this will be shown)" if last else ""))

    def _words(self, claim: Claim) -> str:
        speaker = "the aggregator" if claim.by is None else self._name(claim.by)
        accused = "this node" if claim.accused == self._index else self._name(claim.accused)
        how = "says (its word only)" if claim.by is None else "says (signed)"
        if claim.accused == self._index:
            step = f"check this node's version and disk, and ask {speaker} what it received"
        elif claim.by is None:
            step = f"ask {accused} what it sent before the next study"
        else:
            step = "ask both what happened before the next study"
        return f"round {claim.round_number}: {speaker} {how} that {accused} {_DID[claim.kind]}: {step}"

    def _name(self, node: int) -> str:
        return self._study.roster[node].name


class FaultLog:
    """The coordinator's part: all claims in the study so far."""

    def __init__(self, study: Study, limits: Limits) -> None:
        self._study = study
        self._limits = limits
        self._complaints: list[Complaint] = []
        self._findings: list[Finding] = []

    def complaint(self, node: int, round_number: int, stage: Stage, answer: bytes) -> Complaint | None:
        """The answer, if it is a valid complaint of this node about this round. The node has left the round then."""
        if stage not in _COMPLAINING:
            return None
        try:
            if message_type(answer, most_map_bytes(Complaint, self._limits), node) != Complaint.TYPE:
                return None
            complaint = decode(Complaint, answer, self._limits, node)
        except ProtocolError:
            return None  # the aggregator's state machine rejects it with the reason
        if complaint.sender != node or complaint.round_number != round_number:
            return None
        if not is_valid(complaint, self._study.digest, self._study.identities):
            return None
        self._complaints.append(complaint)
        return complaint

    def rejected(self, round_number: int, fault: RemoteError) -> None:
        """Note that the aggregator rejected a node's answer."""
        self._find(round_number, fault.sender, _kind_of(fault))

    def void(self, round_number: int, error: RoundVoid) -> None:
        """Note who is to blame, if anybody, when the aggregator declares a round void."""
        for node in sorted(error.blamed):
            self._find(round_number, node, error.kind)

    def of_round(self, round_number: int) -> tuple[Claim, ...]:
        """What is claimed about one round."""
        claims = [*map(_claim_of, self._complaints), *map(_claim_of, self._findings)]
        return tuple(claim for claim in claims if claim.round_number == round_number)

    def for_nodes(self) -> Faults:
        """What every node gets: the newest complaints and findings. A node that was away gets them later."""
        size = len(self._study.roster)
        return Faults(tuple(self._complaints[-size:]), tuple(self._findings[-size:]))

    def _find(self, round_number: int, accused: int | None, kind: FaultKind | None) -> None:
        """Keep only the first finding about a node in a round: later ones are mostly consequences."""
        if accused is None or kind is None:
            return
        if all((each.round_number, each.accused) != (round_number, accused) for each in self._findings):
            self._findings.append(Finding(round_number, accused, int(kind)))


def _kind_of(fault: RemoteError) -> FaultKind:
    if fault.kind is not None:
        return fault.kind
    if isinstance(fault, BadSignature):
        return FaultKind.SIGNATURE
    return FaultKind.MALFORMED if isinstance(fault, MalformedMessage) else FaultKind.MISPLACED


def _claim_of(said: Complaint | Finding) -> Claim:
    if isinstance(said, Complaint):
        return Claim(said.round_number, said.accused, said.sender, FaultKind(said.kind), said.signature)
    return Claim(said.round_number, said.accused, None, FaultKind(said.kind), b"")
